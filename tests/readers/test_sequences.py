"""Objects of the CRTS and alert histories become sequences; whatever is wrong with an epoch stops none of the others."""

import gzip
import io

import fastavro
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_inputs import crts, images

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader, layout_of, sniff


def ingest(reader, source, url):
    create_archive(url, **layout_of(reader))
    return append_batches(url, reader.read(source)), open_archive(url)


def test_objects_of_the_crts(tmp_path):
    folder = tmp_path / "crts"
    folder.mkdir()
    first = images(4)
    crts(folder / "1001.fits", [53600.5, 53500.25, 53700.0, 53650.0], first)
    crts(folder / "1002.fits", [53600.5], images(1, 31, 2), **{"Class": "agn", "RA_(J2000)": 12.5})
    reader = sniff(folder)
    assert reader.name == "crts"
    assert reader.count(folder) == 5
    result, dataset = ingest(reader, folder, tmp_path / "a.zarr")
    assert (result.appended, result.quarantined) == (2, 0)
    assert dataset["id"].values.tolist() == ["1001", "1002"]
    assert dataset["kind"].values.tolist() == ["SN", "AGN"]
    assert dataset["epochs"].values.tolist() == [4, 1]
    assert dataset["mjd"].values[:4].tolist() == [53500.25, 53600.5, 53650.0, 53700.0]
    np.testing.assert_array_equal(dataset["cutouts"].values[1], first[0])
    np.testing.assert_array_equal(dataset["cutouts"].values[4], images(1, 31, 2)[0][5:26, 5:26])
    assert dataset["ra"].values.tolist() == pytest.approx([157.5, 12.5])
    assert dataset["dec"].values.tolist() == pytest.approx([-5.25, -5.25])
    assert dataset["night"].values.tolist() == [20050510, 20050818]
    assert set(dataset["band"].values) == {"C"}
    assert np.isnan(dataset["zero_point"].values).all()
    assert verify(tmp_path / "a.zarr").ok


def test_bad_epochs_are_left_out_and_listed(tmp_path):
    folder = tmp_path / "crts"
    folder.mkdir()
    stamps = images(6)
    stamps[1][:] = np.nan
    stamps[2] = stamps[2][:9]
    stamps[3][4, 4] = np.inf
    crts(
        folder / "a.fits",
        [1.0, 53500, 53501, 53502, 53503, 53504],
        stamps,
        extensions=[2, 3, 4, 5, 99, 0],
    )
    crts(folder / "b.fits", [53500], [np.full((21, 21), np.nan, np.float32)])
    crts(folder / "c.fits", [], [])
    (folder / "d.fits").write_bytes((folder / "a.fits").read_bytes()[:9000])
    fits.PrimaryHDU(np.zeros((30, 30))).writeto(folder / "e.fits")
    crts(folder / "f.fits", [53500], images(1, seed=5), CRTS_ID=" ")
    result, dataset = ingest(get_reader("crts"), folder, tmp_path / "a.zarr")
    assert dataset["id"].values.tolist() == ["a"]
    assert dataset["mjd"].values.tolist() == [53502.0]
    assert np.isnan(dataset["cutouts"].values[0]).sum() == 1  # of an infinite pixel
    listed = quarantine(tmp_path / "a.zarr")
    found = set(zip(listed["source"], listed["reason"], strict=True))
    assert found == {
        ("a.fits[2]", "no time"),
        ("a.fits[3]", "blank"),
        ("a.fits[4]", "wrong shape"),
        ("a.fits[99]", "missing epoch"),
        ("a.fits[0]", "missing epoch"),
        ("b.fits[2]", "blank"),
        ("b.fits", "no epochs"),
        ("c.fits", "no epochs"),
        ("d.fits", "damaged"),
        ("e.fits", "not a sequence"),
        ("f.fits", "no identifier"),
    }
    assert result.appended == 1


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 17000), st.binary(min_size=1, max_size=40), st.booleans())
def test_no_file_stops_the_others(tmp_path_factory, at, data, cut):
    folder = tmp_path_factory.mktemp("fuzz")
    crts(folder / "a.fits", [53500, 53501], images(2))
    content = bytearray((folder / "a.fits").read_bytes())
    if cut:
        del content[at:]
    else:
        content[at : at + len(data)] = data
    (folder / "a.fits").write_bytes(content)
    crts(folder / "b.fits", [53500, 53501], images(2, seed=2))
    rows = []
    for made in get_reader("crts").read(folder):
        rows += made.columns["id"].tolist()
        assert made.counts.sum() == len(made.cutouts) == len(made.epochs["mjd"])
        assert made.rows + len(made.quarantined) >= 2
    assert "b" in rows


