"""`connect` gives workers wherever they are, and one line where it cannot."""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import dask
import psutil
import pytest
from batch_systems import STAND_INS, stand_in
from dask.distributed import Client, LocalCluster, Security

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.scoring import cluster, starters
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.tls import PlainConnectionWarning

CERTIFICATES = Path(__file__).parents[2] / "cluster" / "tls" / "certificates.sh"


@pytest.fixture(autouse=True)
def no_cards(monkeypatch):
    """Whatever cards this machine has, the tests have none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Dask's configuration with certificates, as the script writes it."""
    folder = tmp_path_factory.mktemp("tls") / "it's here"
    subprocess.run([CERTIFICATES, folder], check=True, capture_output=True)
    return _read(folder)


def _read(folder):
    """What Dask makes of a folder of configuration, as `dask.config.set` takes it."""
    found = dask.config.collect(paths=[str(folder)], env={})
    return {"distributed.comm": dask.config.merge(dask.config.config, found)["distributed"]["comm"]}


def _alive(pid):
    return Path(f"/proc/{pid}").exists()


def test_local_workers_share_the_cores_and_end_with_the_client():
    with connect(workers=2) as client:
        seen = client.run(lambda: (os.getpid(), dict(os.environ)))
        assert len(seen) == 2
        cores = len(os.sched_getaffinity(0))
        for _, environment in seen.values():
            assert environment["TF_NUM_INTRAOP_THREADS"] == str(max(1, cores // 2))
            assert environment["CUDA_VISIBLE_DEVICES"] == "-1"
        assert set(client.nthreads().values()) == {2}
        assert client.dashboard_link.startswith("http://127.0.0.1:")
    assert not any(_alive(pid) for pid, _ in seen.values())


def test_a_worker_that_dies_slowly_is_no_error(monkeypatch):
    """Dask waits some seconds for a killed one, which a busy machine may not bury in time."""
    client = connect(workers=1)
    close, tries = client.cluster.close, []

    def in_vain(*args, **kwargs):
        tries.append(kwargs)
        close(*args, **kwargs)
        raise TimeoutError

    monkeypatch.setattr(client.cluster, "close", in_vain)
    client.close()
    client.close()  # as Dask does once more when Python ends, and then nothing answers any more
    assert len(tries) == 1


def test_workers_keep_the_memory_that_their_networks_ask_for_again(monkeypatch):
    name = "MALLOC_TRIM_THRESHOLD_"
    assert dask.config.get("distributed.nanny.pre-spawn-environ")[name] is None
    monkeypatch.setenv(name, "4711")  # given by somebody who knows better
    with connect(workers=1) as client:
        assert set(client.run(os.environ.get, name).values()) == {"4711"}
    monkeypatch.delenv(name)
    with connect(workers=1) as client:
        assert set(client.run(os.environ.get, name).values()) == {None}


def test_adaptive_workers_come_with_the_work_and_end_with_the_client():
    with connect(adapt=(0, 2)) as client:
        assert client.nthreads() == {}
        pids = set(
            client.gather(client.map(_wait_for_two, range(8), scheduler=client.scheduler.address))
        )
        assert len(pids) == 2
    assert not any(map(_alive, pids))


def _wait_for_two(_, scheduler):
    """Say which process this is, once there are two."""
    from dask.distributed import get_worker

    for _ in range(600):
        if len(get_worker().client.nthreads()) == 2:
            break
        time.sleep(0.1)
    return os.getpid()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"workers": 0}, "give 1 or more"),
        ({"adapt": (3, 2)}, "two numbers that rise"),
        ({"adapt": (0, 0)}, "two numbers that rise"),
        ({"adapt": (1, 2), "workers": 1}, "no other number"),
        ({"scheduler": "sulrm"}, "no scheduler 'sulrm': give local, gpu, slurm"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "no Dask scheduler answers at tcp://127.0.0.1:1"),
        ({"scheduler": "tcp://127.0.0.1:1", "workers": 2}, "are started there"),
        ({"scheduler": "tls://127.0.0.1:1"}, "wants certificates"),
        ({"scheduler": "nowhere/scheduler.json"}, "there is no scheduler file"),
        ({"scheduler": "gpu"}, "no NVIDIA GPU"),
        ({"scheduler": "slurm"}, "how many workers"),
        ({"scheduler": "kubernetes"}, "how many workers"),
    ],
)
def test_mistakes_are_one_line(arguments, match, monkeypatch):
    monkeypatch.setattr(cluster, "_SCHEDULER_TIMEOUT", "1s")
    with pytest.raises(DeepStreaksError, match=match) as error:
        connect(**arguments)
    assert "\n" not in str(error.value)


