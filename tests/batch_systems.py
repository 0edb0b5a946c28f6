"""Batch systems on this machine: a real SLURM of three nodes, and stand-ins that start jobs as processes."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

# A job is a session of its own, whose process group `cancel` ends. It waits for as long as there is a file "hold". Output
# goes where the script's directives say.
_SUBMIT = """
import os, pathlib, re, subprocess, sys
state = pathlib.Path({state!r})
if (state / "refuse").exists():
    sys.exit("{command}: error: Batch job submission failed: Invalid account")
arguments = sys.argv[1:]
script = sys.stdin.read() if {stdin} and not arguments else None
number = os.getpid()  # jobs are submitted side by side
environment = {{**os.environ, "SLURM_JOB_ID": str(number), "SLURM_SUBMIT_DIR": os.getcwd()}}
while arguments and arguments[0].startswith("-"):
    name, _, value = arguments.pop(0).lstrip("-").partition("=")
    if name == "nodes":
        environment["SLURM_JOB_NUM_NODES"] = value
if script is None:
    script = pathlib.Path(arguments.pop(0)).read_text()
nodes = re.search(r"^#SBATCH --nodes=(\\d+)", script, re.M)
environment.setdefault("SLURM_JOB_NUM_NODES", nodes[1] if nodes else "1")
copy = state / f"{{number}}.sh"
copy.write_text(script)
wait = f'while [ -e "{{state}}/hold" ]; do sleep 0.05; done; touch "{{state}}/{{number}}.began"; exec bash "$@"'
with (state / f"{{number}}.log").open("wb") as log:
    process = subprocess.Popen(
        ["bash", "-c", wait, "job", str(copy), *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        env=environment, start_new_session=True,
    )
(state / f"{{number}}.job").write_text(str(process.pid))
print({answer!r}.format(number))
"""

_CANCEL = """
import os, pathlib, signal, sys
for number in sys.argv[1:]:
    try:
        os.killpg(int((pathlib.Path({state!r}) / f"{{number.split('.')[0]}}.job").read_text()), signal.SIGTERM)
    except (OSError, ValueError):
        pass
"""

# As many copies as there are nodes, as `srun` starts them with one task a node.
_RUN = """
import os, signal, subprocess, sys
arguments = sys.argv[1:]
while arguments[0].startswith("-"):
    arguments.pop(0)
tasks = [
    subprocess.Popen(arguments, env={**os.environ, "SLURM_PROCID": str(k)})
    for k in range(int(os.environ["SLURM_JOB_NUM_NODES"]))
]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""

STAND_INS = {
    "slurm": ("sbatch", "scancel", "Submitted batch job {}"),
    "pbs": ("qsub", "qdel", "{}.stand-in"),
    "lsf": ("bsub", "bkill", "Job <{}> is submitted to default queue <normal>."),
}


@contextmanager
def stand_in(system, folder, monkeypatch):
    """Put commands on the path that look like a batch system's and start jobs as processes; give their folder."""
    commands, state = folder / "bin", folder / "jobs"
    commands.mkdir()
    state.mkdir()
    submit, cancel, answer = STAND_INS[system]
    values = {"state": str(state), "command": submit, "answer": answer, "stdin": system == "lsf"}
    _write(commands / submit, _SUBMIT.format(**values))
    _write(commands / cancel, _CANCEL.format(**values))
    if system == "slurm":
        _write(commands / "srun", _RUN)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    try:
        yield state
    finally:
        for job in state.glob("*.job"):
            with suppress(OSError):
                os.killpg(int(job.read_text()), signal.SIGKILL)


def _write(path: Path, code: str) -> None:
    path.write_text(f"#!{sys.executable}\n{code}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


_SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName=n[1-3] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[3]}] CPUs=2 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES
"""


@contextmanager
def slurm(folder, monkeypatch):
    """Start a SLURM of three nodes, all of them this machine, or skip the test where it is not installed."""
    if not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch", "srun"))):
        pytest.skip("SLURM is not installed: apt-get install slurmctld slurmd slurm-client")
    if os.geteuid():
        pytest.skip("SLURM's daemons want to be started by root")
    nodes = ("n1", "n2", "n3")
    for name in ("state", *(f"spool-{node}" for node in nodes)):
        (folder / name).mkdir()
    (folder / "cgroup.conf").touch()
    host, first = socket.gethostname().split(".")[0], _free_ports(4)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        _SLURM.format(host=host, folder=folder, user="root", ports=range(first, first + 4))
    )
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    daemons = [["slurmctld", "-D", "-c"], *(["slurmd", "-D", "-N", node] for node in nodes)]
    with (folder / "daemons.log").open("wb") as log:
        running = [subprocess.Popen(daemon, stdout=log, stderr=log) for daemon in daemons]
    try:
        for _ in range(240):
            states = subprocess.run(
                ["sinfo", "-h", "-o", "%T %D"], capture_output=True, text=True, check=False
            )
            if states.stdout.split() == ["idle", "3"]:
                break
            time.sleep(0.25)
        else:
            pytest.fail(f"SLURM does not start: {states}\n{(folder / 'daemons.log').read_text()}")
        yield folder
    finally:
        subprocess.run(["scancel", "--full", "--user", "root"], check=False)
        for _ in range(240):  # whatever still ends wants the daemons
            queue = subprocess.run(["squeue", "-h"], capture_output=True, check=False).stdout
            if not queue.strip():
                break
            time.sleep(0.25)
        for daemon in reversed(running):
            daemon.terminate()
        for daemon in running:
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _free_ports(n):
    """First of ``n`` ports in a row that are free now."""
    for first in range(20_000, 32_000, n):
        taken = []
        try:
            for port in range(first, first + n):
                taken.append(socket.create_server(("127.0.0.1", port)))
            return first
        except OSError:
            continue
        finally:
            for one in taken:
                one.close()
    pytest.fail("no free ports")
