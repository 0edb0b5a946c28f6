"""A triage is made from a run, and a run that keeps to it loses what it says, goes on after kills, and sees drift."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import CampaignError, ModelError, TrainingError, TriageError
from deepstreaks_dask.models.registry import build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring import triage as triages
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.plan import CampaignOptions
from deepstreaks_dask.scoring.runs import open_run
from deepstreaks_dask.scoring.status import run_status
from deepstreaks_dask.scoring.triage import Triage
from deepstreaks_dask.training.distillation import TriagePlan, certainty, fit_triage

NIGHTS, A_NIGHT, SHARD = 12, 64, 64
SIDE = 48  # pixels: a ninth of the work
DRIFTED = 20260201
LAX = TriagePlan(first="kd_vgg6", check=0.2, loss=0.2, confidence=0.8)

CLIENT = """
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.plan import CampaignOptions
from deepstreaks_dask.scoring.triage import read_triage

def hold():  # a worker scores three units, and no more until it is killed
    import time
    from deepstreaks_dask.scoring import worker

    score_unit, done = worker.score_unit, []

    def held(unit):
        if len(done) == 3:
            time.sleep(600)
        done.append(unit)
        return score_unit(unit)

    worker.score_unit = held

if __name__ == "__main__":
    with connect(workers=1) as client:
        client.run(hold)
        score({url!r}, ensemble=Ensemble.from_zoo({zoo!r}), client=client, run="killed", mode="triage",
              options=CampaignOptions(triage=read_triage({triage!r})), progress=False)
"""


def gradients(n, seed):
    """Noise on slopes of all brightnesses, so that scores spread."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0, 255, (n, 1, 1)) + rng.uniform(-1, 1, (n, 1, 1)) * np.linspace(
        0, 144, SIDE
    )
    return np.clip(base + rng.normal(0, 20, (n, SIDE, SIDE)), 0, 255).astype(np.uint8)


def night_of(cutouts, night):
    names = np.array([f"{night}-{n}" for n in range(len(cutouts))], dtype=object)
    return CutoutBatch(cutouts, {"id": names, "night": np.full(len(cutouts), night, np.int32)})


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """One untrained network a family, of small pictures."""
    made = Zoo(tmp_path_factory.mktemp("models") / "zoo")
    for seed, family in enumerate(("rb", "sl", "kd")):
        keras.utils.set_random_seed(seed)
        card = Card(f"{family}_vgg6", "1", "vgg6", input_shape=(SIDE, SIDE, 1))
        made.save(build("vgg6", card.input_shape), card)
    return made.url


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """Twelve nights that are alike."""
    url = tmp_path_factory.mktemp("survey") / "survey.zarr"
    create_archive(url, shard=SHARD, shape=(SIDE, SIDE))
    append_batches(url, [night_of(gradients(A_NIGHT, k), 20260101 + k) for k in range(NIGHTS)])
    return url


@pytest.fixture(scope="module")
def decision(survey, zoo, client):
    """Thresholds that half of the cutouts reach, member by member."""
    scores = score(
        survey, ensemble=Ensemble.from_zoo(zoo), client=client, run="whole", progress=False
    )
    limits = np.quantile(scores["scores"].values, 0.5, axis=0)
    return Decision(dict(zip(map(str, scores["model"].values), map(float, limits), strict=True)))


@pytest.fixture(scope="module")
def exact(survey, zoo, client, decision):
    families = Ensemble.from_zoo(zoo)
    return score(
        survey,
        ensemble=families,
        client=client,
        run="exact",
        mode="decide",
        decision=decision,
        progress=False,
    )


@pytest.fixture(scope="module")
def triage(survey, zoo, client, exact):
    return fit_triage(survey, client, run="exact", zoo=zoo, plan=LAX, progress=False)


@pytest.fixture(scope="module")
def grown(survey, triage):
    """The same archive with one more night, of noise that is unlike the others."""
    noise = np.random.default_rng(0).integers(0, 256, (A_NIGHT, SIDE, SIDE), np.uint8)
    append_batches(survey, [night_of(noise, DRIFTED)])
    return survey


@pytest.fixture(scope="module")
def whole(grown, zoo, client):
    return score(grown, ensemble=Ensemble.from_zoo(zoo), client=client, run="whole", progress=False)


@pytest.fixture(scope="module")
def triaged(grown, zoo, client, triage):
    survey, families = grown, Ensemble.from_zoo(zoo)
    return score(
        survey,
        ensemble=families,
        client=client,
        run="triaged",
        mode="triage",
        progress=False,
        options=CampaignOptions(triage=triage),
    )


