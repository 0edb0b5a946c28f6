import io
import shutil
import threading

import numpy as np
import pytest
from helpers import random_batch, random_run, write_run
from PIL import Image

from deepstreaks_dask.apps.server import context
from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.evaluation.active_learning import ORDERS, with_agreement
from deepstreaks_dask.evaluation.labels import plausibility_labels
from deepstreaks_dask.review import catalogue as module
from deepstreaks_dask.review.catalogue import Catalogue
from deepstreaks_dask.review.ids import Ids
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import Run, open_run


@pytest.fixture(scope="module")
def url(simulated, tmp_path_factory):
    copy = shutil.copytree(simulated, tmp_path_factory.mktemp("catalogue") / "week.zarr")
    names = ("rb_vgg6", "rb_resnet50", "sl_vgg6", "kd_vgg6")
    write_run(copy, "default", names, random_run(240)["scores"].values[:, :4])
    return str(copy)


DECISION = Decision({"rb": 0.6})


@pytest.fixture(scope="module")
def decided(url):
    return DECISION.apply(open_run(url))


def made(decided):
    return Catalogue(decided, DECISION)


@pytest.fixture
def small_blocks(monkeypatch):
    """Make the archive a large one: four blocks of rows, two of which are kept."""
    monkeypatch.setattr(module, "_BLOCK_ROWS", 64)
    monkeypatch.setattr(module, "_MAX_CACHED_BLOCKS", 2)


@pytest.mark.parametrize("whole_first", [False, True])
def test_rows_are_those_of_the_whole_column(decided, small_blocks, whole_first):
    catalogue, reference = made(decided), made(decided)
    rows = np.random.default_rng(0).integers(0, 240, 50)
    for name in catalogue:
        if whole_first:
            catalogue[name]
        np.testing.assert_array_equal(catalogue.take(name, rows), reference[name][rows])
        assert len(catalogue.take(name, rows[:0])) == 0
    assert len(catalogue._blocks) <= 2


def test_columns_are_the_archives(decided, small_blocks):
    catalogue = made(decided)
    for name in ("id", "kind", "source", "filter"):
        assert catalogue[name].tolist() == decided[name].values.tolist()
    assert catalogue["plausible"].tolist() == decided["plausible"].values.tolist()
    best = np.fmax(*(decided["scores"].sel(model=m).values for m in ("rb_vgg6", "rb_resnet50")))
    np.testing.assert_array_equal(catalogue["rb"], best)
    assert catalogue.simulated.all()


def test_agreement_is_computed_when_asked_for(decided, small_blocks):
    catalogue = made(decided)
    whole = with_agreement(decided, DECISION)
    for name in ("rb_spread", "kd_entropy", *ORDERS):
        np.testing.assert_array_equal(catalogue[name], whole[name].values)
    assert catalogue["labelled"].tolist() == (plausibility_labels(decided) >= 0).tolist()
    assert catalogue.where("labelled and entropy > 0.5").sum() == (whole["entropy"] > 0.5).sum()


def test_a_record_loads_no_column(decided, small_blocks):
    catalogue = made(decided)
    record = catalogue.record(200)
    assert not set(catalogue._columns) & {"id", "kind", "source", "jd", "ra", "spread", "labelled"}
    assert record["id"] == str(decided["id"].values[200])
    assert record["night"] == int(decided["night"].values[200])
    assert set(record) == set(catalogue)


def test_ids_are_found_and_others_are_not(decided, small_blocks):
    catalogue = made(decided)
    ids = decided["id"].values.tolist()
    rows = np.random.default_rng(1).permutation(240)
    assert catalogue.index.get_indexer([ids[row] for row in rows]).tolist() == rows.tolist()
    assert [catalogue.find(ids[7]), catalogue.find("none"), catalogue.find("")] == [7, -1, -1]
    assert catalogue.index.get_indexer([]).tolist() == []
    assert Ids([]).get_indexer(["a"]).tolist() == [-1]
    assert Ids([np.array(["a", "ä", "b" * 999], object)]).get_indexer(["ä", "b"]).tolist() == [
        1,
        -1,
    ]


def test_pictures_are_the_pixels_whoever_asks(decided, url, monkeypatch):
    monkeypatch.setattr(module, "_MAX_CACHED_PIXEL_BYTES", 64 * 144 * 144)  # one chunk is kept
    catalogue = made(decided)
    pixels = open_archive(url)["cutouts"].values
    rows, wrong = np.random.default_rng(2).integers(0, 240, (4, 30)), []

    def look(some):
        for row in some:
            picture = np.asarray(Image.open(io.BytesIO(catalogue.picture(int(row)))))
            if not np.array_equal(picture, pixels[row]):
                wrong.append(row)

    people = [threading.Thread(target=look, args=(some,)) for some in rows]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert not wrong
    assert len(catalogue._chunks) == 1


def test_a_chunk_that_cannot_be_read_is_tried_again(decided, monkeypatch):
    catalogue = made(decided)
    whole = catalogue._pixels

    class Torn:
        def __getitem__(self, key):
            raise ValueError("cut short")

    monkeypatch.setitem(catalogue.__dict__, "_pixels", Torn())
    for _ in range(2):
        with pytest.raises(OSError, match="cutout 3 cannot be read"):
            catalogue.picture(3)
    monkeypatch.setitem(catalogue.__dict__, "_pixels", whole)
    assert catalogue.picture(3).startswith(b"\x89PNG")


def test_the_archive_under_review_refreshes_by_itself(tmp_path, monkeypatch):
    """Each campaign that scored something is seen, two within a second, too."""
    monkeypatch.setattr(context, "_MAX_CATALOGUE_AGE", -1.0)
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    append_batches(url, [random_batch(70)])
    write_run(url, "default", ("rb_vgg6",), np.full((70, 1), np.nan, np.float32))
    site, run = context.Site(str(url), "default", "key", None), Run.open(url, "default", write=True)
    for scored in (0, 64, 70):
        run.scores[:scored] = 0.9
        run.touch(())
        assert site.catalogue()["plausible"].sum() == scored
        assert site.catalogue() is site.catalogue()
    append_batches(url, [random_batch(80, start=70)])
    assert site.catalogue().rows == 150
