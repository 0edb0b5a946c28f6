"""The notebooks are committed without outputs, and each asks one question."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_there_are_eight_notebooks_without_outputs():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{k:02d}" for k in range(1, 9)]
    done = subprocess.run(
        [sys.executable, "-m", "nbstripout", "--verify", *NOTEBOOKS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_asks_one_question_and_has_its_sizes_in_one_cell(path):
    content = nbformat.read(path, as_version=4)
    first = content.cells[0].source
    assert first.startswith(f"# {path.stem[:2]} ")
    assert len(re.findall(r"\*\*Question: [^*]+\?\*\*", first)) == 1
    tagged = [cell for cell in content.cells if "parameters" in cell.metadata.get("tags", ())]
    assert len(tagged) == 1
    assert "## Try" in content.cells[-1].source
