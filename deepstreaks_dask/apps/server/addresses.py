"""Addresses that a server may listen on."""

from __future__ import annotations

import ipaddress
import socket


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
