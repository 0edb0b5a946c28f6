"""Campaigns over sequences: whole objects, classes, and what becomes of an object that cannot be used."""

import shutil

import numpy as np
import pytest
from dask.distributed import Client
from helpers import make_known

from deepstreaks_dask.archive import layouts
from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.schema import EPOCHS
from deepstreaks_dask.archive.sequences import MAX_EPOCHS, Sequences, read_objects
from deepstreaks_dask.errors import CampaignError, DeepStreaksError, ModelError
from deepstreaks_dask.models.registry import build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.plan import STAMPS_PER_TASK, CampaignOptions, tasks_of_sequences

CLASSES = ("faint", "bright")
OBJECTS = 150


class ByBrightness:
    """The share of an object's stamps above a level: no network, and nothing that is pickled."""

    def __init__(self, level, classes=CLASSES):
        self.level, self.classes = np.float32(level), tuple(classes)

    def predict(self, sequences):
        bright = np.nanmean(sequences.stamps, axis=(1, 2)) > self.level
        share = np.add.reduceat(bright, sequences.starts) / sequences.counts
        return np.stack([1 - share, share], axis=1).astype(np.float32)

    def to_arrays(self):
        return {"level": np.array([self.level])}

    @classmethod
    def from_arrays(cls, classes, arrays):
        if set(arrays) != {"level"}:
            raise ModelError("it has no level")
        return cls(arrays["level"][0], classes)


@pytest.fixture(autouse=True)
def architecture(monkeypatch):
    make_known(monkeypatch, "brightness", ByBrightness)


@pytest.fixture(scope="module")
def client():
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as one:
        yield one


def objects(n, *, start=0, change=lambda stamps: None):
    rng = np.random.default_rng((5, start))
    counts = rng.integers(1, 30, n)
    stamps = rng.normal(0, 1, (counts.sum(), 21, 21)).astype(np.float32)
    stamps += rng.normal(0, 1, (counts.sum(), 1, 1))
    stamps[0, 3, 4] = np.nan
    change(stamps)
    times = np.concatenate([np.sort(rng.uniform(58000, 59000, k)) for k in counts])
    ids = np.array([f"o{start + k}" for k in range(n)], object)
    return CutoutBatch(stamps, {"id": ids}, counts=counts, epochs={"mjd": times})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    url = tmp_path_factory.mktemp("sequences") / "s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "EPOCHS_PER_SHARD", 256)  # objects lie in several shards of pixels
        create_archive(url, shard=64, shape=(21, 21), dtype="float32", epochs=EPOCHS)
        append_batches(url, [objects(OBJECTS)])
    return url


@pytest.fixture
def url(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "s.zarr")


@pytest.fixture
def zoo(tmp_path):
    store = Zoo(tmp_path / "zoo")
    for name, level in (("sky_low", -0.5), ("sky_high", 0.5)):
        card = Card(name, "1", "brightness", input_shape=(21, 21, 1), classes=CLASSES)
        store.save(ByBrightness(level), card)
    return str(tmp_path / "zoo")


def test_the_zoo_keeps_what_is_no_network(zoo, tmp_path):
    store = Zoo(zoo)
    card = store.card("sky_low")
    assert (card.classes, card.outputs, card.dtype) == (CLASSES, 2, "float32")
    assert Card.from_dict(card.to_dict()) == card
    assert store.load_classifier("sky_low").level == np.float32(-0.5)
    assert store.verify() == []
    with pytest.raises(ModelError, match="classifies sequences"):
        store.load("sky_low")
    with pytest.raises(ModelError, match="its card says bright, faint"):
        store.save(ByBrightness(0), Card("sky_x", "1", "brightness", classes=CLASSES[::-1]))
    with pytest.raises(ModelError, match="is no 'brightness'"):
        store.save(build("vgg6"), Card("sky_x", "1", "brightness", classes=CLASSES))
    with pytest.raises(ModelError, match="level of model 'sky_x@1' holds what is not finite"):
        store.save(ByBrightness(np.nan), Card("sky_x", "1", "brightness", classes=CLASSES))
    file = tmp_path / "zoo" / "sky_low" / "1" / card.file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="are damaged or were changed"):
        store.load_classifier("sky_low")


