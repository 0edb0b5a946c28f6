"""Verdicts of a review: what reviewers say of cutouts, and the labels that follow.

A verdict is never changed: an *act* is added, and the last act of a person on a cutout that was not undone is that person's
verdict.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.orm import Session

from deepstreaks_dask.review.people import ReviewError
from deepstreaks_dask.review.rows import get_user, person_from_row
from deepstreaks_dask.review.schema import MAX_NOTE_LENGTH, ActRow, UserRow, current_time, iso_time
from deepstreaks_dask.review.transactions import Database, log
from deepstreaks_dask.vocabulary import (
    FAMILIES,
    LABEL_COLUMNS,
    LENGTHS,
    VERDICTS,
    LengthWord,
    Role,
    VerdictWord,
)

_MAX_IDS_PER_STATEMENT = 500  # of a database's limit of variables


@dataclass(frozen=True)
class Verdict:
    """What one person says of one cutout.

    Attributes
    ----------
    cutout : str
        Identifier of the cutout.
    who : str
        User name.
    verdict : str
        One of :data:`~deepstreaks_dask.vocabulary.VERDICTS`, or empty.
    length : str
        One of :data:`~deepstreaks_dask.vocabulary.LENGTHS`, or empty: how long the streak looks.
    note : str
        Free text.
    marked : bool
        Whether the cutout is marked for submission.
    at : str
        Time of the last act, ISO 8601, UTC; empty if there is none.
    """

    cutout: str
    who: str
    verdict: str = ""
    length: str = ""
    note: str = ""
    marked: bool = False
    at: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as a dictionary that JSON can hold."""
        return asdict(self)

    def labels(self) -> dict[str, int]:
        """Return the labels, 0 or 1, that follow from this verdict, by family: see :meth:`Verdicts.labels`."""
        labels: dict[str, int] = {}
        if self.length and self.verdict != VerdictWord.BOGUS:
            labels |= {"rb": 1, "sl": int(self.length == LengthWord.SHORT)}
        if self.length == LengthWord.LONG:
            labels["os"] = 0
        if self.verdict == VerdictWord.BOGUS:
            labels |= {"rb": 0, "kd": 0, "os": 0}
        elif self.verdict == VerdictWord.DITCH:
            labels |= {"kd": 0, "os": 0}
        elif self.verdict == VerdictWord.KEEP:
            labels |= {"rb": 1, "kd": 1, "os": int(self.length != LengthWord.LONG)}
        return labels

    def words(self) -> str:
        """Return the verdict and the length as text."""
        return ", ".join(filter(None, [self.verdict, self.length]))


