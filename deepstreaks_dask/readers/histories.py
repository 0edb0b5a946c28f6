"""Objects with a sequence of science stamps, out of the alerts that a survey sent of each of them.

A packet brings the stamps of its own exposure only, its history (``prv_candidates``) none; the packets of one ``objectId``
together are a sequence of those exposures in which the object was detected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined, Remark
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.alerts import READER as ALERTS
from deepstreaks_dask.readers.alerts import Alert, decoded_alerts
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.readers.sequences import LAYOUT, MJD_OFFSET, Epoch, Object, batch, middle

_BATCH_OBJECTS = 256
_GAINS = {"ZTF": 6.2}  # electrons a count, of the camera (Dekany et al. 2020, PASP 132, 038001)


class AlertHistories:
    """Reader ``histories``: see :meth:`read`."""

    name = "histories"
    layout: Mapping[str, Any] = LAYOUT
    processes = True

    def sniff(self, path: Path) -> bool:
        """Return False: alerts are read one by one unless this reader is named."""
        return False

    def count(self, path: Path) -> int:
        """Count the alerts, of which there are more than objects."""
        return ALERTS.count(path)

    def read(self, path: Path, options: ReadOptions = DEFAULTS) -> Iterator[CutoutBatch]:
        """Read all alerts, and group them by ``objectId``.

        Parameters
        ----------
        path : Path
            Alerts of many nights, in files as the reader ``alerts`` takes them.
        options : ReadOptions, optional
            ``night``: of all objects; else that of each one's first epoch. A table is refused.

        Yields
        ------
        CutoutBatch
            Up to 256 objects in the order of their names, each with the middle 21 x 21 pixels of its science cutouts in
            the order of their times. In ``quarantined`` are packets as with the reader ``alerts``, and those that
            came twice.

        Raises
        ------
        ReaderError
            If there are no files.

        Notes
        -----
        Packets come night by night, objects must be whole: all stamps are in memory, 2 GB for a million alerts.
        """
        night = options.night
        if options.table is not None:
            raise ReaderError("the reader histories takes no table")
        epochs: dict[str, list[Epoch]] = {}
        places: dict[str, Mapping[str, Any]] = {}
        refused, remarks, seen = [], [], set()
        for source, found in decoded_alerts(path, executor=options.executor):
            epoch = found if isinstance(found, Refused) else _epoch(found)
            if isinstance(found, Refused) or isinstance(epoch, Refused):
                assert isinstance(epoch, Refused)
                refused.append(Quarantined(source, epoch.reason, epoch.detail, night or 0))
            elif (candid := found.columns["id"]) in seen:
                detail = f"candid {candid} came already"
                refused.append(Quarantined(source, "duplicate", detail, night or 0))
            else:
                seen.add(candid)
                name = found.columns["objectId"]
                epochs.setdefault(name, []).append(epoch)
                places.setdefault(name, found.columns)
                remarks += [Remark(what, source, detail) for what, detail in found.remarks]
        names = sorted(epochs)
        for start in range(0, max(len(names), 1), _BATCH_OBJECTS):
            some = names[start : start + _BATCH_OBJECTS]
            made = batch([_object(name, places[name], epochs[name]) for name in some], night)
            made.quarantined += refused
            made.remarks += remarks
            refused, remarks = [], []
            yield made


READER = AlertHistories()


def _epoch(alert: Alert) -> Epoch | Refused:
    columns = alert.columns
    if not columns["objectId"]:
        return Refused("no identifier", "no objectId in it")
    stamp = middle(alert.triplet[:, :, 0])
    if isinstance(stamp, Refused):
        return stamp
    return Epoch(
        stamp,
        {
            "mjd": columns["jd"] - MJD_OFFSET,
            "band": columns["filter"],
            "zero_point": alert.zero_point,
            # no "fwhm": an alert gives the width of its candidate, which is no star where it has a tail or a host
            "exposure": columns["exptime"],
            "gain": _GAINS.get(alert.survey, np.nan),
        },
    )


def _object(name: str, first: Mapping[str, Any], epochs: list[Epoch]) -> Object:
    where = {key: first[key] for key in ("ra", "dec", "mag")}
    return Object({"id": name, "source": f"alerts of {name}", **where}, epochs)
