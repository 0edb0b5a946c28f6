"""A night of tarballs, tables and ADES files becomes cutouts; damage and malice become reasons."""

import gzip
import io
import itertools
import tarfile
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
from astropy.time import Time
from dask.distributed import Client
from PIL import Image

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.ades_files import read_ades
from deepstreaks_dask.readers.images import to_cutout
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader, sniff
from deepstreaks_dask.readers.streak_table import STREAK_COLUMNS, read_table
from deepstreaks_dask.simulation.nights import Night
from deepstreaks_dask.simulation.products import write_depot

NIGHT = 20260105
REAL_COLUMNS = ["jd", "ra", "dec", "ra1", "dec1", "ra2", "dec2", "length", "sigma", "flux", "snr"]


def jpeg(seed, size=(157, 157)):
    pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "JPEG", quality=92)
    return made.getvalue()


def ades(*ends, mag=None, band="r"):
    optical = "".join(
        f"<optical><obsTime>{time}</obsTime><ra>{ra}</ra><dec>{dec}</dec>"
        + (f"<mag>{mag}</mag>" if mag else "")
        + f"<band>{band}</band></optical>"
        for time, ra, dec in ends
    )
    return f'<ades version="2017"><obsBlock><obsData>{optical}</obsData></obsBlock></ades>'.encode()


def table(*rows, footer="(1 rows)"):
    lines = ["|".join(STREAK_COLUMNS), "+".join("-" * len(name) for name in STREAK_COLUMNS)]
    lines += ["|".join(str(row.get(name, "")) for name in STREAK_COLUMNS) for row in rows]
    return "\n".join([*lines, footer, ""])


def row(streak, **values):
    return {"streakid": streak, "pid": 9, "fid": 2, **values}


def member(name, kind=tarfile.REGTYPE, size=0, **values):
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, size
    for key, value in values.items():
        setattr(made, key, value)
    return made