def test_a_triage_keeps_what_it_says_and_rejects_the_rest(triage, triaged, whole, decision):
    expected = decision.apply(whole)["plausible"].values
    decided = Decision.of_run(triaged).apply(triaged)
    found, rejected = decided["plausible"].values, triaged["rejected"].values
    assert not decided["undecided"].any()
    assert not (found & ~expected).any()
    np.testing.assert_array_equal(found[~rejected], expected[~rejected])
    calibrated = np.isin(triaged["night"].values, triage.nights)
    lost = (expected & ~found)[calibrated].sum()
    assert lost == triage.lost
    assert triage.lost <= 0.2 * triage.plausible
    assert 0.1 < rejected.mean() < 0.9
    looked = triaged["scores"].notnull().values
    assert not looked[rejected].any()
    np.testing.assert_array_equal(triaged["first_look"].values, whole["scores"].values[:, 2])
    np.testing.assert_array_equal(triaged["scores"].values[looked], whole["scores"].values[looked])


def test_other_thresholds_leave_open_what_was_rejected(triaged):
    rejected = triaged["rejected"].values
    other = Decision.of_run(triaged, {"rb_vgg6": 0.0}).apply(triaged)
    np.testing.assert_array_equal(other["undecided"].values & rejected, rejected)


def test_a_night_that_drifted_is_decided_exactly(triage, triaged, whole, decision):
    drifted = provenance_of(triaged)["drifted"]
    assert DRIFTED in drifted
    assert set(drifted).isdisjoint(triage.nights)
    assert provenance_of(triaged)["drift"][str(DRIFTED)] == pytest.approx(
        1 / (len(triage.nights) + 1)
    )
    there = np.isin(triaged["night"].values, drifted)
    assert not triaged["rejected"].values[there].any()
    found, expected = (decision.apply(run)["plausible"].values for run in (triaged, whole))
    np.testing.assert_array_equal(found[there], expected[there])


def test_the_provenance_tells_the_guarantee(triage, triaged):
    assert Triage.from_dict(provenance_of(triaged)["triage"]) == triage
    assert triage.run == "exact"
    assert triage.members.keys() == {"rb_vgg6@1", "sl_vgg6@1", "kd_vgg6@1"}
    assert set(triage.nights).isdisjoint(triage.checked.nights)
    assert triage.checked.plausible > 0


def test_a_triaged_run_is_done_to_the_last_shard(survey, triaged):
    assert triaged.sizes["cutout"] == (NIGHTS + 1) * A_NIGHT
    assert run_status(survey, "triaged").count("done") == NIGHTS + 1


def test_what_is_lost_is_made_again_to_the_last_bit(survey, zoo, client, triaged):
    folder = survey / "runs" / "triaged"
    for lost in ("scores/c/3/0", "first_look/c/3", "first_look/c/5", "rejected/c/7"):
        (folder / lost).unlink()
    torn = folder / "rejected" / "c" / "4"
    torn.write_bytes(torn.read_bytes()[:-3])
    again = score(
        survey,
        ensemble=Ensemble.from_zoo(zoo),
        client=client,
        run="triaged",
        mode="triage",
        progress=False,
    )
    for name in ("scores", "first_look", "rejected"):
        assert again[name].values.tobytes() == triaged[name].values.tobytes(), name
    assert provenance_of(again)["order"] == provenance_of(triaged)["order"]


