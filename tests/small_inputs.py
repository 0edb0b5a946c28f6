"""Small inputs of every reader, as other programs write them."""

import gzip
import io
import json

import fastavro
import numpy as np
import pandas as pd
from astropy.io import fits
from PIL import Image

from deepstreaks_dask.simulation.nights import Night, write_images
from deepstreaks_dask.simulation.products import write_depot

_STAMP = {
    "type": "record",
    "name": "cutout",
    "fields": [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes"}],
}
_CANDIDATE = {
    "type": "record",
    "name": "candidate",
    "fields": [
        {"name": name, "type": kind}
        for name, kind in {
            "jd": "double",
            "fid": "int",
            "candid": "long",
            "ra": "double",
            "dec": "double",
            "magpsf": "float",
        }.items()
    ],
}
_STAMPS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")
ALERT = {
    "type": "record",
    "name": "alert",
    "fields": [
        {"name": "objectId", "type": "string"},
        {"name": "candid", "type": "long"},
        {"name": "candidate", "type": _CANDIDATE},
        {"name": "cutoutScience", "type": _STAMP},
        *({"name": name, "type": "cutout"} for name in _STAMPS[1:]),
    ],
}
"""The fields of ZTF's alert packets that matter here."""


def alert(candid):
    """Return a packet of an object of its own."""

    def stamp(pixels):
        out = io.BytesIO()
        fits.PrimaryHDU(pixels).writeto(out)
        return {"fileName": "x.fits.gz", "stampData": gzip.compress(out.getvalue(), mtime=0)}

    values = {
        "jd": 2461042.75,
        "fid": 2,
        "candid": candid,
        "ra": 10.5,
        "dec": -20.25,
        "magpsf": 18.5,
    }
    stamps = dict(zip(_STAMPS, map(stamp, images(3, 63, candid)), strict=True))
    return {"objectId": f"ZTF26a{candid}", "candid": candid, "candidate": values, **stamps}


def crts(path, times, images, *, extensions=None, **cards):
    """Write an object as TAO-Net's authors did."""
    first = fits.PrimaryHDU()
    header = {
        "CRTS_ID": path.name.split(".")[0],
        "RA_(J2000)": "10:30:00.0",
        "Dec_(J2000)": "-05:15:00.0",
        "N_Images": len(images),
        "Mag": 17.5,
        "Class": "SN",
    } | cards
    for key, value in header.items():
        first.header[f"HIERARCH {key}"] = value
    n = len(times)
    columns = [
        fits.Column("HDU_Ext", "J", array=extensions or np.arange(2, 2 + n)),
        fits.Column("Set_Number", "J", array=np.ones(n)),
        fits.Column("Date", "10A", array=["2010-01-01"] * n),
        fits.Column("MJD", "D", array=times),
        fits.Column("Cutout", "20A", array=["x.fits"] * n),
    ]
    units = [first, fits.BinTableHDU.from_columns(columns), *map(fits.ImageHDU, images)]
    fits.HDUList(units).writeto(path)


def images(n, side=21, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(100, 5, (side, side)).astype(np.float32) for _ in range(n)]


def write_pictures(folder):
    """Write a folder of JPEG files, and its table; return what to ingest, and the table."""
    write_images(folder, Night.draw(20260101, 5), 4)
    return folder / "20260101", folder / "20260101.csv"


def write_products(folder):
    """Write a night of a depot; return what to ingest, and the table."""
    write_depot(folder, Night.draw(20260101, 5), 4)
    return folder / "20260101", None


def write_fits(folder):
    """Write FITS files; return what to ingest, and the table."""
    for k in range(2):
        made = fits.PrimaryHDU(images(1, 157, k)[0])
        made.writeto(folder / f"{k}.fits")
    return folder, None


def write_positions(folder):
    """Write FITS images, and a table of positions on them; return what to ingest, and the table."""
    write_fits(folder)
    table = folder.parent / "positions.csv"
    pd.DataFrame({"id": ["a", "b"], "x": [60, 70], "y": [60, 70]}).to_csv(table, index=False)
    return folder, table


def write_alerts(folder):
    """Write alert packets of two objects; return what to ingest, and the table."""
    schema = fastavro.parse_schema(ALERT)
    for k in (1, 2):
        with (folder / f"{k}.avro").open("wb") as file:
            fastavro.writer(file, schema, [alert(k)])
    return folder, None


def write_crts(folder):
    """Write an object of the CRTS; return what to ingest, and the table."""
    crts(folder / "1001.fits", [53600.5, 53500.25], images(2))
    return folder, None


def write_zwickyverse(folder):
    """Write a project of Zwickyverse; return what to ingest, and the table."""
    (folder / "rb_2019.json").write_text(
        json.dumps({"classes": ["bogus", "streak"], "datasets": ["a"]})
    )
    (folder / "a").mkdir()
    name = "strkid1_pid1_scimref.jpg"
    pixels = np.random.default_rng(1).integers(0, 256, (157, 157), np.uint8)
    Image.fromarray(pixels).save(folder / "a" / name)
    (folder / "a" / "a.1.json").write_text(json.dumps({name: ["streak"]}))
    return folder, None


WRITERS = {
    "alerts": write_alerts,
    "crts": write_crts,
    "depot": write_products,
    "fits": write_fits,
    "histories": write_alerts,
    "images": write_pictures,
    "positions": write_positions,
    "zwickyverse": write_zwickyverse,
}
