"""Verdicts: the words, and the labels they stand for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

VERDICTS = ("keep", "ditch", "unsure", "bogus")
LENGTHS = ("long", "short")


@dataclass(frozen=True)
class Verdict:
    """What one person says of one cutout, now."""

    cutout: str
    who: str
    verdict: str = ""
    length: str = ""
    note: str = ""
    marked: bool = False
    at: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give the verdict as JSON can hold it."""
        return asdict(self)


def labels_of(said: Verdict) -> dict[str, int]:
    """Give the labels by family that one person's verdict amounts to: see :meth:`Review.labels`."""
    labels: dict[str, int] = {}
    if said.length and said.verdict != "bogus":
        labels |= {"rb": 1, "sl": int(said.length == "short")}
    if said.length == "long":
        labels["os"] = 0
    if said.verdict == "bogus":
        labels |= {"rb": 0, "kd": 0, "os": 0}
    elif said.verdict == "ditch":
        labels |= {"kd": 0, "os": 0}
    elif said.verdict == "keep":
        labels |= {"rb": 1, "kd": 1, "os": int(said.length != "long")}
    return labels


def verdict_words(said: Verdict) -> str:
    """Return a verdict and its length in words."""
    return ", ".join(filter(None, [said.verdict, said.length]))
