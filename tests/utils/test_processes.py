"""Scripts that start workers need a main guard, and one line says so."""

import subprocess
import sys

import pytest

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.utils.processes import MainGuardError, check_main_guard

WITHOUT = """
from deepstreaks_dask.scoring.cluster import connect

with connect("local", workers=2) as client:
    print(client.submit(sum, [1, 2]).result())
"""

WITHIN_A_FUNCTION = """
from deepstreaks_dask.scoring.cluster import connect

def main():
    with connect("local", workers=2) as client:
        print(client.submit(sum, [1, 2]).result())

main()
"""

SIMULATING = """
import deepstreaks_dask as ds

ds.simulate("week.zarr", nights=1, per_night=4096)
"""

SIMULATING_SEQUENCES = """
from deepstreaks_dask.simulation.archives import simulate_into

simulate_into("objects.zarr", 4, "hits", "rcnn")
"""

GUARDED = """
from deepstreaks_dask.scoring.cluster import connect

if __name__ == "__main__":
    with connect("local", workers=1) as client:
        print(client.submit(sum, [1, 2]).result())
"""

CHECK = "from deepstreaks_dask.utils.processes import check_main_guard as check\n"


def run(tmp_path, text, *options):
    script = tmp_path / "script.py"
    script.write_text(text)
    command = [sys.executable, *(options or (script,))]
    return script, subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=300
    )


@pytest.mark.parametrize("text", [WITHOUT, WITHIN_A_FUNCTION, SIMULATING, SIMULATING_SEQUENCES])
def test_a_script_without_a_guard_ends_in_one_line(tmp_path, text):
    script, done = run(tmp_path, text)
    assert done.returncode == 1
    assert done.stdout == ""
    # an old numcodecs warns of its own deprecations
    (line,) = [line for line in done.stderr.splitlines() if "numcodecs" not in line]
    assert line.startswith(f"deepstreaks: {script} starts processes outside of a main guard")
    assert 'if __name__ == "__main__":' in line
    assert not list(tmp_path.glob("*.zarr"))


def test_a_script_with_a_guard_gets_workers_and_prints_nothing_else(tmp_path):
    _, done = run(tmp_path, GUARDED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.mark.parametrize(
    "text",
    [
        'if __name__ == "__main__":\n    for _ in range(2):\n        check()\n',
        'def main():\n    check()\n\nif "__main__" == __name__:\n    main()\n',
        'import sys\nif __name__ != "__main__":\n    sys.exit()\ncheck()\n',
        'if __name__ != "__main__":\n    raise SystemExit\ncheck()\n',
        "import threading\nthread = threading.Thread(target=check)\nthread.start()\nthread.join()\n",
    ],
)
def test_guards_of_other_kinds_are_seen(tmp_path, text):
    _, done = run(tmp_path, CHECK + text)
    assert (done.returncode, done.stderr) == (0, "")


def test_workers_that_are_forked_need_no_guard(tmp_path):
    fork = 'import dask\ndask.config.set({"distributed.worker.multiprocessing-method": "fork"})\n'
    _, done = run(tmp_path, fork + WITHOUT.replace("workers=2", "workers=1"))
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_a_guard_elsewhere_is_none(tmp_path):
    text = 'if __name__ == "__main__":\n    print("guarded")\ncheck()\n'
    _, done = run(tmp_path, CHECK + text)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_what_is_no_script_needs_no_guard(tmp_path):
    _, done = run(tmp_path, "", "-c", CHECK + "check()")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_that_is_being_spawned_is_refused(tmp_path):
    """Where the script could not be looked at before."""
    text = (
        CHECK
        + "import threading, multiprocessing\n"
        + "if multiprocessing.current_process().name != 'MainProcess':\n    check()\n"
        + "def start():\n"
        + "    process = multiprocessing.get_context('spawn').Process(target=print, args=['worked'])\n"
        + "    process.start()\n    process.join()\n    raise SystemExit(process.exitcode)\n"
        + "if __name__ == '__main__':\n    start()\n"
    )
    script, done = run(tmp_path, text)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [f"deepstreaks: {MainGuardError(str(script))}"]


def test_it_is_an_error_like_others():
    assert issubclass(MainGuardError, DeepStreaksError)
    check_main_guard()  # these tests run in a process of pytest's