class Verdicts:
    """The verdicts of a review.

    Parameters
    ----------
    database : Database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def judge(
        self,
        archive: str,
        cutout: str,
        name: str,
        *,
        verdict: str | None = None,
        length: str | None = None,
        note: str | None = None,
        marked: bool | None = None,
    ) -> Verdict:
        """Add what a person says of a cutout; what is None stays as this person had it.

        Parameters
        ----------
        archive : str
            Name of the archive in the database.
        cutout : str
            Identifier of the cutout. The caller checks that the archive has it.
        name : str
            User name of a reviewer.
        verdict : str, optional
            One of :data:`~deepstreaks_dask.vocabulary.VERDICTS`, or empty for none.
        length : str, optional
            One of :data:`~deepstreaks_dask.vocabulary.LENGTHS`, or empty for none.
        note : str, optional
            Free text.
        marked : bool, optional
            Whether the cutout is marked for submission to the Minor Planet Center.

        Returns
        -------
        Verdict
            The person's verdict after this act.

        Raises
        ------
        RefusedError
            If this person may not judge.
        ReviewError
            If the verdict, length or note is invalid, or there is no such user.
        """
        for value, known in ((verdict, VERDICTS), (length, LENGTHS)):
            if value and value not in known:
                raise ReviewError(f"verdict {value!r}: choose one of {', '.join(known)}")
        if note is not None and len(note) > MAX_NOTE_LENGTH:
            raise ReviewError(
                f"a note of {len(note):,} characters: {MAX_NOTE_LENGTH:,} is the most"
            )
        if note is not None and "\0" in note:
            raise ReviewError("a note cannot hold a NUL character")
        # The lock is needed since what is None is taken from the act before.
        with self._database.write(f"judge {name}") as session:
            user = _reviewer(session, name)
            last = session.scalar(_standing_acts(archive, cutout=cutout, user=user.id))
            act = ActRow(
                archive=archive,
                cutout=cutout,
                user=user.id,
                verdict=str(verdict) if verdict is not None else last.verdict if last else "",
                length=str(length) if length is not None else last.length if last else "",
                note=note if note is not None else last.note if last else "",
                marked=marked if marked is not None else last.marked if last else False,
                at=current_time(),
                undone=False,
            )
            session.add(act)
            session.flush()
            given = _verdict_from_row(act, name)
            log(session, name, "verdict", f"{cutout}: {given.words() or 'none'}")
            return given

    def undo(self, archive: str, name: str) -> Verdict:
        """Undo the last act of a person in an archive.

        Parameters
        ----------
        archive : str
            Name of the archive in the database.
        name : str
            User name of a reviewer.

        Returns
        -------
        Verdict
            The person's verdict on that cutout after the act is undone.

        Raises
        ------
        RefusedError
            If this person may not judge.
        ReviewError
            If there is nothing to undo.
        """
        with self._database.write(f"judge {name}") as session:
            user = _reviewer(session, name)
            act = session.scalar(
                sa.select(ActRow)
                .where(ActRow.archive == archive, ActRow.user == user.id, ~ActRow.undone)
                .order_by(ActRow.id.desc())
                .limit(1)
            )
            if act is None:
                raise ReviewError("there is nothing to undo")
            act.undone = True
            log(session, name, "verdict undone", act.cutout)
            last = session.scalar(_standing_acts(archive, cutout=act.cutout, user=user.id))
            return _verdict_from_row(last, name) if last else Verdict(act.cutout, name)

    def withdraw(self, archive: str, cutouts: Collection[str]) -> int:
        """Undo all acts of all people on some cutouts; they stay in the database.

        Parameters
        ----------
        archive : str
            Name of the archive in the database.
        cutouts : collection of str
            Identifiers of cutouts.

        Returns
        -------
        int
            Number of acts that were undone now.
        """
        names = sorted(set(cutouts))
        undone = 0
        with self._database.write("withdraw verdicts") as session:
            for first in range(0, len(names), _MAX_IDS_PER_STATEMENT):
                some = names[first : first + _MAX_IDS_PER_STATEMENT]
                acts = session.scalars(
                    sa.select(ActRow).where(
                        ActRow.archive == archive, ActRow.cutout.in_(some), ~ActRow.undone
                    )
                )
                for act in acts:
                    act.undone = True
                    undone += 1
        return undone

    def current(self, archive: str, cutout: str | None = None) -> list[Verdict]:
        """Return the current verdicts on all cutouts of an archive or on one, the oldest first.

        Parameters
        ----------
        archive : str
            Name of the archive in the database.
        cutout : str, optional
            Identifier of the cutout; all cutouts by default.

        Returns
        -------
        list of Verdict
            One for each person and cutout.
        """
        with self._database.read() as session:
            names = dict(session.execute(sa.select(UserRow.id, UserRow.name)).all())
            acts = session.scalars(_standing_acts(archive, cutout=cutout))
            return [_verdict_from_row(act, names[act.user]) for act in acts]

    def marked(self, archive: str) -> set[str]:
        """Return the cutouts of an archive to export: marked for submission, not ditched by who marked, not disputed.

        Parameters
        ----------
        archive : str
            Name of the archive in the database.

        Returns
        -------
        set of str
            Identifiers of cutouts.
        """
        verdicts = self.current(archive)
        marked = {v.cutout for v in verdicts if v.marked and v.verdict != VerdictWord.DITCH}
        return marked - set(_disagreements(verdicts)["cutout"])

    def disagreements(self, archive: str) -> pd.DataFrame:
        """Return the cutouts on which people disagree.

        Parameters
        ----------
        archive : str
            Name of the archive in the database.

        Returns
        -------
        DataFrame
            A row for each cutout and family: ``cutout``, ``family``, and ``says``, what each person says by user name.
        """
        return _disagreements(self.current(archive))

    def labels(self, archive: str) -> pd.DataFrame:
        """Return the labels of each family that follow from the verdicts on an archive.

        ``bogus`` is rb 0, kd 0 and os 0. ``keep`` is rb 1, kd 1 and, unless the same person says long, os 1.
        ``ditch`` is kd 0 and os 0. ``long`` is rb 1, sl 0 and os 0; ``short`` is rb 1 and sl 1; both, but for os, unless
        the same person says bogus. ``unsure`` gives no label. Where two people's labels of a family differ, that family of
        that cutout gets no label (-1) until they agree, and is counted in ``disputed``: a majority of two against one is
        no truth.

        Parameters
        ----------
        archive : str
            Name of the archive in the database.

        Returns
        -------
        DataFrame
            A row for each judged cutout, by id: ``label_rb`` … ``label_os``, int8, 1, 0 or -1; ``people``, the number of
            people whose verdicts give labels; ``disputed``, the number of families in dispute.
        """
        table = _label_table(self.current(archive))
        grouped = table.groupby(["cutout", "family"])["label"].agg(["min", "max"])
        agreed = grouped["min"].where(grouped["min"] == grouped["max"], -1).unstack("family")
        labels = agreed.reindex(columns=list(FAMILIES)).fillna(-1).astype(np.int8)
        disputed = (grouped["min"] != grouped["max"]).groupby("cutout").sum().astype(int)
        people = table.groupby("cutout")["who"].nunique()
        labels.columns = pd.Index(LABEL_COLUMNS)
        labels.index.name = "id"
        return labels.assign(people=people, disputed=disputed)


def _label_table(verdicts: list[Verdict]) -> pd.DataFrame:
    """Return one row for each label that one person's verdict gives."""
    rows = [
        (one.cutout, one.who, family, label, one.words())
        for one in verdicts
        for family, label in one.labels().items()
    ]
    return pd.DataFrame(rows, columns=["cutout", "who", "family", "label", "says"])


