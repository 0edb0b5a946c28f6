"""What version 0.1.0 has stored is opened by this version, says the same, and is gone on with.

``fixtures/README.md`` says what ``fixtures/v0_1_0`` holds. It is never written again: where a test fails here, the code
has to change.
"""

import hashlib
import json
import shutil
import signal
import sqlite3
import tarfile
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors
from typer.testing import CliRunner

# All of the package that this test names; the rest goes by the command line.
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.review.database import Review
from deepstreaks_dask.review.people import RefusedError
from deepstreaks_dask.scoring.runs import list_runs, open_run
from deepstreaks_dask.scoring.triage import read_triage
from deepstreaks_dask.service.state import Ledger

STORED = Path(__file__).parent / "fixtures" / "v0_1_0"
EXPECTED = json.loads((STORED / "expected.json").read_text(encoding="utf-8"))
SHA256 = "a404915106ba50d4e6aad37184f636897b83d763198522baa905fb03d8e57499"

ARCHIVES = "nights.zarr", "small.zarr", "objects.zarr", "watched.zarr"
KEY = "file:///srv/survey/nights.zarr"
"""Under which the review has the verdicts on nights.zarr, which lay there."""

PASSWORD = "correct horse battery"
"""Of all people in the review: a password for tests, of nobody's."""

RUNS = {
    "nights.zarr default": ["score"],
    "nights.zarr cheap": ["score", "--decide", "-t", "kd=0.4"],
    "nights.zarr flipped": ["score", "--flips"],
    "small.zarr whole": ["score", "--zoo", "{here}/zoo"],
    "small.zarr exact": [
        *("score", "--zoo", "{here}/zoo", "--decide", "-t", "rb_vgg6=0.50128"),
        *("-t", "sl_vgg6=0.502069", "-t", "kd_vgg6=0.501044"),
    ],
    "small.zarr triaged": ["score", "--zoo", "{here}/zoo", "--triage", "{here}/triage.json"],
    "small.zarr own": ["score", "--families-file", "{here}/families.toml"],
    "objects.zarr default": ["sequences", "score", "--families", "hits"],
    "objects.zarr forest": ["sequences", "score", "--families", "hits", "--zoo", "{here}/zoo"],
    "watched.zarr default": ["score"],
}
"""How each run was made."""

scored_by_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the runs were begun with TensorFlow"
)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A copy of all that is stored, in the working directory: some of it names the rest by relative paths."""
    with tarfile.open(STORED / "stored.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def review(stored, cheap_passwords):
    opened = Review("sqlite:///nights.zarr.review.sqlite")
    yield opened
    opened.close()


def deepstreaks(*arguments):
    """Run a command, and give what it says as JSON."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def go_on(stored, which, client):
    """Score what a run lacks, as it was begun."""
    archive, run = which.split()
    command = [part.format(here=stored) for part in RUNS[which]]
    place = command.index("score") + 1
    options = ["--run", run, "--scheduler", client.scheduler.address]
    return deepstreaks(*command[:place], stored / archive, *command[place:], *options)


def plain(values):
    """Give an array as JSON can hold it, numbers as they are and NaN as None."""
    if values.dtype.kind == "f":
        return np.where(np.isnan(values), None, values.astype(float)).tolist()
    return values.astype(object).tolist()


def digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def decided(archive, run, *options):
    said = deepstreaks("decide", archive, "--run", run, *options)
    return {"undecided": said["undecided"], "ids": [row["id"] for row in said["candidates"]]}


def counted(*arguments):
    """Give the counts of an evaluation; the rest of it is computed from them and from scores."""
    said = deepstreaks("evaluate", "nights.zarr", *arguments)
    counts = {name: said["joint"][name] for name in ("tp", "fn", "fp", "tn")}
    return {"plausible": said["plausible"], "venn": said["venn"], **counts}