def packed(files):
    """A tar archive of names with bytes, or of whole members."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files:
            info = name if isinstance(name, tarfile.TarInfo) else member(name, size=len(data))
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return made.getvalue()


def picture(streak):
    return f"strkid{streak}_pid9_scimref.jpg", jpeg(streak)


@pytest.fixture
def night(tmp_path):
    (tmp_path / str(NIGHT)).mkdir()
    return tmp_path / str(NIGHT)


def write(night, files, name="ztf_1_strkcutouts.tar.gz"):
    (night / name).write_bytes(gzip.compress(packed(files)))


def read(path, **options):
    """All batches as one frame of columns, the pixels, and what was refused."""
    batches = list(get_reader("depot").read(path, ReadOptions(**options)))
    frames = [pd.DataFrame(batch.columns) for batch in batches if len(batch.cutouts)]
    assert all(len(batch.cutouts) <= 512 for batch in batches)
    refused = [item for batch in batches for item in batch.quarantined]
    pixels = [cutout for batch in batches for cutout in batch.cutouts]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"id": []})
    return frame, pixels, refused


def reasons(refused):
    return {item.source: item.reason for item in refused}


def test_a_simulated_night_comes_back_as_it_was_written(tmp_path):
    written = pd.read_csv(write_depot(tmp_path, Night.draw(NIGHT, 3), 60, in_tarball=25))
    folder = tmp_path / str(NIGHT)
    assert len(list(folder.glob("*_strkcutouts.tar.gz"))) == 3
    assert sniff(folder).name == "depot"
    assert get_reader("depot").count(folder) == 120
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    assert append_batches(url, get_reader("depot").read(folder)).appended == 60
    dataset = open_archive(url)
    assert list(dataset["id"].values) == list(written["id"])
    assert list(dataset["filter"].values) == list(written["filter"])
    assert set(dataset["night"].values) == {NIGHT}
    for name in REAL_COLUMNS:
        np.testing.assert_allclose(dataset[name].values, written[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(dataset["mag"].values, written["mag"], atol=0.006)  # two decimals
    assert append_batches(url, get_reader("depot").read(folder)).already_present == 60


def test_equal_seeds_give_equal_products(tmp_path):
    for name in "ab":
        write_depot(tmp_path / name, Night.draw(NIGHT, 3), 5)
    products = [sorted((tmp_path / name).rglob("*.*")) for name in "ab"]
    assert len(products[0]) == 3
    for one, two in zip(*products, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_labels_of_a_table_go_along(tmp_path):
    truth = write_depot(tmp_path, Night.draw(NIGHT, 4), 10)
    frame, _, _ = read(tmp_path / str(NIGHT), table=truth)
    assert list(frame["label_rb"]) == list(pd.read_csv(truth)["label_rb"])


def middle(ra1, dec1, ra2, dec2):
    """Middle of a great circle by vectors, which know no poles."""
    lon, lat = np.radians([ra1, ra2]), np.radians([dec1, dec2])
    x, y, z = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]).sum(1)
    return np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y)))


@pytest.mark.parametrize(
    "ends",
    [
        (359.999, 10, 0.003, 10.002),
        (0.001, -20, 359.995, -20.001),
        (10, 89.999, 190, 89.998),
        (10, 89.999, 190, 89.999),
        (0, -89.9995, 120, -89.9999),
        (0, 90, 45, 89.99),
        (77, 33, 77, 33),
        (-0.001, 5, 0.002, 5),
    ],
)
@pytest.mark.parametrize("from_ades", [False, True])
def test_the_middle_lies_on_the_great_circle(night, ends, from_ades):
    ra1, dec1, ra2, dec2 = ends
    files = [picture(5)]
    if from_ades:
        data = ades(("2026-01-05T03:00:00Z", ra1, dec1), ("2026-01-05T03:00:30Z", ra2, dec2))
        files.append(("strkid5_pid9_ades.xml", data))
    else:
        text = table(row(5, ra1=ra1, dec1=dec1, ra2=ra2, dec2=dec2))
        (night / "ztf_1_streaks.txt").write_text(text)
    write(night, files)
    (found,) = read(night)[0].to_dict("records")
    ra, dec = middle(*ends)
    apart = (found["ra"] - ra + 180) % 360 - 180
    assert abs(apart * np.cos(np.radians(dec))) < 1e-9
    assert found["dec"] == pytest.approx(dec, abs=1e-9)
    assert 0 <= found["ra"] < 360
    assert (found["ra1"], found["dec1"]) == (ra1 % 360, dec1)


def test_the_middle_of_the_exposure(night):
    start = Time("2016-12-31T23:59:45", scale="utc")  # a leap second is in the middle
    end = Time("2017-01-01T00:00:14", scale="utc")
    text = table(row(5, startmjd=start.mjd, endmjd=end.mjd, jd=2450000.5))
    (night / "ztf_1_streaks.txt").write_text(text)
    write(night, [picture(5)])
    (found,) = read(night)[0].to_dict("records")
    expected = Time("2016-12-31T23:59:60", scale="utc").jd
    assert found["jd"] == pytest.approx(expected, abs=1e-8)


def test_what_is_missing_stays_missing(night):
    seen = ("2026-01-05T03:00:00Z", 10.0, 20.0), ("2026-01-05T03:00:30Z", 10.002, 20.0)
    xml = ades(*seen, mag=17.25, band="g")
    write(
        night,
        [
            picture(1),
            picture(2),
            picture(3),
            picture(4),
            ("strkid2_pid9_ades.xml", xml),
            ("strkid4_pid9_ades.xml", xml),
            ("strkid8_pid9_ades.xml", xml),  # and no cutout
            ("strkid1_pid9_sci.jpg", jpeg(99)),  # a sibling
        ],
    )
    rows = [row(s, ra1=30, dec1=40, ra2=30.001, dec2=40, length=7.5, fid=2) for s in (3, 4, 7)]
    (night / "ztf_1_streaks.txt").write_text(table(*rows, footer="(3 rows)"))
    frame, pixels, refused = read(night)
    assert not refused
    assert len(pixels) == 4
    found = frame.set_index("id").rename(lambda name: int(name[6]))
    assert found.loc[1, ["jd", "ra", "mag", "length"]].isna().all()
    assert found.loc[1, "filter"] == ""
    assert found.loc[2, ["ra", "mag"]].tolist() == pytest.approx([10.001, 17.25], abs=1e-6)
    assert found.loc[2, "jd"] == pytest.approx(Time("2026-01-05T03:00:15").jd, abs=1e-8)
    assert found["filter"].tolist() == ["", "g", "r", "r"]  # the table goes before
    assert found.loc[3, ["ra", "length"]].tolist() == pytest.approx([30.0005, 7.5], abs=1e-6)
    assert np.isnan(found.loc[3, "mag"])
    assert found.loc[4, ["ra", "mag"]].tolist() == pytest.approx([30.0005, 17.25], abs=1e-6)


def test_loose_ades_files_and_tables_of_other_tarballs_count(night):
    write(night, [picture(1)], "ztf_a_strkcutouts.tar.gz")
    write(night, [picture(2)], "ztf_b_strkcutouts.tar.gz")
    (night / "strkid1_pid9_ades.xml").write_bytes(ades(("2026-01-05T03:00:00", 10, 20)))
    (night / "ztf_z_streaks.txt").write_text(table(row(2, length=3)))
    frame, _, refused = read(night)
    assert not refused
    assert frame["ra"].tolist()[0] == 10
    assert frame["ra1"].isna().all()  # a point has no ends
    assert frame["length"].tolist()[1] == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ztf_20190203_1_strkcutouts.tar.gz", 20190203), ("x_strkcutouts.tar.gz", 20260106)],
)
def test_the_night_is_that_of_the_name_or_of_the_time(tmp_path, name, expected):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", [picture(1)], name)
    (tmp_path / "in" / "t_streaks.txt").write_text(table(row(1, jd=Time("2026-01-06T05:00:00").jd)))
    assert read(tmp_path / "in")[0]["night"].tolist() == [expected]
    assert read(tmp_path / "in", night=20200101)[0]["night"].tolist() == [20200101]
    assert read(tmp_path / "in" / name)[0]["id"].tolist() == ["strkid1_pid9"]


def test_a_truncated_tarball_gives_what_was_whole(night):
    files = [picture(k) for k in range(1, 9)]
    whole = gzip.compress(packed(files), mtime=0)
    counts = []
    for share in (0.3, 0.6, 0.9, 1.0):
        (night / "ztf_1_strkcutouts.tar.gz").write_bytes(whole[: int(len(whole) * share) - 1])
        frame, pixels, refused = read(night)
        assert [item.reason for item in refused] == ["damaged"]
        assert refused[0].source == "ztf_1_strkcutouts.tar.gz"
        assert refused[0].detail
        assert refused[0].night == NIGHT
        assert frame["id"].tolist() == [f"strkid{k}_pid9" for k in range(1, len(pixels) + 1)]
        for cutout, (_, data) in zip(pixels, files, strict=False):
            np.testing.assert_array_equal(cutout, to_cutout(Image.open(io.BytesIO(data))))
        counts.append(len(pixels))
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] == 8  # only the checksum is cut
    (night / "ztf_2_strkcutouts.tar.gz").write_bytes(gzip.compress(packed([picture(20)])))
    assert len(read(night)[1]) == 9


def test_a_wrong_checksum_spoils_the_whole_tarball(night):
    whole = bytearray(gzip.compress(packed([picture(1), picture(2)]), compresslevel=0))
    at = whole.index(b"\xff\xd9")  # in the first picture's end, where it would still decode
    whole[at - 40] ^= 1
    (night / "ztf_1_strkcutouts.tar.gz").write_bytes(whole)
    _, pixels, refused = read(night)
    assert not pixels
    assert reasons(refused) == {"ztf_1_strkcutouts.tar.gz": "wrong checksum"}


def test_damage_inside_the_archive_is_never_taken_for_its_end(night):
    inside = bytearray(packed([picture(1), picture(2), picture(3)]))
    second = inside.index(b"strkid2")
    for change in ({second: ord("S")}, dict.fromkeys(range(second, second + 512), 0)):
        damaged = bytearray(inside)
        for at, value in change.items():
            damaged[at] = value
        (night / "ztf_1_strkcutouts.tar.gz").write_bytes(gzip.compress(bytes(damaged)))
        frame, _, refused = read(night)
        assert frame["id"].tolist() == ["strkid1_pid9"]
        assert reasons(refused) == {"ztf_1_strkcutouts.tar.gz": "damaged"}


def test_hostile_members_are_refused_one_by_one(night, tmp_path):
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(jpeg(1))
    link = member("strkid11_pid9_scimref.jpg", tarfile.SYMTYPE, linkname=str(outside))
    hard = member("strkid12_pid9_scimref.jpg", tarfile.LNKTYPE, linkname="../../outside.jpg")
    before = sorted(tmp_path.rglob("*"))
    write(
        night,
        [
            picture(1),
            ("../../strkid2_pid9_scimref.jpg", jpeg(2)),
            ("/tmp/strkid3_pid9_scimref.jpg", jpeg(3)),
            ("a\\..\\strkid4_pid9_scimref.jpg", jpeg(4)),
            (link, b""),
            (hard, b""),
            (member("strkid13_pid9_scimref.jpg", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
            (member("strkid14_pid9_scimref.jpg", tarfile.FIFOTYPE), b""),
            ("strkid15_pid9_scimref.jpg", b""),
            ("strkid16_pid9_scimref.jpg", b"<html>"),
            ("strkid17_pid9_scimref.jpg", jpeg(17, (20, 157))),
            ("strkid18_pid9_ades.xml", b"<ades"),
            ("readme.md", b"hello"),
            (member("20260105", tarfile.DIRTYPE), b""),
            ("20260105/strkid19_pid9_scimref.jpg", jpeg(19)),
        ],
    )
    frame, _, refused = read(night)
    assert frame["id"].tolist() == ["strkid1_pid9", "strkid19_pid9"]
    found = {
        source.removeprefix("ztf_1_strkcutouts.tar.gz/"): r
        for source, r in reasons(refused).items()
    }
    assert found == {
        "../../strkid2_pid9_scimref.jpg": "unsafe name",
        "/tmp/strkid3_pid9_scimref.jpg": "unsafe name",
        "a\\..\\strkid4_pid9_scimref.jpg": "unsafe name",
        "strkid11_pid9_scimref.jpg": "not a file",
        "strkid12_pid9_scimref.jpg": "not a file",
        "strkid13_pid9_scimref.jpg": "not a file",
        "strkid14_pid9_scimref.jpg": "not a file",
        "strkid15_pid9_scimref.jpg": "empty",
        "strkid16_pid9_scimref.jpg": "not an image",
        "strkid17_pid9_scimref.jpg": "wrong shape",
        "strkid18_pid9_ades.xml": "damaged",
        "readme.md": "unknown",
    }
    assert sorted(p for p in tmp_path.rglob("*") if p.parent != night) == [
        p for p in before if p.parent != night
    ]


def test_bombs_are_refused_without_being_unpacked(night):
    small = "strkid1_pid9_scimref.jpg", jpeg(1)
    bomb = bytes(2**26 + 2**20)
    claims = member("strkid3_pid9_scimref.jpg", size=2**60).tobuf()
    long_name = member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=2**30).tobuf()
    tarballs = {
        "a_strkcutouts.tar.gz": packed([small, ("strkid2_pid9_scimref.jpg", bomb)]),
        "b_strkcutouts.tar.gz": packed([small])[:-10240] + claims + jpeg(3),
        "c_strkcutouts.tar.gz": long_name + bomb,
        "d_strkcutouts.tar.gz": packed([small])[:-10240] + bomb,
    }
    for name, content in tarballs.items():
        (night / name).write_bytes(gzip.compress(content, 1))
    del tarballs, bomb
    tracemalloc.start()
    frame, _, refused = read(night)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(frame["id"]) == {"strkid1_pid9"}
    assert {source.split("_")[0] for source in reasons(refused)} == set("abcd")
    assert set(reasons(refused).values()) <= {"damaged", "too large"}
    assert peak < 3e8


def test_not_a_tarball_and_links_out(night, tmp_path):
    (night / "a_strkcutouts.tar.gz").write_text("<html>404</html>")
    (night / "b_strkcutouts.tar.gz").write_bytes(b"")
    (night / "c_strkcutouts.tar.gz").write_bytes(gzip.compress(b"no tar archive at all"))
    (tmp_path / "outside").write_bytes(gzip.compress(packed([picture(1)])))
    (night / "d_strkcutouts.tar.gz").symlink_to(tmp_path / "outside")
    (night / "e_streaks.txt").symlink_to(tmp_path / "outside")
    frame, _, refused = read(night)
    assert frame.empty
    assert reasons(refused) == {
        "a_strkcutouts.tar.gz": "damaged",
        "b_strkcutouts.tar.gz": "damaged",
        "c_strkcutouts.tar.gz": "damaged",
        "d_strkcutouts.tar.gz": "not a file",
        "e_streaks.txt": "not a file",
    }


def test_tables_with_faults_give_the_rest(tmp_path):
    file = tmp_path / "t_streaks.txt"
    good = row(1, ra1=1, dec1=2, ra2=1.002, dec2=2, length=4)
    text = table(
        good,
        {**good, "streakid": "two"},
        row(3, ra1=400, dec1=2, ra2=1, dec2=95, startmjd=1e300, endmjd="now", length=-1, fid=7),
        good,
        {**good, "length": 5},
        row(4, flux="nan", sigma="inf", ra1="", length="1e999"),
    ).replace("(1 rows)", "1|2|3\n(6 rows)")
    file.write_text(text)
    frame, refused = read_table(file)
    assert frame.index.tolist() == [1, 3, 4]
    assert frame.loc[1, "length"] == 4
    kept = ["filter", "fid", "pid", "streakid"]  # the numbers that rows 3 and 4 have
    assert frame.drop(columns=kept).loc[[3, 4]].isna().all(axis=None)
    assert frame["fid"].isna().tolist() == [False, True, False]
    assert frame["filter"].tolist() == ["r", "", "r"]
    assert [(where, r.reason) for where, r in refused] == [
        (":4", "damaged"),
        (":7", "duplicate"),
        (":9", "damaged"),
    ]


def test_a_table_that_was_cut_short_loses_its_last_line(tmp_path):
    file = tmp_path / "t_streaks.txt"
    whole = table(row(1, length=4.25), row(2, length=4.25))
    file.write_text(whole[: whole.index("(1 rows)") - 10])
    frame, refused = read_table(file)
    assert frame.index.tolist() == [1]
    assert [r.detail for _, r in refused] == ["cut short: the table has no footer"]
    file.write_text("")
    assert read_table(file)[1][0][1].reason == "empty"
    file.write_text(table(footer="(0 rows)"))
    frame, refused = read_table(file)
    assert frame.empty
    assert not refused


def test_a_header_may_name_the_columns_in_another_order(tmp_path):
    file = tmp_path / "t_streaks.txt"
    file.write_text("\n".join(["length | streakid", "---+---", " 3.5 | 7", "4.5 | 8", "(2 rows)"]))
    frame, refused = read_table(file)
    assert frame["length"].to_dict() == {7: 3.5, 8: 4.5}
    assert not refused


BILLION = b"""<?xml version="1.0"?><!DOCTYPE ades [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>
<ades><optical><ra>&b;</ra></optical></ades>"""
EXTERNAL = (
    b"""<?xml version="1.0"?><!DOCTYPE ades SYSTEM "file:///etc/passwd"><ades><optical/></ades>"""
)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (BILLION, "not ADES"),
        (EXTERNAL, "not ADES"),
        (b"", "empty"),
        (b"<ades>", "damaged"),
        (b'<?xml version="1.0" encoding="klingon"?><ades/>', "damaged"),
        (b"<ades><obsBlock/></ades>", "not ADES"),
        (b"<html><optical/></html>", "not ADES"),
        (b"<ades><optical/>" + b" " * 2**18 + b"</ades>", "too large"),
        (b"<a>" * 40000, "damaged"),
    ],
)
def test_hostile_xml(data, reason):
    refused = read_ades(data)
    assert (refused.reason, bool(refused.detail)) == (reason, True)


def test_ades_that_makes_no_sense_says_nothing():
    assert read_ades(ades(("yesterday", 400, "north"), band="zz", mag=1e300)) == {}
    found = read_ades(ades(("2026-01-05T03:00:00.5Z", 1.5, -2), band="zr", mag=18))
    assert found.pop("jd") == pytest.approx(Time("2026-01-05T03:00:00.5").jd, abs=1e-9)
    assert found == {"ra": pytest.approx(1.5), "dec": pytest.approx(-2), "mag": 18, "filter": "r"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("depot")
    write_depot(folder, Night.draw(NIGHT, 5), 30, in_tarball=4)
    return folder / str(NIGHT)


@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_any_executor_gives_the_same(written, kind):
    here, pixels, _ = read(written)
    if kind == "dask":
        with Client(
            processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None
        ) as c:
            there, others, _ = read(written, executor=c.get_executor())
    else:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
            there, others, _ = read(written, executor=processes)
    pd.testing.assert_frame_equal(here, there)
    np.testing.assert_array_equal(pixels, others)


def test_pictures_before_they_were_resized_go_along(written):
    batch = next(iter(get_reader("depot").read(written)))
    for native, cutout in zip(batch.native, batch.cutouts, strict=True):
        np.testing.assert_array_equal(to_cutout(Image.fromarray(np.asarray(native))), cutout)


def test_an_archive_takes_everything(night, tmp_path):
    files = itertools.chain([picture(1), picture(1)], [("strkid2_pid9_scimref.jpg", jpeg(1))])
    write(night, list(files))
    (night / "a_streaks.txt").write_bytes(b"\xff\x00\n\xff|\x00\n")
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    summary = append_batches(url, get_reader("depot").read(night))
    assert summary.appended == 1
    assert summary.reasons == {"duplicate": 2, "damaged": 1}
    assert set(quarantine(url)["night"]) == {NIGHT}


def test_mistakes_are_named(tmp_path):
    (tmp_path / "t_streaks.txt").write_text(table(row(1)))
    with pytest.raises(ReaderError, match="no file that ends in _strkcutouts"):
        read(tmp_path)
