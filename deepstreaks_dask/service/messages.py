"""The messages of the service: new candidates, a night's numbers, a night that is given up."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from deepstreaks_dask.service.outbox import Message

MAX_LISTED = 20
"""Candidates that a message lists; it says how many more there are."""


@dataclass(frozen=True)
class Writer:
    """Writes messages.

    Attributes
    ----------
    archive : str
        Name of the archive, for people.
    site : str
        Address of the review, like ``https://streaks.example.org``; empty if there is none.
    """

    archive: str
    site: str = ""

    def candidates(self, found: Sequence[Mapping[str, Any]], run: str) -> Message:
        """Write about new candidates.

        Parameters
        ----------
        found : sequence of mapping
            Columns of each: ``id``, ``night``, ``scores``, and ``ra``, ``dec``, ``mag``, ``filter`` where known.
        run : str
            That decided.

        Returns
        -------
        Message
            The surest are listed first, by the lowest of their scores.
        """
        ids = sorted(str(one["id"]) for one in found)
        nights = sorted({int(one["night"]) for one in found})
        what = f"{len(ids)} new candidate{'s' if len(ids) > 1 else ''}"
        when = _spelt(nights[0]) if len(nights) == 1 else f"{len(nights)} nights"
        ranked = sorted(found, key=lambda one: (-min(one["scores"].values(), default=0), one["id"]))
        lines = [f"{what} of {when} in {self.archive}, at or above the thresholds of run {run}:"]
        lines += [self._line(one) for one in ranked[:MAX_LISTED]]
        if len(ids) > MAX_LISTED:
            lines.append(f"… and {len(ids) - MAX_LISTED} more")
        return Message(_key("candidates", ids), f"{what} of {when}", self._linked(lines))

    def scored(self, night: int, numbers: Mapping[str, int], run: str) -> Message:
        """Write about a night that is scored.

        Parameters
        ----------
        night : int
            YYYYMMDD.
        numbers : mapping of str to int
            ``files``, ``cutouts``, ``candidates`` and ``quarantined``.
        run : str
            That decided.

        Returns
        -------
        Message
            With another key if the numbers are others.
        """
        told = {name: int(numbers[name]) for name in sorted(numbers) if name != "waiting"}
        said = ", ".join(
            f"{told[name]} {name}" for name in ("files", "cutouts", "candidates", "quarantined")
        )
        lines = [f"Night {_spelt(night)} is scored in {self.archive} by run {run}: {said}."]
        subject = f"{_spelt(night)}: {told['cutouts']} cutouts, {told['candidates']} candidates"
        return Message(_key("night", [night, *told.items()]), subject, self._linked(lines))

    def given_up(self, night: int, why: str) -> Message:
        """Write about a night that is given up.

        Parameters
        ----------
        night : int
            YYYYMMDD.
        why : str
            What was missing.

        Returns
        -------
        Message
            The same for the same reason.
        """
        lines = [
            f"Night {_spelt(night)} is given up: {why}.",
            f"To look at it again: deepstreaks watch … --night {night}",
        ]
        return Message(
            _key("given up", [night, why]), f"{_spelt(night)} is given up", "\n".join(lines)
        )

    def _line(self, one: Mapping[str, Any]) -> str:
        parts = [str(one["id"])]
        ra, dec, mag = (_number(one.get(name)) for name in ("ra", "dec", "mag"))
        if ra is not None and dec is not None:
            parts.append(f"RA {ra:.5f} Dec {dec:+.5f}")
        if mag is not None:
            parts.append(f"mag {mag:.1f}")
        if one.get("filter"):
            parts.append(f"filter {one['filter']}")
        parts.append(" ".join(f"{name} {score:.2f}" for name, score in one["scores"].items()))
        if self.site:
            parts.append(f"{self.site}/api/v1/streak?id={quote(str(one['id']), safe='')}")
        return "- " + ", ".join(part for part in parts if part)

    def _linked(self, lines: list[str]) -> str:
        return "\n".join([*lines, f"{self.site}/review"] if self.site else lines)


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _spelt(night: int) -> str:
    text = f"{night:08d}"
    return f"{text[:4]}-{text[4:6]}-{text[6:]}"


def _key(kind: str, parts: Iterable[object]) -> str:
    """Return a key that is the same for the same message, after a kill too."""
    return hashlib.sha256("\n".join([kind, *map(str, parts)]).encode()).hexdigest()[:32]
