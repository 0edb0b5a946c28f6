"""What a site serves, and where it listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SiteOptions:
    """What a site shows of an archive.

    Attributes
    ----------
    run : str
        Name of the run that is shown first.
    database : str, optional
        SQLAlchemy's URL of the review database; by default a SQLite file beside the archive.
    thresholds : mapping of str to float, optional
        Thresholds by member or family; by default those that the run was scored for.
    zoo : str, optional
        Path or URL of the zoo of new campaigns and of attribution maps; the shipped zoo by default.
    """

    run: str = "default"
    database: str | None = None
    thresholds: Mapping[str, float] | None = None
    zoo: str | None = None


@dataclass(frozen=True)
class Listener:
    """Where a server listens.

    Attributes
    ----------
    address : str
        Network address of this machine; other machines cannot reach the default.
    port : int
        TCP port; 0 takes a free port.
    origin : str, optional
        Address that people type, ``https://…``, where a reverse proxy forwards to this server.
    trusted_proxies : sequence of str
        Addresses and networks, such as ``10.0.0.0/8``, of proxies whose ``X-Forwarded-For`` is believed. By default a proxy
        on this machine; without ``origin`` none is.
    show : bool
        Whether to open a browser.
    """

    address: str = "127.0.0.1"
    port: int = 5006
    origin: str | None = None
    trusted_proxies: Sequence[str] = ()
    show: bool = False
