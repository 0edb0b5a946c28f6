"""The job script of cluster/slurm scores an archive, by a real SLURM where there is one, else by a stand-in."""

import os
import shutil
import subprocess
import time
from functools import partial

import dask
import numpy as np
import pytest
import yaml
from batch_systems import slurm, stand_in
from cluster.conftest import DEPLOYMENTS

from deepstreaks_dask.scoring.runs import open_run

SCRIPT = DEPLOYMENTS / "slurm" / "campaign.sbatch"


def test_a_job_scores_an_archive_on_two_nodes(tmp_path, monkeypatch, environment, campaign, tiny):
    url, expected = campaign
    (tmp_path / "system").mkdir()
    monkeypatch.chdir(tmp_path)
    real = shutil.which("slurmctld") and os.geteuid() == 0
    system = partial(slurm if real else partial(stand_in, "slurm"), tmp_path / "system")
    with system(monkeypatch):
        submitted = subprocess.run(
            ["sbatch", "--nodes=2", SCRIPT, url, "--run", "jobs", "--zoo", tiny, "--json"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert "Submitted batch job" in submitted.stdout
        log = _wait_for(tmp_path, '"scored"')
        for _ in range(480):
            if not list(tmp_path.glob("deepstreaks-*.json")):
                break  # the job cleared away before it ended
            time.sleep(0.25)
    assert f'"scored": {len(expected)}' in log
    assert len(set(_registered(log))) == 2
    assert all(address.startswith("tls://") for address in _registered(log))
    scores = open_run(url, "jobs")["scores"].values
    np.testing.assert_array_equal(scores, expected)
    assert not list(tmp_path.glob("deepstreaks-*.json"))


def test_a_job_without_certificates_or_archive_says_so(monkeypatch):
    monkeypatch.delenv("DASK_CONFIG", raising=False)
    for arguments, said in (([], "usage: sbatch"), (["x.zarr"], "make certificates")):
        done = subprocess.run(
            ["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode
        assert said in done.stderr


@pytest.mark.parametrize("system", ["slurm", "pbs", "lsf"])
def test_the_jobqueue_files_make_jobs(system, monkeypatch):
    jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    file = yaml.safe_load((DEPLOYMENTS / "slurm" / "jobqueue.yaml").read_text())["jobqueue"]
    known = dask.config.get(f"jobqueue.{system}")
    assert set(file[system]) <= set(known)
    job = getattr(jobqueue, f"{system.upper()}Cluster").job_cls
    if system == "lsf":
        monkeypatch.setattr("dask_jobqueue.lsf.lsf_detect_units", lambda: "mb")
    with dask.config.set({f"jobqueue.{system}": {**known, **file[system]}}):
        script = job("tls://h:1", name="w").job_script()
    assert "--nthreads 2" in script
    assert "distributed.cli.dask_worker tls://h:1 --name w" in script
    assert "export TF_NUM_INTRAOP_THREADS=4" in script


def _registered(log):
    return [
        line.split("addr: ")[1].split()[0]
        for line in log.splitlines()
        if "Register worker addr" in line
    ]


def _wait_for(folder, text):
    for _ in range(2000):
        logs = "\n".join(file.read_text(errors="replace") for file in folder.glob("**/*.log"))
        if text in logs:
            return logs
        time.sleep(0.25)
    pytest.fail(f"no {text!r} in the job's log:\n{logs}")
