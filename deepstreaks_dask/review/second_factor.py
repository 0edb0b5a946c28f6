"""One-time passwords (TOTP, RFC 6238) beside the password, and recovery codes for a lost device."""

from __future__ import annotations

import base64
import hmac
import secrets
from dataclasses import dataclass

import pyotp
import sqlalchemy as sa
from sqlalchemy.orm import Session

from deepstreaks_dask.review.people import RefusedError, ReviewError
from deepstreaks_dask.review.rows import get_user
from deepstreaks_dask.review.schema import FactorRow, RecoveryRow, UserRow, current_time, digest
from deepstreaks_dask.review.transactions import Database, log

RECOVERY_CODES = 10
"""Recovery codes of a user."""

_ISSUER = "DeepStreaks"
_STEP_SECONDS = 30
_CODE_BYTES = 10  # of a recovery code: too many to try, so that a plain hash is enough
_DRIFT_STEPS = (-1, 0, 1)  # a phone's clock may be half a minute off


class CodeNeededError(RefusedError):
    """Name and password are right, and a one-time password is needed, too."""

    def __init__(self) -> None:
        super().__init__("enter the one-time password of your authenticator, or a recovery code")


@dataclass(frozen=True)
class NewFactor:
    """A secret to enter into an authenticator.

    Attributes
    ----------
    secret : str
        The secret in base32.
    uri : str
        The same as ``otpauth://…``, for a QR code.
    """

    secret: str
    uri: str


class SecondFactors:
    """One-time passwords of a review's users.

    Parameters
    ----------
    database : Database
        Where their secrets are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin_factor(self, name: str) -> NewFactor:
        """Make a secret for a user's authenticator; it counts once :meth:`confirm_factor` has seen a code of it.

        Parameters
        ----------
        name : str
            User name.

        Returns
        -------
        NewFactor
            The secret.

        Raises
        ------
        ReviewError
            If the user has one-time passwords already.
        """
        secret = pyotp.random_base32()
        with self._database.write(f"factor {name}") as session:
            user = get_user(session, name)
            if has_factor(session, user):
                raise ReviewError("one-time passwords are on already: turn them off first")
            session.execute(sa.delete(FactorRow).where(FactorRow.user == user.id))
            session.add(FactorRow(user=user.id, secret=secret, confirmed=False, step=0))
        uri = pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=_ISSUER)
        return NewFactor(secret, uri)

    def confirm_factor(self, name: str, code: str) -> list[str]:
        """Turn one-time passwords on.

        Parameters
        ----------
        name : str
            User name.
        code : str
            A code of the authenticator, which shows that the secret has arrived there.

        Returns
        -------
        list of str
            Recovery codes, each for one log-in without the authenticator. The database holds their hashes only.

        Raises
        ------
        ReviewError
            If no secret was made, or the code is not one of it.
        """
        codes = [_recovery_code() for _ in range(RECOVERY_CODES)]
        with self._database.write(f"factor {name}") as session:
            user = get_user(session, name)
            factor = session.get(FactorRow, user.id)
            if factor is None or factor.confirmed:
                raise ReviewError("begin anew: there is no secret to confirm")
            if not _use_code(factor, code):
                raise ReviewError("this is not the code that the authenticator shows now")
            factor.confirmed = True
            session.execute(sa.delete(RecoveryRow).where(RecoveryRow.user == user.id))
            session.add_all(RecoveryRow(user=user.id, hash=digest(_plain(one))) for one in codes)
            log(session, name, "one-time passwords on", name)
        return codes

    def remove_factor(self, name: str, code: str) -> None:
        """Turn one-time passwords off.

        Parameters
        ----------
        name : str
            User name.
        code : str
            A one-time password or a recovery code.

        Raises
        ------
        RefusedError
            If the code is wrong.
        """
        with self._database.write(f"factor {name}") as session:
            user = get_user(session, name)
            if not check_code(session, user, code):
                raise RefusedError("this is not the code that the authenticator shows now")
            forget_factor(session, user)
            log(session, name, "one-time passwords off", name)

    def recovery_codes_left(self, name: str) -> int:
        """Return the number of recovery codes that a user has not used."""
        with self._database.read() as session:
            of_user = RecoveryRow.user == get_user(session, name).id
            return session.scalar(sa.select(sa.func.count(RecoveryRow.id)).where(of_user)) or 0


def has_factor(session: Session, user: UserRow) -> bool:
    """Return whether a user logs in with one-time passwords.

    Parameters
    ----------
    session : sqlalchemy.orm.Session
        An open transaction.
    user : UserRow
        The user.

    Returns
    -------
    bool
        True once a code has confirmed the secret.
    """
    factor = session.get(FactorRow, user.id)
    return factor is not None and factor.confirmed


def forget_factor(session: Session, user: UserRow) -> None:
    """Remove the one-time passwords and recovery codes of a user.

    Parameters
    ----------
    session : sqlalchemy.orm.Session
        An open transaction.
    user : UserRow
        The user.
    """
    for table in (FactorRow, RecoveryRow):
        session.execute(sa.delete(table).where(table.user == user.id))


def check_code(session: Session, user: UserRow, code: str) -> bool:
    """Check a one-time password or recovery code, and use it up.

    Parameters
    ----------
    session : sqlalchemy.orm.Session
        An open transaction that writes.
    user : UserRow
        The user.
    code : str
        What the user has typed; spaces and dashes do not count.

    Returns
    -------
    bool
        Whether the code is right and was not used before.
    """
    factor = session.get(FactorRow, user.id)
    if factor is None or not factor.confirmed:
        return False
    if _use_code(factor, code):
        return True
    used = sa.delete(RecoveryRow).where(
        RecoveryRow.user == user.id, RecoveryRow.hash == digest(_plain(code))
    )
    return bool(session.execute(used).rowcount)  # type: ignore[attr-defined]


def _use_code(factor: FactorRow, code: str) -> bool:
    """Check a code of the present, and let none be used that is not newer than the last one."""
    totp, now = pyotp.TOTP(factor.secret), int(current_time()) // _STEP_SECONDS
    given = _plain(code).encode()
    for step in (now + drift for drift in _DRIFT_STEPS):
        if step > factor.step and hmac.compare_digest(totp.generate_otp(step).encode(), given):
            factor.step = step
            return True
    return False


def _recovery_code() -> str:
    text = base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode().lower()
    return "-".join(text[k : k + 4] for k in range(0, len(text), 4))


def _plain(code: str) -> str:
    return "".join(c for c in code.lower() if c.isascii() and c.isalnum())
