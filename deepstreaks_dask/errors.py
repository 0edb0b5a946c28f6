"""Errors that are the user's to mend.

Each message says what was wrong, with which input, and what to do about it; the command line prints it
as one line and never a traceback.
"""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Ask whether the name nearest to an unknown one was meant, for an error's message.

    Parameters
    ----------
    name : str
        As it was given.
    known : iterable of str
        What there is.

    Returns
    -------
    str
        The question with a blank after it, empty if nothing is near.
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


class DeepStreaksError(Exception):
    """Base of every error that this package raises for wrong input or a wrong request.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> try:
    ...     ds.open_archive("nowhere.zarr")
    ... except ds.DeepStreaksError as error:
    ...     print(str(error).split(":")[0])
    no archive at nowhere.zarr
    """


class ArchiveError(DeepStreaksError):
    """A cutout archive is missing, damaged, locked, or not one of ours."""


class StorageError(DeepStreaksError):
    """A path or URL cannot be reached, read or written."""


class ReaderError(DeepStreaksError):
    """An input folder, file or table cannot be read as the format asked for."""


class ModelError(DeepStreaksError):
    """A model is unknown, unsafe, damaged or of another shape than its card says."""


class CampaignError(DeepStreaksError):
    """A scoring campaign cannot be started or resumed as asked."""


class StoppedError(CampaignError):
    """A campaign was stopped by its workers, scheduler or store; the same command goes on where it was."""


class TriageError(CampaignError):
    """A triage has no guarantee, or is not one for these members."""


class TrainingError(DeepStreaksError):
    """A model cannot be trained on the archive or labels given."""


class DepotError(DeepStreaksError):
    """A depot of nightly products cannot be reached, refuses us, or gives what it should not."""


class CalibrationError(DeepStreaksError):
    """Scores cannot be calibrated on the labels given, or are not calibrated."""


class InjectionError(DeepStreaksError):
    """Streaks cannot be injected as asked, or there are none to recover."""