def packet(name, candid, jd, science=None, **candidate):
    def stamp(pixels):
        out = io.BytesIO()
        fits.PrimaryHDU(pixels).writeto(out)
        return {"fileName": "x.fits.gz", "stampData": gzip.compress(out.getvalue(), mtime=0)}

    pixels = images(3, 63, candid)
    record = {"jd": jd, "fid": 2, "ra": 10.5, "dec": -20.25, "magpsf": 18.5}
    record |= {"magzpsci": 26.25, "fwhm": 2.5, "exptime": 30.0} | candidate
    kinds = {int: "long", float: "double"}
    schema = {
        "type": "record",
        "name": "alert",
        "fields": [
            {"name": "objectId", "type": "string"},
            {"name": "candid", "type": "long"},
            {
                "name": "candidate",
                "type": {
                    "type": "record",
                    "name": "candidate",
                    "fields": [{"name": k, "type": kinds[type(v)]} for k, v in record.items()],
                },
            },
            *(
                {
                    "name": f"cutout{plane}",
                    "type": "cutout"
                    if plane != "Science"
                    else {
                        "type": "record",
                        "name": "cutout",
                        "fields": [
                            {"name": "fileName", "type": "string"},
                            {"name": "stampData", "type": "bytes"},
                        ],
                    },
                }
                for plane in ("Science", "Template", "Difference")
            ),
        ],
    }
    planes = dict(zip(("Science", "Template", "Difference"), pixels, strict=True))
    if science is not None:
        planes["Science"] = science
    out = io.BytesIO()
    alert = {"objectId": name, "candid": candid, "candidate": record}
    alert |= {f"cutout{plane}": stamp(values) for plane, values in planes.items()}
    fastavro.writer(out, schema, [alert])
    return out.getvalue()


def test_alerts_of_one_object_are_its_history(tmp_path):
    folder = tmp_path / "alerts"
    (folder / "20200101").mkdir(parents=True)
    contents = {
        "20200101/1.avro": packet("ZTF20a", 1, 2458850.5),
        "2.avro": packet("ZTF20b", 2, 2458851.5),
        "3.avro": packet("ZTF20a", 3, 2458840.5),
        "4.avro": packet("ZTF20a", 3, 2458840.5),
        "5.avro": packet("ZTF20c", 5, 2458840.5, science=np.zeros((15, 15), np.float32)),
        "6.avro": packet("", 6, 2458840.5),
        "7.avro": b"Obj\x01nothing",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    assert sniff(folder).name == "alerts"
    reader = get_reader("histories")
    assert reader.count(folder) == 7
    result, dataset = ingest(reader, folder, tmp_path / "a.zarr")
    assert result.reasons["duplicate"] == 1
    assert result.reasons["no identifier"] == 1
    assert result.reasons["blank"] == 1  # a cutout of the survey's edge begins at its first row
    assert dataset["id"].values.tolist() == ["ZTF20a", "ZTF20b"]
    assert dataset["epochs"].values.tolist() == [2, 1]
    half = 15 / 86400
    assert dataset["mjd"].values[:2].tolist() == pytest.approx([58840 + half, 58850 + half])
    # an alert's is its candidate's, not the exposure's
    assert np.isnan(dataset["fwhm"].values).all()
    np.testing.assert_array_equal(dataset["cutouts"].values[1], images(3, 63, 1)[0][21:42, 21:42])
    assert dataset["zero_point"].values[0] == np.float32(26.25)
    assert set(dataset["band"].values) == {"r"}
    assert verify(tmp_path / "a.zarr").ok


@pytest.mark.parametrize("name", ["crts", "histories"])
def test_mistakes_are_named(tmp_path, name):
    reader = get_reader(name)
    with pytest.raises(ReaderError, match="holds no"):
        list(reader.read(tmp_path))
    with pytest.raises(ReaderError, match="no table"):
        list(reader.read(tmp_path, ReadOptions(tmp_path / "x.csv")))
