"""The archive's format: names, dimensions and columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepstreaks_dask.vocabulary import LABEL_VALUES, label_column

FORMAT = "deepstreaks-cutouts"
VERSION = 1
CONVENTIONS = "CF-1.12"
"""Version of the Climate and Forecast metadata conventions (Eaton et al. 2024) that names and attributes follow."""

CUTOUT_SIZE = 144
"""Pixels on a side of a cutout as the networks take it."""

CHUNK = 64
"""Cutouts in a chunk, the smallest piece that is read."""

EPOCHS_PER_SHARD = 16384
"""Stamps in a shard of pixels of an archive of sequences, about 29 MB where they are 21 x 21 floats."""

EPOCHS_PER_CHUNK = 2048
"""Stamps in a chunk of an archive of sequences, 4 MB: small as they are, more of them are read at a time."""

COLUMN_CHUNK = 65536
COLUMN_TYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float32", "float64", "string"),
)
"""Types that a column may have."""

MAX_SHARD_ROWS = 2**20
MAX_SHARD_BYTES = 2**34
MAX_CHUNK_BYTES = 2**30
"""Largest shards and chunks of an archive, uncompressed; a larger one is neither made nor opened."""

QUARANTINE_COLUMNS = ("source", "reason", "detail", "night")
PIXEL_ARRAYS = "cutouts", "native"
GROUPS = "quarantine", "runs"
ROW_DIMS = "cutout", "object"
PIXEL_DIMS = "y", "x", "plane"
NATIVE_DIMS = "native_y", "native_x"
NATIVE_SIZES = "native_height", "native_width"
STORED_ROW = "stored_row"
"""Coordinate of a dataset without withdrawn rows: the number of each row in the archive."""

PIXEL_TYPES = "uint8", "uint16", "int16", "float32"


@dataclass(frozen=True)
class Column:
    """One column along ``cutout``: its type, what stands for "not known", its unit and meaning."""

    dtype: str
    missing: Any
    units: str
    long_name: str


_LABEL = "label of family {} (1 {}, 0 {}): 1 or 0, -1 not known"

LABEL_FLAGS = {"flag_values": [-1, 0, 1], "flag_meanings": "unknown negative positive"}
"""Attributes of a column of labels, as CF describes flags."""

SCHEMA: dict[str, Column] = {
    "id": Column("string", "", "", "identifier, unique in the archive"),
    "night": Column("int32", 0, "", "night as YYYYMMDD, 0 not known"),
    "jd": Column("float64", np.nan, "d", "Julian date (UTC) of mid-exposure"),
    "filter": Column("string", "", "", "filter: g, r or i"),
    "ra": Column("float64", np.nan, "deg", "right ascension of the streak's middle, J2000"),
    "dec": Column("float64", np.nan, "deg", "declination of the streak's middle, J2000"),
    "ra1": Column("float64", np.nan, "deg", "right ascension of one end, J2000"),
    "dec1": Column("float64", np.nan, "deg", "declination of one end, J2000"),
    "ra2": Column("float64", np.nan, "deg", "right ascension of the other end, J2000"),
    "dec2": Column("float64", np.nan, "deg", "declination of the other end, J2000"),
    "length": Column("float32", np.nan, "pixel", "length of the streak"),
    "sigma": Column("float32", np.nan, "pixel", "width of the streak, standard deviation"),
    "flux": Column("float32", np.nan, "", "flux of the streak as its source gives it"),
    "mag": Column("float32", np.nan, "mag", "magnitude of the streak"),
    "snr": Column("float32", np.nan, "", "signal-to-noise ratio of the streak"),
    "source": Column("string", "", "", "file or simulation that the cutout came from"),
    "kind": Column("string", "", "", "what it is, where known: nea, satellite, dipole, ..."),
    **{
        label_column(family): Column("int8", -1, "", _LABEL.format(family, positive, negative))
        for family, (positive, negative) in LABEL_VALUES.items()
    },
    "digest": Column("uint64", 0, "", "BLAKE2b-64 of the pixels"),
}

OPTIONAL_COLUMNS: dict[str, Column] = {
    "exptime": Column("float32", np.nan, "s", "exposure time"),
}
"""Columns that an archive of cutouts gets with the first input that has them."""

SPANS: dict[str, Column] = {
    "offset": Column("int64", 0, "", "first epoch of the object"),
    "epochs": Column("int32", 0, "", "number of epochs of the object"),
}
"""What an archive of sequences says of each object beside :data:`SCHEMA`: which epochs are its own."""

EPOCHS: dict[str, Column] = {
    "mjd": Column("float64", np.nan, "d", "modified Julian date (UTC) of mid-exposure"),
    "band": Column("string", "", "", "filter of the exposure"),
    "zero_point": Column("float32", np.nan, "mag", "magnitude of 1 ADU in the exposure"),
    "fwhm": Column("float32", np.nan, "pixel", "full width at half maximum of the PSF"),
    "sky": Column("float32", np.nan, "adu", "sky background a pixel"),
    "exposure": Column("float32", np.nan, "s", "exposure time"),
    "gain": Column("float32", np.nan, "electron/adu", "gain"),
    "read_noise": Column("float32", np.nan, "electron", "read noise a pixel, standard deviation"),
}
"""Columns along ``epoch`` that sequences of images usually have."""


def is_free_name(name: str) -> bool:
    """Return whether an archive can have a column of this name beside those of its format.

    Parameters
    ----------
    name : str
        Of a column.

    Returns
    -------
    bool
        False for what is no identifier, or has a meaning in the format.
    """
    taken = {*SCHEMA, *SPANS, *PIXEL_ARRAYS, *NATIVE_SIZES, *NATIVE_DIMS, *PIXEL_DIMS, *GROUPS}
    return (
        name.isidentifier() and name not in taken and name not in (*ROW_DIMS, "epoch", STORED_ROW)
    )