def contents(archive):
    """Give columns in words where they are few, hashes of all of them and of the pixels, and what the archive says."""
    dataset = open_archive(archive)
    columns = {str(name): plain(values.values) for name, values in dataset.coords.items()}
    pixels = {str(name): dataset[name].values for name in dataset.data_vars}
    return {
        "dimensions": {str(name): size for name, size in dataset.sizes.items()},
        "attributes": {k: v for k, v in provenance_of(dataset).items() if k != "url"},
        "first": {name: column[:2] for name, column in columns.items()},
        "columns": {name: digest(column) for name, column in columns.items()},
        "pixels": {
            name: [str(values.dtype), hashlib.sha256(values.tobytes()).hexdigest()]
            for name, values in pixels.items()
        },
        "quarantine": [
            {str(k): v if isinstance(v, str) else int(v) for k, v in row.items()}
            for row in quarantine(archive).to_dict("records")
        ],
    }


def scores_of(archive, run):
    """Give scores and provenance as they are stored."""
    scores = open_run(archive, run)
    beside = [name for name in ("first_look", "rejected") if name in scores]
    return {
        "dimensions": list(scores["scores"].dims),
        **{name: plain(scores[name].values) for name in ("scores", *beside)},
        "provenance": {k: v for k, v in provenance_of(scores).items() if k != "url"},
    }


def said_in_review():
    opened = Review("sqlite:///nights.zarr.review.sqlite")
    try:
        labels = opened.verdicts.labels(KEY)
        return {
            "verdicts": [one.to_dict() for one in opened.verdicts.current(KEY)],
            "labels": {"id": list(labels.index), **labels.to_dict("list")},
            "disagreements": opened.verdicts.disagreements(KEY).to_dict("list"),
            "tokens": {
                one.name: opened.accounts.tokens(one.name) for one in opened.accounts.users()
            },
            "log": opened.database.audit_log(),
        }
    finally:
        opened.close()


def recorded():
    ledger = Ledger(Path("watch/watch.sqlite"))
    try:
        table = ledger.candidates()
        return {
            "files": ledger.files(),
            "candidates": {str(name): plain(table[name].to_numpy()) for name in table},
            "mark": ledger.mark("default"),
        }
    finally:
        ledger.close()


TOPICS = {
    **{f"summary of {name}": partial(deepstreaks, "archive", "summary", name) for name in ARCHIVES},
    **{f"verify {name}": partial(deepstreaks, "archive", "verify", name) for name in ARCHIVES},
    **{f"contents of {name}": partial(contents, name) for name in ARCHIVES},
    **{f"scores of {which}": partial(scores_of, *which.split()) for which in RUNS},
    "candidates at 0.5": partial(deepstreaks, "decide", "nights.zarr"),
    "ids of nights.zarr at 0.5": partial(decided, "nights.zarr", "default"),
    "ids of nights.zarr as decided": partial(decided, "nights.zarr", "cheap"),
    "ids of nights.zarr at saved thresholds": partial(
        decided, "nights.zarr", "default", "--thresholds", "nights.zarr/thresholds/one in ten.toml"
    ),
    "ids of nights.zarr, calibrated": partial(decided, "nights.zarr", "default", "--calibrated"),
    "ids of small.zarr at saved thresholds": partial(
        decided,
        *("small.zarr", "whole", "--thresholds", "small.zarr/thresholds/by hand.toml"),
        *("-t", "rb=0.502"),
    ),
    "ids of small.zarr as decided": partial(decided, "small.zarr", "exact"),
    "ids of small.zarr as triaged": partial(decided, "small.zarr", "triaged"),
    "ids of small.zarr by own families": partial(decided, "small.zarr", "own"),
    "evaluation": counted,
    "thresholds of nights.zarr": partial(deepstreaks, "thresholds", "list", "nights.zarr"),
    "thresholds of small.zarr": partial(deepstreaks, "thresholds", "list", "small.zarr"),
    "cards": partial(deepstreaks, "models", "list", "--zoo", "zoo"),
    "triage": lambda: read_triage("triage.json").to_dict(),
    "users": partial(deepstreaks, "users", "list", "--archive", "nights.zarr"),
    "review": said_in_review,
    "ledger": recorded,
    "training that was done": partial(
        deepstreaks,
        *("train", "small.zarr", "--family", "kd", "--recipe", "short", "--epochs", 1),
        *("--seed", 4, "--out", "training/kd"),
    ),
}