def test_a_killed_triage_goes_on(survey, zoo, client, triage, triaged, tmp_path):
    triages.write_triage(triage, tmp_path / "triage.json")
    script = tmp_path / "client.py"
    script.write_text(CLIENT.format(url=str(survey), zoo=zoo, triage=str(tmp_path / "triage.json")))
    first_looks = survey / "runs" / "killed" / "first_look" / "c"
    with subprocess.Popen(
        [sys.executable, script], start_new_session=True, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 500
        while len(list(first_looks.glob("[0-9]*"))) < 2:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert open_run(survey, "killed")["scores"].isnull().all()
    again = score(
        survey,
        ensemble=Ensemble.from_zoo(zoo),
        client=client,
        run="killed",
        mode="triage",
        progress=False,
    )
    for name in ("scores", "first_look", "rejected"):
        assert again[name].values.tobytes() == triaged[name].values.tobytes(), name


def test_mistakes_are_named(survey, zoo, client, triage, triaged, decision):
    families = Ensemble.from_zoo(zoo)
    with pytest.raises(CampaignError, match="needs one"):
        score(survey, ensemble=families, client=client, run="new", mode="triage")
    with pytest.raises(CampaignError, match="has its own"):
        score(
            survey,
            ensemble=families,
            client=client,
            mode="triage",
            decision=decision,
            options=CampaignOptions(triage=triage),
        )
    with pytest.raises(CampaignError, match="name it"):
        score(survey, ensemble=families, client=client, options=CampaignOptions(triage=triage))
    few = Ensemble.from_zoo(zoo, ["rb", "sl"])
    with pytest.raises(TriageError, match="other members"):
        score(
            survey,
            ensemble=few,
            client=client,
            run="new",
            mode="triage",
            options=CampaignOptions(triage=triage),
        )
    with pytest.raises(CampaignError, match="made with no triage"):
        score(
            survey,
            ensemble=families,
            client=client,
            run="exact",
            mode="triage",
            options=CampaignOptions(triage=triage),
        )
    with pytest.raises(CampaignError, match="made with a triage"):
        score(
            survey,
            ensemble=families,
            client=client,
            run="triaged",
            mode="decide",
            decision=decision,
        )
    with pytest.raises(TriageError, match="triaged itself"):
        fit_triage(survey, client, run="triaged", zoo=zoo, plan=LAX)


def test_a_guarantee_that_cannot_be_given_is_refused_before_any_work(survey, zoo, client, exact):
    with pytest.raises(TriageError, match=r"takes 2,99., .* more"):
        fit_triage(
            survey, client, run="exact", zoo=zoo, plan=TriagePlan(first="kd_vgg6"), progress=False
        )
    with pytest.raises(TriageError, match="leave nights over"):
        TriagePlan(learn=0.6, check=0.5)


def test_a_student_learns_from_the_members(survey, client, exact, tmp_path):
    plan = TriagePlan(epochs=4, learn=0.4, check=0.1, loss=0.3, confidence=0.6)
    mine = str(tmp_path / "zoo")
    found = fit_triage(survey, client, run="exact", zoo=mine, plan=plan, progress=False)
    card = Zoo(mine).card(found.first)
    assert (card.ref, card.family) == ("first_vgg6@1", "first")
    assert set(card.training_data["nights"]).isdisjoint({*found.nights, *found.checked.nights})
    assert card.recipe["start"] in {"rb_vgg6@1", "sl_vgg6@1", "kd_vgg6@1"}
    decided = Decision.of_run(exact).apply(exact)
    sure = certainty(decided)
    far = np.abs(sure - 0.5) > 1e-6
    np.testing.assert_array_equal((sure > 0.5)[far], decided["plausible"].values[far])
    looks = open_run(survey, f"first-first_vgg6-{card.sha256[:12]}")["scores"].values[:, 0]
    assert np.corrcoef(looks[: len(sure)], sure)[0, 1] > 0.3


def test_a_student_may_see_fewer_pixels(survey, client, exact, tmp_path):
    mine = str(tmp_path / "zoo")
    half = {"precision": "mixed_bfloat16"}
    plan = TriagePlan(side=36, epochs=3, learn=0.4, check=0.1, loss=0.9, confidence=0.5, **half)
    found = fit_triage(survey, client, run="exact", zoo=mine, plan=plan, progress=False)
    card = Zoo(mine).card(found.first)
    assert (card.input_shape, card.resizes) == ((36, 36, 1), True)
    assert card.recipe["start"] == "random weights"
    assert card.recipe["precision"] == "mixed_bfloat16"
    looks = open_run(survey, f"first-first_vgg6-{card.sha256[:12]}")["scores"].values[:, 0]
    sure = certainty(Decision.of_run(exact).apply(exact))
    assert np.corrcoef(looks[: len(sure)], sure)[0, 1] > 0.3
    with pytest.raises(TriageError, match="a side of 3 pixels: give 24 to 512"):
        TriagePlan(side=3)
    with pytest.raises(ModelError, match="no precision 'float8'"):
        TriagePlan(precision="float8")


def test_a_student_says_what_it_cannot_read(survey, client, exact, tmp_path):
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(survey, damaged)
    for shard in (damaged / "cutouts").rglob("c/*/0/0"):
        shard.write_bytes(shard.read_bytes()[::-1])
    plan = TriagePlan(epochs=1, learn=0.4, check=0.1, loss=0.3, confidence=0.6)
    with pytest.raises(TrainingError, match="cannot be read"):
        fit_triage(
            damaged, client, run="exact", zoo=str(tmp_path / "zoo"), plan=plan, progress=False
        )


def test_from_the_command_line(survey, zoo, client, exact, tmp_path):
    shown = {}
    file = str(tmp_path / "triage.json")
    options = ["--first", "kd_vgg6", "--loss", "0.2", "--confidence", "0.8", "-o", file]
    for name, arguments in {
        "fit": ["triage", "fit", str(survey), "--run", "exact", *options],
        "score": ["score", str(survey), "--run", "cli", "--triage", file],
    }.items():
        where = ["--zoo", zoo, "--scheduler", client.scheduler.address]
        done = CliRunner().invoke(app, [*arguments, *where, "--json"])
        assert done.exit_code == 0, done.output
        shown[name] = json.loads(done.stdout)
    assert (
        shown["fit"]["guarantee"]
        == shown["score"]["guarantee"]
        == triages.read_triage(file).guarantee
    )
    assert shown["score"]["scored"] == shown["score"]["cutouts"]
    assert 0 < shown["score"]["rejected"] < shown["score"]["cutouts"]
    assert shown["score"]["seen"] == shown["fit"]["seen"]
