"""Workers that compute with cards, or lose them. No card is needed: what Keras would say of one stands in for it."""

import sys
import types

import keras
import numpy as np
import pytest
from dask.distributed import Client, LocalCluster, get_worker
from faulty import make_zoo, small_archive

from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.errors import CampaignError, StoppedError
from deepstreaks_dask.scoring import execution, machine, worker
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.ensemble import Ensemble

CARD = {"kind": "gpu", "device": "NVIDIA H200", "driver": "570.1", "host": "here"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return make_zoo(tmp_path_factory.mktemp("zoo") / "zoo", 1)


def _named():
    try:
        return str(get_worker().name)
    except ValueError:
        return ""


class Cards:
    """Workers in this process that compute with cards, as long as these are there."""

    def __init__(self, monkeypatch):
        self.gone, self.restarted = set(), set()
        own = {**machine.describe_worker(), **CARD}
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        for module in (machine, worker, execution):
            monkeypatch.setattr(module, "describe_worker", lambda: dict(own))
        # a process that is started again after its card is gone finds none
        monkeypatch.setattr(worker, "has_lost_card", lambda: _named() in self.restarted)
        monkeypatch.setattr(machine, "computes_with_card", lambda: _named() not in self.gone)


@pytest.fixture
def cards(monkeypatch):
    return Cards(monkeypatch)


def _cluster(workers):
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=None
    )


def _break(monkeypatch, broken):
    """Let networks fail in the library's own way on workers whose card is gone."""
    score_unit = worker._score_unit

    def fail(unit):
        if broken(_named()):
            raise RuntimeError("INTERNAL: CUDA error: device lost")
        return score_unit(unit)

    monkeypatch.setattr(worker, "_score_unit", fail)


@pytest.mark.parametrize("how", ["in the middle", "after a restart"])
def test_a_worker_that_loses_its_card_stops_and_others_go_on(
    tmp_path, zoo, cards, monkeypatch, capsys, how
):
    url = small_archive(tmp_path / "small.zarr", 12)
    (cards.gone if how == "in the middle" else cards.restarted).add("1")
    _break(monkeypatch, lambda name: name in cards.gone)
    with _cluster(2) as cluster, Client(cluster) as client:
        scored = score(url, ensemble=Ensemble.from_zoo(zoo, ["rb", "kd"]), client=client)
        names = {str(one["name"]) for one in client.scheduler_info()["workers"].values()}
    assert not np.isnan(scored["scores"].values).any()
    assert names == {"0"}
    err = capsys.readouterr().err
    assert "worker 1 on " in err
    assert "has lost its card, and ends" in err
    assert [one["device"] for one in provenance_of(scored)["workers"]] == ["NVIDIA H200"]


def test_a_campaign_whose_workers_all_lose_their_cards_ends(tmp_path, zoo, cards, monkeypatch):
    url = small_archive(tmp_path / "small.zarr", 3)
    cards.gone.update({"0"})
    _break(monkeypatch, lambda _: True)
    with (
        _cluster(1) as cluster,
        Client(cluster) as client,
        pytest.raises(StoppedError, match="all workers have lost their cards, the last of them"),
    ):
        score(url, ensemble=Ensemble.from_zoo(zoo, ["rb"]), client=client, progress=False)


def test_an_error_is_no_lost_card_while_the_card_computes(tmp_path, zoo, cards, monkeypatch):
    url = small_archive(tmp_path / "small.zarr", 3)
    _break(monkeypatch, lambda _: True)
    with _cluster(1) as cluster, Client(cluster) as client:
        with pytest.raises(StoppedError, match="device lost"):
            score(url, ensemble=Ensemble.from_zoo(zoo, ["rb"]), client=client, progress=False)
        assert len(client.nthreads()) == 1


def test_a_run_records_what_its_workers_compute_with(tmp_path, zoo, client):
    url = small_archive(tmp_path / "small.zarr", 3)
    families = Ensemble.from_zoo(zoo, ["rb", "kd"])
    for _ in range(2):
        scored = score(url, ensemble=families, client=client, progress=False)
    (found,) = provenance_of(scored)["workers"]
    assert found["kind"] == "cpu"
    assert found["device"] == machine.processor()
    assert (found["driver"], found["keras"]) == ("", keras.__version__)
    assert found["backend"] == keras.backend.backend()
    assert found["host"]


@pytest.mark.parametrize(
    ("environment", "devices", "expects"),
    [
        ({}, 1, False),  # a card that nobody gave to this process may be left idle
        ({"CUDA_VISIBLE_DEVICES": "2"}, 0, True),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f3c,GPU-11"}, 0, True),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 1, False),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1, False),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, 1, True),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, 0, False),  # an image of NVIDIA's without a card
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, 1, False),
        ({"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "-1"}, 1, False),
    ],
)
def test_a_card_is_expected_where_one_was_given(environment, devices, expects, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if "CUDA_VISIBLE_DEVICES" not in environment:
        monkeypatch.setattr(machine, "count_cards", lambda: devices)
    assert machine.expects_card() is expects


def test_a_worker_sees_its_own_card_only(monkeypatch):
    asked = []
    config = types.SimpleNamespace(
        list_physical_devices=lambda _: ["card 2", "card 0", "card 1"],
        set_visible_devices=lambda cards, _: asked.append(cards),
    )
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(config=config))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0,1")  # as dask-cuda has it
    machine.own_card()
    assert (asked, machine.os.environ["CUDA_VISIBLE_DEVICES"]) == ([], "2,0,1"), "the client's own"
    monkeypatch.setattr(machine, "parent_process", lambda: object())
    machine.own_card()
    assert asked == [["card 2"]]
    assert machine.os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_without_a_worker_a_lost_card_is_an_error(monkeypatch):
    monkeypatch.setattr(worker, "has_lost_card", lambda: True)
    with pytest.raises(CampaignError, match="this process has lost its card"):
        worker.score_unit(worker.Unit("", "", (), None, (), 1))


_SMI = """#!/bin/sh
echo "NVIDIA H200, 570.86.15, 143771 MiB, GPU-8f3c"
echo "NVIDIA H200, 570.86.15, 143771 MiB, GPU-11aa"
"""


def test_the_driver_is_asked_for_its_cards(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(machine, "_DRIVER_FILE", tmp_path / "nothing")
    assert [card["uuid"] for card in machine.cards_of_driver()] == ["GPU-8f3c", "GPU-11aa"]
    assert machine.driver() == "570.86.15"
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
    )
    monkeypatch.setattr(machine, "_DRIVER_FILE", version)
    assert machine.driver() == "535.104.05"
    version.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
    )
    assert machine.driver() == "570.86.15"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    assert machine.cards_of_driver() == []