def _disagreements(verdicts: list[Verdict]) -> pd.DataFrame:
    rows = []
    for (cutout, family), group in _label_table(verdicts).groupby(["cutout", "family"], sort=True):
        if group["label"].nunique() > 1:
            says = {str(w): str(s) for w, s in zip(group["who"], group["says"], strict=True)}
            rows.append({"cutout": cutout, "family": family, "says": says})
    return pd.DataFrame(rows, columns=["cutout", "family", "says"])


def _reviewer(session: Session, name: str) -> UserRow:
    """Return the row of a user who may judge."""
    user = get_user(session, name)
    person_from_row(user).need(Role.REVIEWER)
    return user


def _standing_acts(archive: str, *, cutout: str | None = None, user: int | None = None) -> Any:
    """Return the query of each person's last act on each cutout that was not undone."""
    last = sa.select(sa.func.max(ActRow.id)).where(ActRow.archive == archive, ~ActRow.undone)
    if cutout is not None:
        last = last.where(ActRow.cutout == cutout)
    if user is not None:
        last = last.where(ActRow.user == user)
    last = last.group_by(ActRow.cutout, ActRow.user)
    return sa.select(ActRow).where(ActRow.id.in_(last)).order_by(ActRow.id)


def _verdict_from_row(act: ActRow, name: str) -> Verdict:
    return Verdict(
        act.cutout, name, act.verdict, act.length, act.note, bool(act.marked), iso_time(act.at)
    )
