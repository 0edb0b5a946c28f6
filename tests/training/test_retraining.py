"""Networks trained again from what reviewers said, and what becomes of them."""

import json
import shutil

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.evaluation.model_comparison import ACCEPTANCE_RULE
from deepstreaks_dask.models.registry import build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.review.database import Review, archive_key, default_url
from deepstreaks_dask.training.checkpoints import CHECKPOINT_FILE
from deepstreaks_dask.training.recipe import Recipe
from deepstreaks_dask.training.retraining import VERDICTS_FILE, next_version, retrain

SIDE, NIGHTS = 24, 20
QUICK = Recipe(epochs=6, batch=16, test=0.4, validation=0.2, patience=6)


@pytest.fixture(scope="module")
def truth():
    return np.random.default_rng(3).integers(0, 2, 240)


@pytest.fixture(scope="module")
def survey(tmp_path_factory, truth):
    """Cutouts with a bright stripe or a dark one, on which the archive's labels are wrong half the time."""
    rng = np.random.default_rng(0)
    n = len(truth)
    cutouts = rng.integers(90, 130, (n, SIDE, SIDE), np.uint8)
    cutouts[:, 10:13] = np.where(truth, 230, 20)[:, None, None]
    url = tmp_path_factory.mktemp("survey") / "survey.zarr"
    create_archive(url, shard=64, shape=(SIDE, SIDE))
    columns = {
        "id": np.array([f"0{k}" for k in range(n)], dtype=object),
        "night": (20260101 + np.arange(n) * NIGHTS // n).astype(np.int32),
        "label_rb": rng.integers(-1, 2, n).astype(np.int8),
    }
    append_batches(url, [CutoutBatch(cutouts, columns)])
    return str(url)


@pytest.fixture(scope="module")
def review(survey, truth):
    """Anna says of all but the last ten what they are; ben disputes two, and is unsure of three more."""
    made = Review(default_url(survey))
    for name in ("anna", "ben"):
        made.accounts.add_user(name, "correct horse battery", "reviewer")
    key = archive_key(survey)
    for k, value in enumerate(truth[:-10]):
        made.verdicts.judge(key, f"0{k}", "anna", verdict="keep" if value else "bogus")
    for k in (0, 1):
        made.verdicts.judge(key, f"0{k}", "ben", verdict="bogus" if truth[k] else "keep")
    for k in (2, 230, 231):
        made.verdicts.judge(key, f"0{k}", "ben", verdict="unsure")
    made.verdicts.judge(key, "elsewhere", "ben", verdict="keep")
    return made


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A zoo with a network that has learned nothing, and takes the dark for the bright."""
    zoo = Zoo(tmp_path_factory.mktemp("old") / "zoo")
    keras.utils.set_random_seed(1)
    model = build("vgg6", (SIDE, SIDE, 1))
    stripes = np.full((2, SIDE, SIDE, 1), 110 / 255, np.float32)
    stripes[:, 10:13] = np.array([20, 230])[:, None, None, None] / 255
    dark, bright = model.predict(stripes, verbose=0)[:, 0]
    *body, kernel, bias = model.get_weights()
    model.set_weights([*body, kernel if dark > bright else -kernel, bias])
    zoo.save(model, Card("rb_vgg6", "1", "vgg6", input_shape=(SIDE, SIDE, 1)))
    return zoo.url


@pytest.fixture(scope="module")
def taught(tmp_path_factory, survey, review, old):
    folder = tmp_path_factory.mktemp("taught") / "training"
    return folder, retrain(folder, survey, review, "rb_vgg6@1", zoo=old, recipe=QUICK)


def test_verdicts_are_what_is_learned(taught, survey, truth):
    _, record = taught
    labels = open_archive(survey)["label_rb"].values
    counts = record["verdicts"]
    assert counts["labels_0"] + counts["labels_1"] == 228
    assert {k: counts[k] for k in ("disputed", "unsure", "not_in_archive")} == {
        "disputed": 2,
        "unsure": 2,
        "not_in_archive": 1,
    }
    # of the archive's own labels only those stand that nobody looked at
    assert counts["of_the_archive"] == (labels[232:] >= 0).sum()
    used = sum(record["counts"]["rb"].values())
    nights = open_archive(survey)["night"].values
    tested = np.isin(nights, record["split"]["test"])
    known = np.append(np.arange(230) > 1, [False, False, *(labels[232:] >= 0)])
    assert used == (known & ~tested).sum()
    assert record["comparison"]["cutouts"] == (known & tested).sum()


def test_the_comparison_is_in_the_record_and_on_the_card(taught, old):
    folder, record = taught
    found = record["comparison"]
    assert (found["better"], found["why_not"], found["rule"]) == (True, "", ACCEPTANCE_RULE)
    assert found["auc_gain"]["low"] > 0
    assert found["nights"] == 8
    assert found["with"] == f"rb_vgg6@1, {Zoo(old).card('rb_vgg6@1').sha256}"
    (card,) = Zoo(folder / "networks").list()
    assert (card.ref, card.to_dict()) == ("rb_vgg6@2", record["cards"][0])
    assert card.metrics["comparison"] == found
    assert card.training_data["verdicts"] == record["verdicts"]
    assert card.recipe["start"] == found["with"]
    assert not Zoo(folder / "networks").verify()
    assert json.loads((folder / "record.json").read_text())["comparison"] == found


def test_it_goes_on_with_the_verdicts_that_it_began_with(taught, survey, review, old, tmp_path):
    folder, record = taught

    class KilledError(Exception):
        pass

    def kill(epoch, losses):
        if epoch == 1:
            raise KilledError

    again = tmp_path / "again"
    arguments = (again, survey, review, "rb_vgg6")
    with pytest.raises(KilledError):
        retrain(*arguments, zoo=old, recipe=QUICK, on_epoch=kill)
    assert (again / CHECKPOINT_FILE).exists()
    key = archive_key(survey)
    review.verdicts.judge(key, "05", "ben", verdict="unsure")
    review.verdicts.judge(key, "05", "anna", verdict="unsure")
    try:
        resumed = retrain(*arguments, zoo=old, recipe=QUICK)
        assert resumed["history"] == record["history"]
        assert resumed["comparison"] == record["comparison"]
        assert (again / VERDICTS_FILE).read_bytes() == (folder / VERDICTS_FILE).read_bytes()
        with pytest.raises(
            TrainingError, match="labels"
        ):  # it is done, and people changed their minds
            retrain(*arguments, zoo=old, recipe=QUICK)
    finally:
        review.verdicts.undo(key, "anna")
        review.verdicts.undo(key, "ben")
    assert retrain(*arguments, zoo=old, recipe=QUICK) == resumed


def test_only_what_is_better_enters_the_zoo(taught, survey, old, tmp_path, monkeypatch):
    """The network that has learned all there is to learn gains nothing, and its nights are not tested on again."""
    folder, record = taught
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "training" / "rb_vgg6@2")
    (tmp_path / "quick.toml").write_text(QUICK.to_toml())
    quick = ["--recipe", "quick.toml", "--zoo", "mine"]

    def run(*options, code=0):
        done = CliRunner().invoke(app, ["retrain", survey, *options])
        assert done.exit_code == code, done.output
        return done.exception if code else done.stdout

    words = run("--from", "rb_vgg6@1", "--from-zoo", old, *quick)
    assert "put into mine" in words
    assert [card.to_dict() for card in Zoo("mine").list()] == record["cards"]
    (again,) = json.loads(run("--family", "rb", "--from-zoo", "mine", *quick, "--json"))
    assert (again["old"], again["new"]) == ("rb_vgg6@2", "rb_vgg6@3")
    assert (again["better"], again["zoo"]) == (False, None)
    assert "may be none" in again["why_not"] or "too few" in again["why_not"]
    assert [card.ref for card in Zoo("mine").list()] == ["rb_vgg6@2"]
    later = json.loads((tmp_path / "training" / "rb_vgg6@3" / "record.json").read_text())
    assert set(later["split"]["test"]) < set(record["split"]["test"])
    assert "not offered" in run("--family", "rb", "--from-zoo", "mine", *quick)
    assert "give --family" in str(run(code=1))


def test_mistakes_are_named(survey, review, old, tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    card = Card("sl_vgg6", "1", "vgg6", input_shape=(SIDE, SIDE, 1))
    zoo.save(build("vgg6", (SIDE, SIDE, 1)), card)
    with pytest.raises(TrainingError, match="no verdict on this archive says anything of family"):
        retrain(tmp_path / "a", survey, review, "sl_vgg6", zoo=zoo.url)
    with pytest.raises(TrainingError, match="name the new --version"):
        next_version(Card("rb_vgg6", "2026.11", "vgg6"))
    nights = np.unique(open_archive(survey)["night"].values).tolist()
    data = {
        "created": open_archive(survey).attrs["created"],
        "by": "night",
        "nights": {"train": nights, "validation": []},
    }
    card = Card("rb_vgg6", "1", "vgg6", input_shape=(SIDE, SIDE, 1), training_data=data)
    zoo.save(build("vgg6", (SIDE, SIDE, 1)), card)
    with pytest.raises(TrainingError, match="trained on every night"):
        retrain(tmp_path / "b", survey, review, "rb_vgg6", zoo=zoo.url)
