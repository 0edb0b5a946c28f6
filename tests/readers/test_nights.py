"""Nights that are unpacked, all columns of the table of streaks, and what becomes of them in ADES."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.query import parse
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.export import ades
from deepstreaks_dask.export.candidates import Submission, candidate_table, observations
from deepstreaks_dask.readers.ades_files import read_ades
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader, sniff
from deepstreaks_dask.readers.streak_table import STREAK_COLUMNS, ZTF_COLUMNS, read_streaks

NAME = "strkid{0}_pid73412345615"
VALUES = {
    "jd": 2458489.02294, "fid": 2, "pid": 73412345615, "diffmaglim": 20.25, "pdiffimfilename": "ztf_diff.fits",
    "programpi": "Kulkarni", "programid": 1, "streakid": 734123456150001, "strid": 3, "ra1": 10.0, "dec1": 5.0,
    "ra2": 10.01, "dec2": 5.0, "startmjd": 58488.52293, "endmjd": 58488.52293 + 30 / 86400, "flux": 900.5, "bg": 1.5,
    "length": 36.5, "sigma": 1.25, "lengtherr": 0.5, "sigmaerr": 0.125, "paerr": 0.75, "bgerr": 0.25, "fitmagerr": 0.05,
    "apsnr": 12.5, "apmagerr": 0.08, "dmag": -0.03, "dmagerr": 0.02, "chi2": 1.1, "numfit": 141, "prob": 0.875,
    "ra1err": 0.3, "dec1err": 0.4, "corr1": 0.1, "ra2err": 0.4, "dec2err": 0.3, "corr2": -0.1,
}  # fmt: skip
XML = (
    '<ades version="2017"><obsBlock><obsData>{}</obsData></obsBlock></ades>'.format(
        "".join(
            f"<optical><stn>I41</stn><obsTime>2019-01-05T12:33:{second}Z</obsTime><ra>{ra}</ra><dec>5.0</dec>"
            "<rmsRA>0.3</rmsRA><rmsDec>0.4</rmsDec><mag>18.1</mag><band>r</band></optical>"
            for second, ra in (("01.000", 10.0), ("31.000", 10.01))
        )
    )
).encode()


def jpeg(seed=0):
    made = io.BytesIO()
    pixels = np.random.default_rng(seed).normal(200, 20, (150, 150)).clip(0, 255).astype("u1")
    Image.fromarray(pixels).save(made, "JPEG")
    return made.getvalue()


def table(*rows):
    lines = ["|".join(STREAK_COLUMNS), "+".join("---" for _ in STREAK_COLUMNS)]
    lines += ["|".join(str(row.get(name, "")) for name in STREAK_COLUMNS) for row in rows]
    return "\n".join([*lines, f"({len(rows)} rows)", ""])


@pytest.fixture
def night(tmp_path):
    """An unpacked night: one streak with all there is, one with its picture alone, one without a picture."""
    folder = tmp_path / "20190105"
    folder.mkdir()
    first, second, third = (NAME.format(734123456150001 + k) for k in range(3))
    (folder / f"{first}_scimref.jpg").write_bytes(jpeg(1))
    (folder / f"{first}_ades.xml").write_bytes(XML)
    (folder / f"{second}_scimref.jpg").write_bytes(jpeg(2))
    (folder / f"{third}_ades.xml").write_bytes(XML)
    (folder / "ztf_1_streaks.txt").write_text(table(VALUES))
    return folder


def stored(folder, url, **options):
    create_archive(url, shard=64)
    batches = list(get_reader("depot").read(folder, ReadOptions(**options)))
    append_batches(url, batches)
    return open_archive(url).load(), [r for batch in batches for r in batch.remarks]


def test_an_unpacked_night_is_a_night(night, tmp_path):
    assert sniff(night).name == "depot"
    assert get_reader("depot").count(night) == 2
    rows, remarks = stored(night, tmp_path / "a.zarr")
    assert rows["id"].values.tolist() == [NAME.format(734123456150001 + k) for k in range(2)]
    assert rows["night"].values.tolist() == [20190105] * 2
    assert rows["source"].values[0] == f"{rows['id'].values[0]}_scimref.jpg"
    assert abs(rows["ra"].values[0] - 10.005) < 1e-6
    assert {(r.what, r.source) for r in remarks} == {
        ("no astrometry: in no table and no ADES file", f"{rows['id'].values[1]}_scimref.jpg"),
        ("ADES file without a cutout", "streak 734123456150003"),
    }


def test_every_column_of_the_table_of_streaks_is_kept_with_its_unit(night, tmp_path):
    rows, _ = stored(night, tmp_path / "a.zarr")
    assert len(STREAK_COLUMNS) == 37
    for name, value in VALUES.items():
        found = rows[name].values[0]
        if name == "jd":
            assert abs(found - (2400000.5 + VALUES["startmjd"] + 15 / 86400)) < 1e-8
        elif isinstance(value, str):
            assert found == value
        else:
            assert found == pytest.approx(value, rel=1e-6), name
    assert rows["streakid"].values[0] == 734123456150001
    assert {name: rows[name].attrs.get("units", "") for name in ZTF_COLUMNS} == {
        name: column.units for name, column in ZTF_COLUMNS.items()
    }
    assert rows["exptime"].values[0] == pytest.approx(30, abs=1e-3)
    assert np.isnan(rows["prob"].values[1])


def test_columns_that_were_kept_can_be_filtered_by(night, tmp_path):
    rows, _ = stored(night, tmp_path / "a.zarr")
    kinds = {"prob": "number", "chi2": "number", "programpi": "text"}
    chosen = parse('prob > 0.5 and chi2 < 2 and programpi == "Kulkarni"', kinds)
    assert chosen({k: rows[k].values for k in kinds}, 2).tolist() == [True, False]


def test_values_that_are_none_are_said(night, tmp_path):
    wrong = {**VALUES, "chi2": "much", "prob": 7, "ra1": 400, "flux": ""}
    (night / "ztf_1_streaks.txt").write_text(table(wrong))
    rows, remarks = stored(night, tmp_path / "a.zarr")
    assert np.isnan([rows[name].values[0] for name in ("chi2", "prob")]).all()
    said = {(r.what, r.source, r.detail) for r in remarks}
    assert {
        ("chi2 not understood", "ztf_1_streaks.txt: streak 734123456150001", "much"),
        ("prob out of range", "ztf_1_streaks.txt: streak 734123456150001", "7"),
        ("ra1 out of range", "ztf_1_streaks.txt: streak 734123456150001", "400"),
    } <= said
    assert not any(what.startswith("flux") for what, *_ in said)


def test_a_table_that_names_none_of_the_cutouts_is_refused(night, tmp_path):
    (tmp_path / "t.csv").write_text("id,rb\nsomebody,1\n")
    with pytest.raises(ReaderError, match="speaks of none"):
        stored(night, tmp_path / "a.zarr", table=tmp_path / "t.csv")


def test_a_table_may_name_files_and_what_it_names_in_vain_is_said(night, tmp_path):
    first = NAME.format(734123456150001)
    (tmp_path / "t.csv").write_text(f"file,rb\n{first}_scimref.jpg,1\nelsewhere.jpg,0\n")
    rows, remarks = stored(night, tmp_path / "a.zarr", table=tmp_path / "t.csv")
    assert rows["label_rb"].values.tolist() == [1, -1]
    assert ("row of the table matches no cutout", "elsewhere.jpg") in {
        (r.what, r.detail) for r in remarks
    }


def test_uncertainties_of_the_ends_go_to_ades(night, tmp_path):
    rows, _ = stored(night, tmp_path / "a.zarr")
    decided = rows.assign(
        plausible=("cutout", [True, False]),
        scores=(("cutout", "model"), np.ones((2, 1), np.float32)),
    ).assign_coords(model=["rb_vgg6"])
    frame = candidate_table(decided)
    assert frame["prob"].tolist() == [0.875]
    (record,), _ = observations(frame, Submission(submitter="J. Doe", rmsRA=9.0))
    assert (record["rmsRA"], record["rmsDec"]) == ("0.250", "0.250")  # of the middle of two ends
    assert float(record["exp"]) == pytest.approx(30)
    assert float(record["rmsCorr"]) == 0
    assert ades.check_record(record) == []
    frame[["ra1err", "dec1err"]] = np.nan
    (record,), _ = observations(frame, Submission(submitter="J. Doe", rmsRA=9.0))
    assert record["rmsRA"] == "9.000"
    assert {"rmsDec", "rmsCorr"}.isdisjoint(record)


def test_uncertainties_come_from_ades_files_too():
    said = read_ades(XML)
    assert (said["ra1err"], said["dec2err"]) == (0.3, 0.4)
    notes = []
    read_ades(XML.replace(b"10.01", b"north").replace(b">r<", b">?<"), notes)
    assert [what for what, _ in notes] == [
        "band of ADES not understood",
        "ra of ADES not understood or out of range",
    ]


def test_columns_of_a_table_that_are_not_known_are_said(tmp_path):
    file = tmp_path / "t_streaks.txt"
    file.write_text(table(VALUES).replace("chi2", "chi3"))
    assert [(r.what, r.detail) for r in read_streaks(file).remarks] == [
        ("column of the streak table ignored", "did you mean chi2?")
    ]


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_tarball_without_its_last_blocks_is_whole(tmp_path, blocks):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member = tarfile.TarInfo(NAME.format(1) + "_scimref.jpg")
        data = jpeg()
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    members = 512 + -(-len(data) // 512) * 512
    content = made.getvalue()[: members + 512 * blocks]
    (tmp_path / "ztf_20190105_strkcutouts.tar.gz").write_bytes(gzip.compress(content))
    (batch,) = get_reader("depot").read(tmp_path)
    assert batch.columns["id"].tolist() == [NAME.format(1)]
    assert batch.quarantined == []


def test_exports_of_more_than_two_classes_are_mapped(tmp_path):
    classes = {
        "p0.jpg": ["asteroid"],
        "p1.jpg": ["satellite"],
        "p2.jpg": ["ghost"],
        "p3.jpg": ["dipole"],
    }
    (tmp_path / "d").mkdir()
    for k, name in enumerate(classes):
        (tmp_path / "d" / name).write_bytes(jpeg(k))
    project = {"classes": ["asteroid", "satellite", "ghost", "dipole"], "datasets": ["d"]}
    (tmp_path / "rb.json").write_text(json.dumps(project))
    (tmp_path / "d.1.json").write_text(json.dumps(classes))
    assert sniff(tmp_path).name == "zwickyverse"
    reader = get_reader("zwickyverse")
    with pytest.raises(
        ReaderError, match=r"asteroid, satellite, ghost, dipole.*--labels asteroid="
    ):
        list(reader.read(tmp_path))
    words = {"asteroid": 1, "rb:satellite": 1, "ghost": 0}
    batches = list(reader.read(tmp_path, ReadOptions(words=words, night=20190105)))
    columns = xr.Dataset({k: ("row", v) for k, v in batches[-1].columns.items()})
    assert columns["label_rb"].values.tolist() == [1, 1, 0, -1]
    assert columns["kind"].values.tolist() == ["asteroid", "satellite", "ghost", "dipole"]
    remarks = [(r.what, r.source) for batch in batches for r in batch.remarks]
    assert remarks == [("class stands for no label", "rb.json: dipole")]
