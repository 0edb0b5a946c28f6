"""Names of filters, as observatories write them, brought to one spelling."""

from __future__ import annotations

import re

_ZTF_NUMBERS = {"1": "g", "2": "r", "3": "i"}
_SYSTEMS = (
    "sdss|sloan|ztf|ps1|ps|panstarrs|pan-starrs|lsst|des|decam|skymapper|atlas|ptf|megacam|hsc|gaia|bok|lco|goto|"
    "2mass|ukidss|vista|bessell?|johnson|cousins|harris|kron|stromgren"
)
_SYSTEM_FIRST = re.compile(
    rf"(?P<system>{_SYSTEMS})[\s_.:/-]*(?P<band>[A-Za-z]{{1,2}})(?:'|_?prime)?", re.I
)
_BAND_FIRST = re.compile(
    rf"(?P<band>[A-Za-z]{{1,2}})(?:'|_?prime)?[\s_.:/(-]*(?P<system>{_SYSTEMS})(?:[\s_.:/)-].*)?",
    re.I,
)
_BARE = re.compile(r"(?P<band>[A-Za-z])(?:'|p|s|_?prime)?(?:[._ ]?(?:0+|MP\d+)|[\s_-]?band)?")
_BANDS = frozenset("ugrizyUBVRIJHKYGLCwocZ")
_VEGA_SYSTEMS = ("bess", "john", "cous", "harr", "kron", "2mas", "ukid", "vist", "gaia")
_WHITE = re.compile(r"clear|open|none|white|lum(inance)?|unfiltered", re.I)


def band_name(text: str) -> tuple[str, bool]:
    """Return the band that a filter's name stands for, and whether the name was understood.

    Parameters
    ----------
    text : str
        As a header or a table has it: ``SDSS r``, ``ZTF_r``, ``ZTF R``, ``r.00000``, ``r DECam SDSS c0002``, ``r'``,
        and ZTF's numbers 1, 2 and 3.

    Returns
    -------
    str
        Such as ``r``: ``g``, ``r`` and ``i`` in lower case but those of Johnson's and like systems. A name that is not
        understood is returned as it is, at most 40 characters of it.
    bool
        Whether it was understood.

    Examples
    --------
    >>> band_name("SDSS r"), band_name("Bessell R"), band_name("ND 4.0")
    (('r', True), ('R', True), ('ND 4.0', False))
    """
    name = " ".join(text.split())
    if re.fullmatch(r"[123](\.0*)?", name):
        return _ZTF_NUMBERS[name[0]], True
    if re.fullmatch(r"z[gri]", name):  # as ZTF's archive at IRSA and ADES name them
        return name[1], True
    if name.lower().startswith("ztf") and name[3:].strip(" _-") in _ZTF_NUMBERS:
        return _ZTF_NUMBERS[name[-1]], True
    if _WHITE.fullmatch(name):
        return name[:40].lower(), True
    for pattern in (_SYSTEM_FIRST, _BAND_FIRST, _BARE):
        match = pattern.fullmatch(name)
        if match is None:
            continue
        groups, band = match.groupdict(), match["band"]
        if len(band) == 2 and band[1].lower() in "psc":  # rp, rs, Rc
            band = band[0]
        system = (groups.get("system") or "").lower()
        if band not in _BANDS:
            continue
        vega = system.startswith(_VEGA_SYSTEMS)
        return (band.lower() if band in "GRI" and not vega else band), True
    return name[:40], False