def _running(workers):
    """A scheduler that speaks TLS, where Dask is told to."""
    return LocalCluster(
        n_workers=workers,
        processes=False,
        protocol="tls://",
        host="127.0.0.1",
        security=Security(),
        dashboard_address=None,
    )


def test_a_running_scheduler_is_found_by_address_and_by_file(tmp_path, tls):
    with dask.config.set(tls), _running(1) as running:
        assert running.scheduler_address.startswith("tls://")
        with connect(running.scheduler_address) as client:
            assert client.submit(sum, [1, 2]).result() == 3
        file = tmp_path / "scheduler.json"
        # as a scheduler writes it when it starts: what workers later say of themselves is no JSON
        file.write_text(json.dumps(running.scheduler.identity(n_workers=0)))
        with connect(str(file)) as client:
            assert client.submit(sum, [1, 2]).result() == 3
        assert running.status.name == "running"  # it was not ours to end
        plain = running.scheduler_address.replace("tls://", "tcp://")
        with pytest.raises(DeepStreaksError, match="no Dask scheduler answers"):
            connect(plain)


def test_strangers_certificates_are_refused(tmp_path, tls, monkeypatch):
    monkeypatch.setattr(cluster, "_SCHEDULER_TIMEOUT", "2s")
    other = tmp_path / "other"
    subprocess.run([CERTIFICATES, other], check=True, capture_output=True)
    strange = _read(other)
    with dask.config.set(tls):
        running = _running(0)
    with running, dask.config.set(strange), pytest.raises(DeepStreaksError, match="answers"):
        connect(running.scheduler_address)


def test_local_workers_speak_tls_where_dask_is_told_to(tls):
    with dask.config.set(tls), connect(workers=1) as client:
        assert client.scheduler.address.startswith("tls://")
        assert all(address.startswith("tls://") for address in client.nthreads())