@pytest.mark.parametrize(
    "values", [{"classes": ()}, {"classes": "ab"}, {"classes": ("a", "a")}, {"classes": ("a", "")}]
)
def test_a_card_of_a_classifier_needs_classes(values):
    with pytest.raises(ModelError, match="classes"):
        Card("sky_low", "1", "brightness", **values)


def test_a_network_of_cutouts_has_no_classes():
    with pytest.raises(ModelError, match="classes"):
        Card("rb_vgg6", "1", "vgg6", classes=("a", "b"))


def test_scores_are_those_of_the_classifiers(url, zoo, client):
    found = score(url, ensemble=Ensemble.from_zoo(zoo, ["sky"]), client=client, progress=False)
    assert found["scores"].dims == ("object", "member", "class")
    assert found["member"].values.tolist() == ["sky_high", "sky_low"]
    assert provenance_of(found)["classes"] == list(CLASSES)
    assert provenance_of(found)["failures"] == []
    dataset = open_archive(url)
    every = Sequences(dataset["cutouts"].values, dataset["epochs"].values.astype(np.int64), {})
    for member, level in (("sky_high", 0.5), ("sky_low", -0.5)):
        expected = ByBrightness(level).predict(every)
        np.testing.assert_array_equal(found["scores"].sel(member=member).values, expected)


def test_nothing_is_decided_of_classes(url, zoo, client):
    found = score(url, ensemble=Ensemble.from_zoo(zoo, ["sky"]), client=client, progress=False)
    with pytest.raises(DeepStreaksError, match="run 'default' holds probabilities of classes"):
        Decision().apply(found)


