"""Archives are read as they stream by; nothing in them gets out, and none stops what came before it."""

import gzip
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstreaks_dask.readers import tarballs
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.readers.tarballs import count_members, is_tarball, members


def tarball(path, contents, mode="w:gz"):
    """Write members as ``{name: bytes, or a TarInfo}``."""
    with tarfile.open(path, mode) as archive:
        for name, data in contents.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info is data:
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def reasons(path, most=1000):
    return {
        name: found.reason if isinstance(found, Refused) else found
        for name, found in members(path, most)
    }


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(("suffix", "mode"), [(".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar", "w")])
def test_members_come_in_order(tmp_path, suffix, mode):
    path = tarball(tmp_path / f"a{suffix}", {"b": b"1", "night/a": b"", "./c": b"3" * 1000}, mode)
    assert is_tarball(path)
    assert list(members(path, 1000)) == [("b", b"1"), ("night/a", b""), ("./c", b"3" * 1000)]
    assert count_members(path) == 3


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 700, b"\0" * 10240, gzip.compress(b"\0" * 1024, mtime=0)]
)
def test_an_archive_of_nothing_has_a_reason(tmp_path, content):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    ((name, found),) = members(path, 1000)
    assert name == ""
    assert found.reason in ("damaged", "empty")
    assert count_members(path) == 1


def test_what_is_hostile_is_refused_and_the_rest_read(tmp_path):
    path = tarball(
        tmp_path / "a.tar.gz",
        {
            "good": b"1",
            "/etc/passwd": b"2",
            "a/../../b": b"3",
            "..\\b": b"4",
            "C:\\b": b"5",
            "n" * 300: b"6",
            "link": special("link", tarfile.SYMTYPE, "/etc/passwd"),
            "hard": special("hard", tarfile.LNKTYPE, "good"),
            "device": special("device", tarfile.CHRTYPE),
            "pipe": special("pipe", tarfile.FIFOTYPE),
            "folder": special("folder", tarfile.DIRTYPE),
            "._good": b"7",
            "large": b"8" * 1001,
            "n\udcff": b"9",
            "last": b"10",
        },
    )
    found = reasons(path)
    assert found == {
        "good": b"1",
        "/etc/passwd": "unsafe name",
        "a/../../b": "unsafe name",
        "..\\b": "unsafe name",
        "C:\\b": "unsafe name",
        "n" * 255: "unsafe name",
        "link": "not a file",
        "hard": "not a file",
        "device": "not a file",
        "pipe": "not a file",
        "large": "too large",
        "n\\xff": b"9",
        "last": b"10",
    }
    assert count_members(path) == len(found)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz"]


def test_what_came_before_the_damage_is_kept(tmp_path):
    path = tarball(
        tmp_path / "a.tar.gz", {f"m{k}": bytes(range(k, k + 50)) * 20 for k in range(99)}
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    *good, (name, found) = members(path, 1000)
    assert len(good) > 10
    assert all(isinstance(data, bytes) for _, data in good)
    assert (name, found.reason) == ("", "damaged")
    assert count_members(path) == len(good) + 1
    (tmp_path / "page.tar.gz").write_text("<html>404</html>" * 100)
    assert reasons(tmp_path / "page.tar.gz") == {"": "damaged"}
    assert reasons(tmp_path / "nowhere.tar.gz") == {"": "damaged"}


def test_an_archive_that_grows_beyond_all_bounds_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tarballs, "_MAX_MEMBER_BYTES", 2**20)
    large = tarball(tmp_path / "large.tar.gz", {"a": b"1", "b": bytes(2**22), "c": b"3"})
    assert reasons(large) == {"a": b"1", "b": "too large", "": "damaged"}
    many = tarball(tmp_path / "many.tar.gz", {f"m{k:05}": b"" for k in range(5000)})
    assert many.stat().st_size * 30 < 2**20
    *good, (_, last) = members(many, 1000)
    assert last.reason == "damaged"
    assert 1000 < len(good) < 5000
    with gzip.open(tmp_path / "zeros.tar.gz", "wb") as out:
        out.write(b"\0" * 2**22)
    assert reasons(tmp_path / "zeros.tar.gz") == {"": "damaged"}


@settings(max_examples=200)
@given(st.data())
def test_no_archive_stops_a_night(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    contents = {"a": b"1" * 600, "night/b": b"2", "c": b"3" * 10}
    raw = bytearray(tarball(folder / "seed.tar", contents, "w").read_bytes()[:4096])
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "mutated.tar.gz"
    packed = gzip.compress(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    path.write_bytes(packed[: data.draw(st.integers(len(packed) - 20, len(packed)))])
    for name, found in members(path, 1000):
        name.encode()
        assert isinstance(found, bytes) or (found.reason and found.detail)
    assert count_members(path) >= 0
