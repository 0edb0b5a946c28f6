"""Addresses that a server may listen on."""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
from collections.abc import Sequence

from deepstreaks_dask.errors import DeepStreaksError

LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")
"""Addresses of this machine alone."""


def is_loopback(address: str) -> bool:
    """Check whether an address can be reached from this machine alone.

    Parameters
    ----------
    address : str
        Name or number of a network interface.

    Returns
    -------
    bool
        False also for an address that does not exist.
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(address, None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(ip.split("%")[0]).is_loopback for ip in found)


def trusted_networks(proxies: Sequence[str]) -> tuple[str, ...]:
    """Check the addresses of trusted proxies.

    Parameters
    ----------
    proxies : sequence of str
        Addresses and networks; none means a proxy on this machine.

    Returns
    -------
    tuple of str
        Networks.

    Raises
    ------
    DeepStreaksError
        If one is neither an address nor a network, or all addresses would be trusted.

    Examples
    --------
    >>> trusted_networks(["172.30.77.2"])
    ('172.30.77.2/32',)
    """
    networks = []
    for proxy in proxies or LOOPBACK_NETWORKS:
        try:
            network = ipaddress.ip_network(proxy.strip())
        except ValueError as error:
            raise DeepStreaksError(
                f"--trusted-proxy {proxy}: {error}: give an address like 172.30.77.2 or a network like 172.30.77.0/24"
            ) from None
        if network.prefixlen == 0:
            raise DeepStreaksError(
                f"--trusted-proxy {proxy} trusts everybody, and so anybody could claim any address: name the proxy's own"
            )
        networks.append(str(network))
    return tuple(networks)


def address_group(address: str) -> str:
    """Return what failed log-ins are counted by: an IPv4 address, or the /64 network of an IPv6 address.

    Whoever has one IPv6 address usually has all 2**64 of its network.

    Parameters
    ----------
    address : str
        Network address, or any other text, which is returned as it is.

    Returns
    -------
    str
        The address or network.

    Examples
    --------
    >>> address_group("2001:db8:1:2:3:4:5:6")
    '2001:db8:1:2::/64'
    >>> address_group("::ffff:192.0.2.7")
    '192.0.2.7'
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


_FIRST_PERSON = 1000  # the least user number of people, by Linux's custom
_NOBODY = 65534
_NO_LOGIN = ("nologin", "false")


def other_people() -> list[str]:
    """Return the names of other people with an account on this machine, who reach its loopback interface, too.

    Returns
    -------
    list of str
        User names.
    """
    return sorted(
        user.pw_name
        for user in pwd.getpwall()
        if _FIRST_PERSON <= user.pw_uid < _NOBODY
        and user.pw_uid != os.getuid()
        and not user.pw_shell.endswith(_NO_LOGIN)
    )


def shared_machine_warning(what: str) -> str:
    """Return a line that warns where people share a machine; empty where they do not.

    Parameters
    ----------
    what : str
        What others could do there.

    Returns
    -------
    str
        The line.
    """
    people = other_people()
    if not people:
        return ""
    return f"warning: {len(people)} other people have accounts on this machine ({', '.join(people[:3])}): {what}"