def test_an_interrupted_run_goes_on_and_takes_in_what_was_appended(url, zoo, client, monkeypatch):
    families = Ensemble.from_zoo(zoo, ["sky"])
    reference = score(url, ensemble=families, client=client, run="whole", progress=False)[
        "scores"
    ].values
    found = score(url, ensemble=families, client=client, run="again", progress=False)
    chunk = url / "runs" / "again" / "scores" / "c" / "1" / "0" / "0"
    torn = chunk.read_bytes()
    chunk.write_bytes(torn[: len(torn) // 2])
    others = {path: path.stat().st_mtime_ns for path in chunk.parents[2].glob("[02]/0/0")}
    found = score(url, ensemble=families, client=client, run="again", progress=False)
    assert found["scores"].values.tobytes() == reference.tobytes()
    assert others == {path: path.stat().st_mtime_ns for path in others}
    append_batches(url, [objects(5, start=OBJECTS)])
    found = score(url, ensemble=families, client=client, run="again", progress=False)
    assert found["scores"].shape == (OBJECTS + 5, 2, 2)
    assert not found["scores"].isnull().any()


def test_what_cannot_be_used_is_named_and_stops_nothing(url, zoo, client):
    def blank(stamps):
        stamps[:] = np.nan

    added = append_batches(url, [objects(1, start=300, change=blank), objects(1, start=301)])
    assert (added.appended, added.reasons) == (1, {"blank": 1})
    long = objects(1, start=302)
    n = MAX_EPOCHS + 1
    stamps = np.random.default_rng(1).normal(size=(n, 21, 21)).astype(np.float32)
    append_batches(
        url,
        [
            CutoutBatch(
                stamps, long.columns, counts=np.array([n]), epochs={"mjd": np.arange(float(n))}
            )
        ],
    )
    # two shards of pixels, of which objects of several units have a part: one is damaged, one is gone
    (url / "cutouts" / "c" / "1" / "0" / "0").write_bytes(b"")
    (url / "cutouts" / "c" / "2" / "0" / "0").unlink()
    dataset = open_archive(url)
    ends = (dataset["offset"] + dataset["epochs"]).values
    touched = (ends > 256) & (dataset["offset"].values < 768)
    found = score(url, ensemble=Ensemble.from_zoo(zoo, ["sky"]), client=client, progress=False)
    lost = found["scores"].isnull().any(["member", "class"]).values
    expected = [*np.flatnonzero(touched).tolist(), OBJECTS + 1]
    assert np.flatnonzero(lost).tolist() == expected
    failures = provenance_of(found)["failures"]
    assert [[first, last] for first, last, _ in failures] == [[k, k + 1] for k in expected]
    assert failures[-1][2].startswith(f"{n} epochs")


def test_a_stamp_without_numbers_is_a_missing_epoch(url):
    extra = objects(2, start=300)
    extra.cutouts[0] = np.nan
    extra.cutouts[-1] = np.inf
    append_batches(url, [extra])
    stretch = read_objects(str(url), OBJECTS, OBJECTS + 2)
    assert stretch.failures == ()
    assert stretch.sequences.counts.tolist() == (extra.counts - 1).tolist()
    np.testing.assert_array_equal(stretch.sequences.stamps, extra.cutouts[1:-1])
    np.testing.assert_array_equal(stretch.sequences.epochs["mjd"], extra.epochs["mjd"][1:-1])
    assert np.isnan(stretch.sequences.epochs["fwhm"]).all()


def test_objects_can_be_taken_and_joined(url):
    sequences = read_objects(str(url), 0, 20).sequences
    rows = np.array([7, 2, 11])
    taken = sequences.take(rows)
    parts = [sequences.take(np.array([row])) for row in rows]
    for made in (taken, Sequences.join(parts)):
        for k, row in enumerate(rows):
            expected = sequences.stamps[sequences.starts[row] : sequences.ends[row]]
            np.testing.assert_array_equal(made.stamps[made.starts[k] : made.ends[k]], expected)


def test_mistakes_are_named(url, zoo, client, tmp_path):
    families = Ensemble.from_zoo(zoo, ["sky"])
    for options, words in (
        ({"mode": "decide", "decision": Decision()}, "holds sequences"),
        ({"options": CampaignOptions(precision="mixed_bfloat16")}, "holds sequences"),
    ):
        with pytest.raises(CampaignError, match=words):
            score(url, ensemble=families, client=client, progress=False, **options)
    with pytest.raises(CampaignError, match="takes single cutouts, but the archive has sequences"):
        score(url, ensemble=Ensemble.from_zoo(), client=client, progress=False)
    single = tmp_path / "single.zarr"
    create_archive(single, shape=(21, 21), dtype="float32")
    one = CutoutBatch(np.ones((1, 21, 21), np.float32), {"id": np.array(["a"], object)})
    append_batches(single, [one])
    with pytest.raises(CampaignError, match="takes sequences, but the archive has single cutouts"):
        score(single, ensemble=families, client=client, progress=False)
    card = Card("sky_other", "1", "brightness", input_shape=(21, 21, 1), classes=("a", "b"))
    Zoo(zoo).save(ByBrightness(0, ("a", "b")), card)
    with pytest.raises(CampaignError, match="tells other classes apart"):
        score(url, ensemble=Ensemble.from_zoo(zoo, ["sky"]), client=client, progress=False)
    card = Card("small_net", "1", "brightness", input_shape=(63, 63, 1), classes=CLASSES)
    Zoo(zoo).save(ByBrightness(0), card)
    with pytest.raises(CampaignError, match=r"\(63, 63, 1\), but the archive has float32"):
        score(url, ensemble=Ensemble.from_zoo(zoo, ["small"]), client=client, progress=False)


def test_shards_are_put_together_to_tasks_of_one_size_and_no_thread_is_left_without():
    shards = [(k, k + 10) for k in range(0, 800, 10)]

    def tasks(some, stamps):
        return tasks_of_sequences(some, [stamps * (last - first) for first, last in some], 2)

    short = tasks(shards, 20)
    assert [one for together in short for one in together] == shards
    assert {len(together) for together in short} == {20}  # two tasks for each of two threads
    long = tasks(shards, STAMPS_PER_TASK // 25)
    assert [one for together in long for one in together] == shards
    assert len(long) == 32  # as many for each thread
    assert {len(together) for together in long} == {2, 3}  # two and a half would be a task
    assert tasks(shards[:3], 20) == tuple((one,) for one in shards[:3])
    assert tasks(shards[:1], STAMPS_PER_TASK) == ((shards[0],),)
    assert tasks([], 20) == ()
