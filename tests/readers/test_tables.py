"""Tables as people write them: dialects, names of files, times, positions, labels, and what is said of the rest."""

import gzip
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table
from astropy.time import Time
from PIL import Image

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.query import parse
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.dialects import read_columns
from deepstreaks_dask.readers.ingestion import ingest
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader
from deepstreaks_dask.readers.tables import read_frame, read_table

ROWS = [("a0.png", 1, 10.5), ("a1.png", 0, 11.25)]
DIALECTS = {
    "commas": "file,label_rb,ra\na0.png,1,10.5\na1.png,0,11.25\n",
    "spaces after commas": "file, label_rb, ra\na0.png, 1, 10.5\na1.png, 0, 11.25\n",
    "spaces on both sides": " file , label_rb , ra \n a0.png , 1 , 10.5 \n a1.png , 0 , 11.25\n",
    "semicolons": "file;label_rb;ra\na0.png;1;10.5\na1.png;0;11.25\n",
    "decimal commas": "file;label_rb;ra\na0.png;1;10,5\na1.png;0;11,25\n",
    "tabs": "file\tlabel_rb\tra\na0.png\t1\t10.5\na1.png\t0\t11.25\n",
    "bars": "file | label_rb | ra\na0.png | 1 | 10.5\na1.png | 0 | 11.25\n",
    "white space": "file    label_rb  ra\na0.png  1   10.5\na1.png  0   11.25\n",
    "quotes": '"file","label_rb","ra"\n"a0.png","1","10.5"\n"a1.png","0","11.25"\n',
    "single quotes": "'file','label_rb','ra'\n'a0.png','1','10.5'\n'a1.png','0','11.25'\n",
    "Windows": "file,label_rb,ra\r\na0.png,1,10.5\r\na1.png,0,11.25\r\n",
    "old Macintosh": "file,label_rb,ra\ra0.png,1,10.5\ra1.png,0,11.25\r",
    "header case": "File,LABEL_RB,Ra\na0.png,1,10.5\na1.png,0,11.25\n",
    "short labels": "FILE,RB,RA\na0.png,1,10.5\na1.png,0,11.25\n",
    "comments": "# made by X\n# on Monday\nfile,label_rb,ra\na0.png,1,10.5\n# a remark\na1.png,0,11.25\n",
    "commented header": "# file label_rb ra\na0.png 1 10.5\na1.png 0 11.25\n",
    "Excel's hint": "sep=;\nfile;label_rb;ra\na0.png;1;10.5\na1.png;0;11.25\n",
    "trailing delimiters": "file,label_rb,ra,\na0.png,1,10.5,\na1.png,0,11.25,\n",
    "blank lines": "\nfile,label_rb,ra\n\na0.png,1,10.5\n,,\na1.png,0,11.25\n\n",
    "index column": ",file,label_rb,ra\n0,a0.png,1,10.5\n1,a1.png,0,11.25\n",
    "floats": "file,label_rb,ra\na0.png,1.0,10.5\na1.png,0.0,11.25\n",
    "truths": "file,label_rb,ra\na0.png,True,10.5\na1.png,False,11.25\n",
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Three pictures of a night."""
    folder = tmp_path_factory.mktemp("night") / "20260101"
    folder.mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).normal(200, 20, (40, 40)).clip(0, 255).astype("u1")
        Image.fromarray(pixels).save(folder / f"a{k}.png")
    return folder


def read(folder, text, tmp_path, suffix=".csv", **options):
    """Columns by id and remarks, of a folder with a table."""
    table = tmp_path / f"t{suffix}"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    batches = list(get_reader("images").read(folder, ReadOptions(table, **options)))
    frames = [pd.DataFrame(batch.columns) for batch in batches if len(batch.cutouts)]
    return pd.concat(frames).set_index("id"), [r for batch in batches for r in batch.remarks]


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS)
def test_any_dialect_gives_the_same_columns(night, tmp_path, text):
    frame, remarks = read(night, text, tmp_path)
    assert frame["label_rb"].tolist() == [1, 0, -1]
    np.testing.assert_array_equal(frame["ra"], [10.5, 11.25, np.nan])
    assert remarks == []


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_encoding_is_read(tmp_path, encoding):
    table = tmp_path / "t.csv"
    table.write_bytes("file,kind\nä0.png,nova\n".encode(encoding))
    frame, remarks = read_columns(table)
    assert frame.loc[0].tolist() == ["ä0.png", "nova"]
    assert [r.what for r in remarks] == (
        ["encoding of the table not understood"] if encoding == "cp1252" else []
    )


def test_packed_text_is_read(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(DIALECTS["commas"].encode()))
    assert read_columns(tmp_path / "t.csv.gz")[0]["file"].tolist() == ["a0.png", "a1.png"]


def test_a_quote_that_is_never_closed_swallows_no_rows(night, tmp_path):
    frame, _ = read(night, 'file,label_rb\n"a0.png,1\na1.png,0\na2.png,1\n', tmp_path)
    assert frame["label_rb"].tolist() == [1, 0, 1]


NAMES = {
    "./": lambda name, folder: f"./{name}",
    "in its folder": lambda name, folder: f"20260101/{name}",
    "absolute": lambda name, folder: str(folder / name),
    "absolute elsewhere": lambda name, folder: f"/data/of/others/20260101/{name}",
    "Windows": lambda name, folder: f"C:\\data\\20260101\\{name}",
    "backslash": lambda name, folder: f".\\{name}",
    "URL": lambda name, folder: f"file://{folder / name}",
    "other case": lambda name, folder: name.upper(),
    "without its ending": lambda name, folder: name[:-4],
}


@pytest.mark.parametrize("spell", NAMES.values(), ids=NAMES)
def test_files_are_found_however_their_paths_are_written(night, tmp_path, spell):
    rows = [f"{spell(name, night)},{label}" for name, label, _ in ROWS]
    frame, remarks = read(night, "\n".join(["file,label_rb", *rows, ""]), tmp_path)
    assert frame["label_rb"].tolist() == [1, 0, -1]
    assert remarks == []


def test_names_without_folders_are_found_in_sub_folders_where_they_are_clear(night, tmp_path):
    root = tmp_path / "all"
    for sub, names in {
        "20260101": ("x.png", "same.png"),
        "20260102": ("y.png", "same.png"),
    }.items():
        (root / sub).mkdir(parents=True)
        for name in names:
            (root / sub / name).write_bytes((night / "a0.png").read_bytes() + sub.encode())
    frame, remarks = read(root, "file,label_rb\nx.png,1\ny.png,0\nsame.png,1\n", tmp_path)
    assert frame["label_rb"].to_dict() == {
        "x": 1, "y": 0, "20260101/same.png": -1, "20260102/same.png": -1,
    }  # fmt: skip
    assert [(r.what, r.detail) for r in remarks] == [
        ("row of the table matches no cutout", "same.png fits several files")
    ]


def test_rows_without_a_file_and_columns_without_a_use_are_said(night, tmp_path):
    text = "file,label_rd,prob,class\na0.png,1,0.5,x\nelsewhere.png,0,0.1,y\n"
    _, remarks = read(night, text, tmp_path)
    said = {(r.what, r.source): r.detail for r in remarks}
    assert said["row of the table matches no cutout", "t.csv:2"] == "elsewhere.png"
    assert "label_rb" in said["column of the table ignored", "t.csv: label_rd"]
    assert "--columns label_rb=class" in said["column of the table ignored", "t.csv: class"]
    assert ("column of the table ignored", "t.csv: prob") in said


def test_a_table_whose_column_of_files_has_another_name_says_how_to_name_it(night, tmp_path):
    with pytest.raises(ReaderError, match="--columns file=Filename"):
        read(night, "Filename,label_rb\na0.png,1\n", tmp_path)
    columns = {"Filename": "file", "Class": "label_rb"}
    frame, _ = read(night, "Filename,Class\na0.png,1\n", tmp_path, columns=columns)
    assert frame["label_rb"].tolist() == [1, -1, -1]


def test_rows_of_other_lengths_are_said(night, tmp_path):
    frame, remarks = read(night, "file,label_rb,ra\na0.png,1,5\na1.png,0\na2.png,1,2,3\n", tmp_path)
    assert frame["label_rb"].tolist() == [1, 0, -1]
    assert [(r.what, r.source) for r in remarks[:2]] == [
        ("row of the table is short", "t.csv:2"),
        ("row of the table not understood", "t.csv:3"),
    ]


TIME = Time("2019-01-05T12:33:01.5", scale="utc")
TIMES = {
    "ISO": "2019-01-05T12:33:01.5",
    "ISO with a space": "2019-01-05 12:33:01.5",
    "ISO with Z": "2019-01-05T12:33:01.5Z",
    "ISO with an offset": "2019-01-05T14:33:01.5+02:00",
    "JD": f"{TIME.jd:.8f}",
    "MJD": f"{TIME.mjd:.8f}",
    "day of the year": "2019:005:12:33:01.5",
}


@pytest.mark.parametrize("text", TIMES.values(), ids=TIMES)
def test_times_are_read_as_astropy_reads_them(night, tmp_path, text):
    frame, remarks = read(night, f"file,jd\na0.png,{text}\n", tmp_path)
    assert abs(frame["jd"].iloc[0] - TIME.jd) < 1e-7
    what = ["jd modified Julian date, converted"] if text == TIMES["MJD"] else []
    assert [r.what for r in remarks] == what


def test_a_leap_second_is_a_time(night, tmp_path):
    frame, _ = read(night, "file,jd\na0.png,2016-12-31T23:59:60.5\n", tmp_path)
    assert abs(frame["jd"].iloc[0] - Time("2016-12-31T23:59:60.5").jd) < 1e-9


def test_a_column_mjd_holds_times(night, tmp_path):
    frame, remarks = read(night, f"file,MJD\na0.png,{TIME.mjd:.8f}\n", tmp_path)
    assert abs(frame["jd"].iloc[0] - TIME.jd) < 1e-7
    assert remarks == []


PLACES = {
    "degrees": ("187.5", "-12.25"),
    "hours": ("12:30:00", "-12:15:00"),
    "blanks": ("12 30 00", "-12 15 00"),
    "letters": ("12h30m00s", "-12d15m00s"),
    "degrees with letters": ("187d30m00s", "-12d15m"),
}


@pytest.mark.parametrize(("ra", "dec"), PLACES.values(), ids=PLACES)
def test_positions_are_degrees_or_sexagesimal(night, tmp_path, ra, dec):
    frame, _ = read(night, f"file,ra,dec\na0.png,{ra},{dec}\n", tmp_path)
    assert frame[["ra", "dec"]].iloc[0].tolist() == pytest.approx([187.5, -12.25])


def test_what_is_out_of_range_or_not_understood_is_said_and_missing(night, tmp_path):
    text = "file,ra,dec,jd,night,mag\na0.png,400,95,1,99999999,bright\na1.png,1,2,2458489,20190105,17\n"
    frame, remarks = read(night, text, tmp_path)
    assert frame.loc["a0", ["ra", "dec", "jd", "mag"]].isna().all()
    assert frame.loc["a0", "night"] == 20260101  # that of the folder
    assert frame.loc["a1", ["ra", "dec", "jd", "mag", "night"]].tolist() == [
        1, 2, 2458489, 17, 20190105,
    ]  # fmt: skip
    assert {(r.what, r.source, r.detail) for r in remarks} == {
        ("ra out of range", "t.csv:1", "400"),
        ("dec out of range", "t.csv:1", "95"),
        ("jd out of range", "t.csv:1", "1"),
        ("night out of range", "t.csv:1", "99999999"),
        ("mag not understood", "t.csv:1", "bright"),
    }


def test_filters_of_tables_are_bands(night, tmp_path):
    frame, remarks = read(
        night, "file,filter\na0.png,SDSS r\na1.png,ND 4\na2.png,ztf_g\n", tmp_path
    )
    assert frame["filter"].tolist() == ["r", "ND 4", "g"]
    assert [r.what for r in remarks] == ["filter not understood"]


def test_words_stand_for_labels(night, tmp_path):
    text = "file,class\na0.png,Asteroid\na1.png,bogus\na2.png,satellite\n"
    options = {"columns": {"class": "label_rb"}, "words": {"asteroid": 1}}
    frame, remarks = read(night, text, tmp_path, **options)
    assert frame["label_rb"].tolist() == [1, 0, -1]  # bogus is the family's own word
    assert [(r.what, r.detail) for r in remarks] == [("label_rb not understood", "satellite")]
    with pytest.raises(ReaderError, match=r"must hold 1, 0.*--labels"):
        read(night, text, tmp_path, columns={"class": "label_rb"})


def test_labels_come_from_folders(night, tmp_path):
    root = tmp_path / "in"
    places = {"moths": "a0.png", "Real": "a1.png", "kd/0": "a2.png", "other": "a0.png"}
    for k, (sub, name) in enumerate(places.items()):
        (root / sub).mkdir(parents=True)
        (root / sub / f"p{k}.png").write_bytes((night / name).read_bytes())
    options = ReadOptions(labels_from_folders=True, words={"moths": 0})
    (batch,) = get_reader("images").read(root, options)
    frame = pd.DataFrame(batch.columns).set_index("id")
    assert frame["label_rb"].to_dict() == {"p0": 0, "p1": 1, "p2": -1, "p3": -1}
    assert frame["label_kd"].to_dict() == {"p0": -1, "p1": -1, "p2": 0, "p3": -1}
    said = [(r.source, r.detail) for r in batch.remarks if r.what == "folder stands for no label"]
    assert said == [("other/p3.png", "other")]
    with pytest.raises(ReaderError, match="no folder's name stands for a label"):
        list(get_reader("images").read(root / "other", options))


def test_words_without_anything_that_has_them_are_refused(night):
    with pytest.raises(ReaderError, match="--labels-from-folders"):
        next(get_reader("images").read(night, ReadOptions(words={"asteroid": 1})))


def test_other_columns_are_kept_and_can_be_filtered_by(night, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("file,label_rb,prob,who,cand id,big\na0.png,1,0.9,Ann,7,1234567890123456789\n")
    ingest(night, tmp_path / "a.zarr")  # rows that are there before the columns are
    more = tmp_path / "20260102"
    more.mkdir()
    (more / "a0.png").write_bytes((night / "a0.png").read_bytes())
    pixels = np.random.default_rng(9).integers(0, 255, (40, 40), np.uint8)
    Image.fromarray(pixels).save(more / "a0.png")
    Image.fromarray(pixels.T.copy()).save(more / "b.png")
    columns = {"cand id": "mag"}
    (more / "a0.png").rename(more / "c.png")
    table.write_text(table.read_text().replace("a0.png", "c.png"))
    done = ingest(more, tmp_path / "a.zarr", table=table, keep_columns=True, columns=columns)
    assert (done.appended, done.total) == (2, 5)
    rows = open_archive(tmp_path / "a.zarr").load()
    at = {name: k for k, name in enumerate(rows["id"].values)}
    assert rows["prob"].values[at["c"]] == 0.9
    assert np.isnan(rows["prob"].values[[at["a0"], at["b"]]]).all()
    assert rows["who"].values.tolist().count("Ann") == 1
    assert rows["big"].values[at["c"]] == "1234567890123456789"  # no float holds it
    kinds = {"prob": "number", "who": "text"}
    chosen = parse('prob > 0.5 and who == "Ann"', kinds)
    assert np.flatnonzero(chosen({k: rows[k].values for k in kinds}, 5)).tolist() == [at["c"]]


def test_names_that_an_archive_cannot_have_are_changed_and_said(night, tmp_path):
    text = "file,2nd try,cutouts,P(real)\na0.png,1,2,3\n"
    frame, remarks = read(night, text, tmp_path, keep_columns=True)
    assert frame.loc["a0", ["column_2nd_try", "cutouts_", "P_real"]].tolist() == [1, 2, 3]
    assert {r.detail for r in remarks} == {"column_2nd_try", "cutouts_", "P_real"}


@pytest.mark.parametrize("suffix", [".parquet", ".ecsv", ".vot", ".fits"])
def test_tables_of_other_formats_have_the_same_columns(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    frame = pd.DataFrame({"file": ["a0.png", "a1.png"], "ra": [10.5, 11.25], "rb": [1, 0]})
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        form = {".ecsv": "ascii.ecsv", ".vot": "votable", ".fits": "fits"}[suffix]
        Table.from_pandas(frame).write(path, format=form)
    found = read_frame(path)
    assert found["file"].tolist() == ["a0.png", "a1.png"]
    assert found["ra"].tolist() == [10.5, 11.25]
    assert found["label_rb"].tolist() == [1, 0]


def test_units_and_times_of_astropys_tables_are_understood(tmp_path):
    table = QTable({"file": ["a"], "jd": Time([TIME]), "ra": [12.5] * u.hourangle})
    table.write(tmp_path / "t.ecsv", format="ascii.ecsv")
    found = read_frame(tmp_path / "t.ecsv")
    assert found["ra"].tolist() == pytest.approx([187.5])
    assert abs(found["jd"][0] - TIME.jd) < 1e-7
    sky = SkyCoord([187.5] * u.deg, [-12.25] * u.deg).galactic
    QTable({"file": ["a"], "where": sky}).write(tmp_path / "s.ecsv", format="ascii.ecsv")
    found = read_frame(tmp_path / "s.ecsv")
    assert found[["ra", "dec"]].iloc[0].tolist() == pytest.approx([187.5, -12.25])


def test_dates_of_parquet_are_times(tmp_path):
    frame = pd.DataFrame(
        {"file": ["a"], "jd": pd.to_datetime([TIME.isot]), "night": ["2019-01-05"]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    found = read_table(Path(tmp_path / "t.parquet")).frame
    assert abs(found["jd"][0] - TIME.jd) < 1e-7
    assert found["night"].tolist() == [20190105]


def test_identifiers_keep_their_digits(tmp_path):
    frame = pd.DataFrame({"id": ["007", "1e5", "12345678901234567890"], "rb": [1, 0, 1]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert read_frame(tmp_path / "t.csv")["id"].tolist() == ["007", "1e5", "12345678901234567890"]