def test_certificates_are_for_their_owner_and_no_folder_is_overwritten(tmp_path):
    folder = tmp_path / "new" / "tls"
    said = subprocess.run([CERTIFICATES, folder, "2"], check=True, capture_output=True, text=True)
    assert said.stdout == f"export DASK_CONFIG={folder}\n"
    assert {path.stat().st_mode & 0o077 for path in [folder, *folder.iterdir()]} == {0}
    assert not list(folder.glob("ca-key*"))
    before = (folder / "ca.pem").read_bytes()
    again = subprocess.run([CERTIFICATES, folder], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert (folder / "ca.pem").read_bytes() == before
    for wrong in ([], [folder, "soon"]):
        assert (
            subprocess.run([CERTIFICATES, *wrong], capture_output=True, check=False).returncode == 2
        )


class _Cards:
    """Stands in for dask-cuda, which wants a card to start: a worker for each it is to use."""

    class LocalCUDACluster(LocalCluster):
        def __init__(self, n_workers, **options):
            options["host"] = None
            super().__init__(n_workers=n_workers, processes=False, **options)
            self.asked = n_workers

        def new_worker_spec(self):
            """As dask-cuda makes it: each worker sees all cards, its own first."""
            spec = super().new_worker_spec()
            if hasattr(self, "asked"):
                return {0: {"options": {"env": {"CUDA_VISIBLE_DEVICES": "3,0"}}}}
            return spec


def test_one_worker_a_card(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    monkeypatch.setitem(
        sys.modules, "dask_cuda", _with_spec(LocalCUDACluster=_Cards.LocalCUDACluster)
    )
    machine = {"kind": "gpu", "backend": "tensorflow", "host": "here"}
    monkeypatch.setattr(cluster, "describe_worker", lambda: machine)
    with connect() as client:  # where there are cards, they are what is meant
        assert client.cluster.asked == 2
        assert list(client.nthreads().values()) == [2, 2]
    with connect("gpu", adapt=(0, 2)) as client:
        assert client.cluster.asked == 1
    with pytest.raises(DeepStreaksError, match="3 workers for 2 GPUs"):
        connect("gpu", workers=3)
    shown = [worker["options"]["env"] for worker in client.cluster.new_worker_spec().values()]
    assert shown == [{"CUDA_VISIBLE_DEVICES": "3"}], "each worker sees its own card only"


def test_a_card_that_does_not_compute_is_refused(monkeypatch):
    """TensorFlow without CUDA's libraries would go on with the processor, and without a word."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setitem(
        sys.modules, "dask_cuda", _with_spec(LocalCUDACluster=_Cards.LocalCUDACluster)
    )
    monkeypatch.setitem(starters.STARTERS, "local", lambda asked: LocalCluster(0, processes=False))
    machine = {"kind": "cpu", "backend": "tensorflow", "host": "here"}
    monkeypatch.setattr(cluster, "describe_worker", lambda: machine)
    with pytest.raises(DeepStreaksError, match="tensorflow on here cannot compute with the GPU"):
        connect("gpu")
    with pytest.warns(UserWarning, match="cannot compute with the GPU.*Processors compute"):
        connect().close()  # nobody has asked for the card


def test_cards_without_dask_cuda(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with pytest.raises(DeepStreaksError, match=r"dask_cuda is missing: pip install .*\[gpu\]"):
        connect("gpu")
    with pytest.warns(UserWarning, match="there is a GPU, but not dask-cuda"):
        assert cluster._best_here() == "local"


def _with_spec(**attributes):
    module = types.ModuleType("stand-in")
    module.__spec__ = types.SimpleNamespace(name="stand-in")
    vars(module).update(attributes)
    return module


def _jobs(system, folder, **options):
    """Dask's configuration for small jobs on this machine."""
    return {
        f"jobqueue.{system}": {
            **dask.config.get(f"jobqueue.{system}"),
            "cores": 1,
            "processes": 1,
            "memory": "1GB",
            "local-directory": str(folder),
            "scheduler-options": {"host": "127.0.0.1", "dashboard_address": ":0"},
            **options,
        }
    }


@pytest.mark.parametrize("system", STAND_INS)
def test_jobs_of_a_batch_system_start_workers_and_end_with_the_client(
    system, tmp_path, monkeypatch, tls
):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    configured = system == "slurm"
    if configured:  # dask-jobqueue writes paths into its scripts as they are
        plain = tmp_path / "tls"
        subprocess.run([CERTIFICATES, plain], check=True, capture_output=True)
        tls = _read(plain)
    state = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    with (
        stand_in(system, tmp_path, monkeypatch) as jobs,
        dask.config.set({**_jobs(system, tmp_path), **(tls if configured else {})}),
    ):
        with connect(system, workers=2) as client:
            client.wait_for_workers(2, timeout=120)
            pids = set(client.run(os.getpid).values())
            assert len(pids) == 2
            assert client.scheduler.address.startswith("tls")
            keys = [path for path in state.rglob("*") if path.is_file()]
            assert len(keys) == (0 if configured else 3)  # authority, certificate, key
            assert {path.stat().st_mode & 0o777 for path in keys} <= {0o600}
            assert {path.parent.stat().st_mode & 0o777 for path in keys} <= {0o700}
            script = next(jobs.glob("*.sh")).read_text()
            assert "PRIVATE KEY" not in script
            assert "--no-dashboard" in script
            assert client.submit(sum, [1, 2]).result() == 3
        for _ in range(300):
            if not any(map(_alive, pids)):
                break
            time.sleep(0.1)
        assert not any(map(_alive, pids)), [log.read_text() for log in jobs.glob("*.log")]
    assert not [path for path in state.rglob("*") if path.is_file()], (
        "the keys end with the cluster"
    )


def test_batch_systems_want_encryption(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    plain = {"protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with stand_in("slurm", tmp_path, monkeypatch) as jobs:
        with (
            dask.config.set(_jobs("slurm", tmp_path, **{"scheduler-options": plain})),
            pytest.raises(
                DeepStreaksError, match="does not encrypt: remove the entry; give --insec"
            ),
        ):
            connect("slurm", workers=1)
        with dask.config.set(_jobs("slurm", tmp_path)):
            monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "my state"))
            with pytest.raises(DeepStreaksError, match="its path has a blank"):
                connect("slurm", workers=1)
            monkeypatch.setattr(Security, "temporary", _no_cryptography)
            for system in ("slurm", "local"):
                with pytest.raises(DeepStreaksError, match="pip install cryptography") as error:
                    connect(system, workers=1)
                assert "\n" not in str(error.value)
            (jobs / "hold").touch()
            with connect("slurm", workers=1, insecure=True) as client:
                assert client.scheduler.address.startswith("tcp://")


def _no_cryptography():
    raise ImportError("Using `Security.temporary` requires `cryptography`")


def test_clusters_that_are_started_here_admit_nobody_without_their_key(tmp_path):
    with connect(workers=1) as client:
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        (worker,) = client.nthreads()
        assert worker.startswith("tls://127.0.0.1:")
        for strange in (Security.temporary(), Security(require_encryption=False)):
            there = address if strange.require_encryption else address.replace("tls", "tcp")
            with pytest.raises((OSError, TypeError)):
                Client(there, security=strange, timeout="2s")
        listening = _listening(os.getpid(), *client.run(os.getpid).values())
        assert listening == {"127.0.0.1"}
        assert client.dashboard_link.startswith("http://127.0.0.1:")


def _listening(*pids):
    """Addresses at which processes wait for others to call."""
    found = [one for pid in pids for one in psutil.Process(pid).net_connections()]
    return {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN}


def test_a_scheduler_that_does_not_encrypt_is_warned_of(recwarn):
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=None
    ) as running:
        with pytest.warns(PlainConnectionWarning, match="run programs as you") as warned:
            connect(running.scheduler_address).close()
        assert "\n" not in str(warned[0].message)
        recwarn.clear()
        connect(running.scheduler_address, insecure=True).close()
        assert not [one for one in recwarn if one.category is PlainConnectionWarning]


def test_batch_systems_that_do_not_take_jobs_are_one_line(tmp_path, monkeypatch, capfd):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    monkeypatch.setenv("PATH", "/usr/bin/nothing-here")
    with pytest.raises(DeepStreaksError, match="no 'bsub': run this where jobs"):
        connect("lsf", workers=1)
    with stand_in("slurm", tmp_path, monkeypatch) as jobs:
        with pytest.raises(DeepStreaksError, match="Name its cores and memory") as error:
            connect("slurm", workers=1)
        assert "\n" not in str(error.value)
        (jobs / "refuse").touch()
        with (
            dask.config.set(_jobs("slurm", tmp_path)),
            pytest.raises(DeepStreaksError, match="Invalid account") as error,
        ):
            connect("slurm", workers=1)
        assert "\n" not in str(error.value)
    assert "Invalid account" not in capfd.readouterr().err  # nor does anything log it


def test_pods_are_asked_for_from_the_operator(monkeypatch):
    """Not checked here: an operator and a cluster that answer."""
    asked = []

    class KubeCluster(LocalCluster):
        def __init__(self, n_workers, quiet):
            asked.append(n_workers)
            super().__init__(n_workers=n_workers or 0, processes=False, dashboard_address=None)

    monkeypatch.setitem(sys.modules, "dask_kubernetes", _with_spec())
    monkeypatch.setitem(
        sys.modules, "dask_kubernetes.operator", _with_spec(KubeCluster=KubeCluster)
    )
    with connect("kubernetes", workers=2) as client:
        assert len(client.nthreads()) == 2
    with connect("kubernetes", adapt=(1, 3)) as client:
        client.wait_for_workers(1, timeout=60)
    assert asked == [2, 1]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", None)
    with pytest.raises(DeepStreaksError, match=r"dask_kubernetes is missing: .*\[cluster\]"):
        connect("kubernetes", workers=1)


def test_a_campaign_queues_more_as_workers_come(monkeypatch):
    """Else an adaptive cluster would see no reason to grow."""
    from deepstreaks_dask.scoring import execution

    monkeypatch.setattr(execution, "_THREAD_COUNT_INTERVAL", -1)
    client = types.SimpleNamespace(nthreads=lambda: {})
    room = execution._QueueLimit(client)
    few = room.tasks
    client.nthreads = lambda: {"a": 2, "b": 2}
    assert room.tasks == 4 * few > 0
    client.nthreads = lambda: {}
    assert room.tasks == few