def test_what_is_stored_was_not_written_again():
    assert hashlib.sha256((STORED / "stored.tar").read_bytes()).hexdigest() == SHA256
    assert TOPICS.keys() == EXPECTED.keys() - {"token", "revoked token"}


@pytest.mark.parametrize("topic", TOPICS)
def test_it_says_what_it_said(stored, topic):
    # what was said then is all said now; new entries of a table may be added
    assert_says(json.loads(json.dumps(TOPICS[topic]())), EXPECTED[topic])


def assert_says(found, expected, where=""):
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert found.keys() >= expected.keys(), where
        for key, value in expected.items():
            assert_says(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list), where
        assert len(found) == len(expected), where
        for place, value in enumerate(expected):
            assert_says(found[place], value, f"{where}/{place}")
    else:
        assert found == expected, where


def test_all_runs_are_there(stored):
    for archive in ARCHIVES:
        assert {which.split()[1] for which in RUNS if archive in which} <= {*list_runs(archive)}


def test_all_networks_are_whole(stored):
    done = CliRunner().invoke(app, ["models", "verify", "--zoo", "zoo"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("run", ["default", "flipped"])
def test_probabilities_are_those_of_the_stored_calibration(stored, run):
    options = "nights.zarr", "--run", run, "-t", "rb=0", "-t", "sl=0", "-t", "kd=0"
    raw, made = (
        deepstreaks("decide", *options, *more)["candidates"] for more in ([], ["--calibrated"])
    )
    curves = EXPECTED[f"scores of nights.zarr {run}"]["provenance"]["calibration"]["curves"]
    assert len(made) == 42
    for member, curve in curves.items():
        scores, found = (np.array([row[member] for row in rows]) for rows in (raw, made))
        if curve["method"] == "isotonic":
            expected = np.interp(scores, curve["scores"], curve["probabilities"])
        else:
            sure = np.clip(scores, 1e-7, 1 - 1e-7)
            expected = 1 / (1 + ((1 - sure) / sure) ** (1 / curve["temperature"]))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_people_and_programs_are_known(review):
    for name in ("vera", "anna", "ben"):
        assert review.accounts.person_of(review.accounts.log_in(name, PASSWORD)).name == name
    for name, password in (("anna", "another password"), ("carl", PASSWORD)):  # carl is disabled
        with pytest.raises(RefusedError):
            review.accounts.log_in(name, password)
    assert review.accounts.person_of_token(EXPECTED["token"]).name == "anna"
    assert review.accounts.person_of_token(EXPECTED["revoked token"]) is None


def test_reviewers_go_on(review):
    first = EXPECTED["review"]["verdicts"][0]
    again = review.verdicts.judge(KEY, first["cutout"], first["who"], note="seen again")
    assert (again.verdict, again.length, again.note) == (
        first["verdict"],
        first["length"],
        "seen again",
    )
    assert review.verdicts.undo(KEY, first["who"]).to_dict() == first


def test_verdicts_are_laid_over_an_archive_that_moved(stored):
    database = sqlite3.connect("nights.zarr.review.sqlite")
    with database:
        database.execute("update acts set archive = ?", [f"file://{stored}/nights.zarr"])
    database.close()
    said = EXPECTED["review"]["labels"]
    measured = deepstreaks("evaluate", "nights.zarr", "--verdicts")
    assert measured["cutouts"] == 42
    for family in ("rb", "sl", "kd"):
        archive = open_archive("nights.zarr")
        labels = dict(zip(archive["id"].values, archive[f"label_{family}"].values, strict=True))
        laid = zip(said["id"], said[f"label_{family}"], strict=True)
        labels |= {name: label for name, label in laid if label >= 0}
        (member,) = (row for row in measured["members"] if row["family"] == family)
        values = list(labels.values())
        assert (member["n_pos"], member["n_neg"]) == (values.count(1), values.count(0))


def chunks(archive):
    """Give the chunks of an archive's runs with their content and the times of their writing."""
    files = (path for path in Path(archive).glob("runs/*/**/c/**/*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("which", RUNS)
def test_a_run_that_is_done_is_not_computed_again(stored, client, which):
    archive, run = which.split()
    before = chunks(archive)
    assert any(run in path.parts for path in before)
    said = go_on(stored, which, client)
    assert said["scored"] == open_run(archive, run)["scores"].shape[0]
    assert said["failures"] == []
    assert chunks(archive) == before


@scored_by_tensorflow
@pytest.mark.parametrize(
    "which",
    ["nights.zarr default", "small.zarr whole", "small.zarr own", "objects.zarr forest"],
)
def test_scores_that_are_lost_are_computed_again(stored, client, which):
    archive, run = which.split()
    shutil.rmtree(Path(archive) / "runs" / run / "scores" / "c" / "0")
    go_on(stored, which, client)
    found = plain(open_run(archive, run)["scores"].values)
    expected = EXPECTED[f"scores of {which}"]["scores"]
    # another processor may round otherwise
    np.testing.assert_allclose(found, expected, atol=1e-4)


@scored_by_tensorflow
def test_cutouts_are_appended_and_scored(stored, client):
    simulated = ["--images", "--nights", 1, "--cutouts", 4, "--first", 20260110, "--seed", 9]
    deepstreaks("simulate", "more", *simulated)
    done = deepstreaks("ingest", "more/20260110", "nights.zarr", "--table", "more/20260110.csv")
    assert (done["appended"], done["total"]) == (4, 46)
    for which in ("nights.zarr default", "nights.zarr cheap"):
        said = go_on(stored, which, client)
        assert (said["scored"], said["cutouts"]) == (46, 46)
    now, before = open_run("nights.zarr"), EXPECTED["scores of nights.zarr default"]
    np.testing.assert_allclose(now["scores"].values[:42], before["scores"], atol=1e-4)
    assert now["night"].values[42:].tolist() == [20260110] * 4
    assert provenance_of(now)["calibration"] == before["provenance"]["calibration"]
    assert now.attrs["started"] == before["provenance"]["started"]
    assert decided("nights.zarr", "cheap") == decided("nights.zarr", "default", "-t", "kd=0.4")


@scored_by_tensorflow
def test_objects_are_appended_and_scored(stored, client):
    command = ["sequences", "simulate", "objects.zarr", "--survey", "hits"]
    done = deepstreaks(*command, "--objects", 2, "--first", 100, "--seed", 3)
    assert (done["appended"], done["total"]) == (2, 9)
    for which in ("objects.zarr default", "objects.zarr forest"):
        assert go_on(stored, which, client)["scored"] == 9
        now = open_run("objects.zarr", which.split()[1])["scores"].values
        np.testing.assert_allclose(now[:7], EXPECTED[f"scores of {which}"]["scores"], atol=1e-4)


def test_the_nightly_service_knows_what_it_has_taken(stored):
    said = deepstreaks("watch", "depot", "watched.zarr", "--night", 20260105, "--once")
    assert not any(said.values())


@scored_by_tensorflow
def test_a_training_that_was_killed_goes_on(stored):
    with safetensors.safe_open("training/rb/checkpoint.safetensors", "np") as file:
        before = json.loads(file.metadata()["training"])["standing"]
    assert before["epochs"] == 1
    options = ["--recipe", "short", "--epochs", 2, "--seed", 4, "--out", "training/rb"]
    (made,) = deepstreaks("train", "small.zarr", "--family", "rb", *options)
    assert made["model"] == "rb_vgg6@1"
    history = json.loads(Path("training/rb/record.json").read_text())["history"]
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(history, 2)
    assert {name: values[:1] for name, values in history.items()} == before["history"]
