"""Packages that an extra installs, and the line that names it where one is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from deepstreaks_dask.errors import DeepStreaksError

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "alembic": ("review",),
    "argon2": ("review",),
    "bokeh_fastapi": ("review",),
    "dask_cuda": ("gpu",),
    "dask_jobqueue": ("cluster",),
    "dask_kubernetes": ("cluster",),
    "fastapi": ("review",),
    "fastavro": ("alerts",),
    "h5py": ("legacy",),
    "light_curve": ("sequences",),
    "optuna": ("train",),
    "photutils": ("sequences",),
    "prometheus_client": ("watch",),
    "psycopg": ("postgresql",),
    "pyotp": ("review",),
    "requests": ("watch",),
    "s3fs": ("cluster",),
    "segno": ("review",),
    "sqlalchemy": ("review", "watch"),
    "starlette": ("review",),
    "tensorboard": ("train",),
    "urllib3": ("watch",),
    "uvicorn": ("review",),
    "websockets": ("review",),
    "zxcvbn": ("review",),
}
"""The extras that install a package, by the name that it is imported by."""


class MissingExtraError(DeepStreaksError, ImportError):
    """A package that an extra installs is not there."""


def missing_extra(error: BaseException | None) -> MissingExtraError | None:
    """Name the extra that installs what an import has not found.

    Parameters
    ----------
    error : BaseException or None
        What was raised. Of an ``ImportError`` that came from another one, as fsspec raises it, the first that knows the
        package counts.

    Returns
    -------
    MissingExtraError or None
        To raise in its place; None if no extra is missing.
    """
    while isinstance(error, ImportError):
        if isinstance(error, MissingExtraError):
            return error
        name = error.name or ""
        if name in EXTRAS:
            return MissingExtraError(
                f"this needs {name}, which is not installed: "
                f"pip install 'deepstreaks-dask[{','.join(EXTRAS[name])}]'",
                name=name,
            )
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def extras_named() -> Iterator[None]:
    """Name the extra where a package is missing; usable as a decorator, too.

    Yields
    ------
    None

    Raises
    ------
    MissingExtraError
        In place of an ``ImportError`` about a package that an extra installs. Every other error is left as it is.
    """
    try:
        yield
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None or missing is error:
            raise
        raise missing from error
