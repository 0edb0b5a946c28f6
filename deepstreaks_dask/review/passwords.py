"""Passwords: their rules, and their Argon2 hashes."""

from __future__ import annotations

import secrets
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from zxcvbn import zxcvbn

from deepstreaks_dask.review.people import ReviewError

MIN_PASSWORD_LENGTH = 12
"""Characters of a password at least."""

MAX_PASSWORD_LENGTH = 256
"""Characters of a password at most."""

MIN_PASSWORD_SCORE = 3
"""How hard to guess a password is at least, by zxcvbn's score from 0 to 4: 3 takes more than 10**8 guesses."""

_MIN_DISTINCT_CHARACTERS = 5
_MAX_ESTIMATED_LENGTH = (
    72  # characters that are looked at: the estimate takes time with the square of the length
)
_EXPECTED_WORDS = ("deepstreaks", "streaks", "ztf", "zwicky", "palomar", "asteroid")
_MAX_CHECKED_LENGTH = 1024  # characters of an attempt that are hashed
_hasher = PasswordHasher()


def hash_password(name: str, password: str) -> str:
    """Return the hash of a user's new password.

    Parameters
    ----------
    name : str
        User name, which cannot be the password.
    password : str
        12 to 256 characters.

    Returns
    -------
    str
        Argon2id hash with its salt and parameters.

    Raises
    ------
    ReviewError
        If the password is too short, too long or easy to guess: among those that were stolen elsewhere, or made of names,
        words, dates and patterns of keys.
    """
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise ReviewError(
            f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters: choose another one"
        )
    found = zxcvbn(password[:_MAX_ESTIMATED_LENGTH], user_inputs=[name, *_EXPECTED_WORDS])
    if found["score"] < MIN_PASSWORD_SCORE or len(set(password)) < _MIN_DISTINCT_CHARACTERS:
        why = str(found["feedback"]["warning"]).rstrip(".")
        raise ReviewError(
            "this password is too easy to guess: choose another one, such as four words that do not belong together"
            + (f" ({why})" if why else "")
        )
    return _hasher.hash(password)


def verify_password(stored: str, password: str) -> bool:
    """Check a password against its stored hash.

    Parameters
    ----------
    stored : str
        A hash made by :func:`hash_password`.
    password : str
        The password of an attempt.

    Returns
    -------
    bool
        Whether the password is right.
    """
    try:
        return _hasher.verify(stored, password[:_MAX_CHECKED_LENGTH])
    except (VerificationError, InvalidHashError):
        return False


def current_hash(stored: str, password: str) -> str:
    """Return the stored hash of a right password, or a new one where the parameters of the hash have changed since.

    Parameters
    ----------
    stored : str
        A hash made by :func:`hash_password`, by this or an older version.
    password : str
        The password that the hash is of.

    Returns
    -------
    str
        A hash with today's parameters.
    """
    return _hasher.hash(password) if _hasher.check_needs_rehash(stored) else stored


@lru_cache(maxsize=1)
def placeholder_hash() -> str:
    """Return the hash that attempts with an unknown name are checked against.

    So an unknown name takes as long to refuse as a known one.

    Returns
    -------
    str
        The hash of a random password.
    """
    return _hasher.hash(secrets.token_urlsafe(16))
