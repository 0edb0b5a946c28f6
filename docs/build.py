"""Execute the notebooks and build the documentation's site: ``python docs/build.py`` writes ``docs/site``.

Warnings are errors. Notebooks are executed one after the other in one folder, so that they share the archive that the
first one makes; one that fails ends the build. The site loads nothing from elsewhere: formulas are MathML, and what draws
the plots is copied from the packages that made them.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import bokeh
import nbformat
import panel
import typer
from dask.distributed import Client
from nbclient import NotebookClient
from panel.io.resources import CDN_DIST
from sphinx.cmd.build import main as sphinx_build
from typer.cli import get_docs_for_click

from deepstreaks_dask.cli.main import app
from deepstreaks_dask.scoring.cluster import connect

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
NOTEBOOKS = ROOT / "notebooks"
SMALL = {
    "NIGHTS": 6,
    "CUTOUTS": 40,
    "SEASON": 4,
    "EPOCHS": 1,
    "BUDGET": 8,
    "ROUNDS": 3,
    "MAGNITUDES": [16.0, 18.0],
    "LENGTHS": [5, 20, 80],
    "EACH": 3,
    "OBJECTS": 140,
}
"""Parameters of a quick build: every cell runs, and no figure means anything."""

QUICKLY = "The tutorials of this site were run at small sizes: their figures mean nothing."
"""What such a build says above every page."""


def execute(notebook: Path, folder: Path, **parameters: Any) -> nbformat.NotebookNode:
    """Execute a notebook from its first cell to its last.

    Parameters
    ----------
    notebook : Path
    folder : Path
        Where it runs, and writes its ``data``.
    **parameters
        In place of those in the cell that is tagged ``parameters``; those that it does not have are left out.

    Returns
    -------
    nbformat.NotebookNode
        The notebook with its outputs.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell raises.
    """
    content = nbformat.read(notebook, as_version=4)
    (place,) = (
        k for k, cell in enumerate(content.cells) if "parameters" in cell.metadata.get("tags", ())
    )
    own = content.cells[place].source
    given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items() if name in own)
    content.cells[place].source = f"{own}\n{given}".rstrip()
    folder.mkdir(parents=True, exist_ok=True)
    # widgets keep all their states in the page, which has no Python behind it
    environment = {**os.environ, "PANEL_EMBED": "true", "TF_CPP_MIN_LOG_LEVEL": "3"}
    NotebookClient(
        content, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute(env=environment)
    content.cells[place].source = own
    return content


def credentials(client: Client) -> dict[str, str]:
    """Return the credentials of a client as Dask's configuration in the environment, for the notebooks' processes."""
    keys = client.security.get_tls_config_for_role("client")
    prefix = "DASK_DISTRIBUTED__COMM__TLS__"
    return {
        f"{prefix}CA_FILE": keys["ca_file"],
        f"{prefix}CLIENT__CERT": keys["cert"],
        f"{prefix}CLIENT__KEY": keys["key"],
    }


def build(executed: Mapping[str, nbformat.NotebookNode], out: Path, announcement: str = "") -> None:
    """Build the site.

    Parameters
    ----------
    executed : mapping of str to nbformat.NotebookNode
        Notebooks with outputs by the names of their files.
    out : Path
        The folder that gets the pages; replaced.
    announcement : str
        Stands above every page.

    Raises
    ------
    SystemExit
        If Sphinx has warned of anything.
    """
    shutil.rmtree(out, ignore_errors=True)
    with TemporaryDirectory() as folder:
        source = Path(folder) / "docs"
        shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("site", "__pycache__"))
        for name, content in executed.items():
            nbformat.write(_at_rest(content), source / "tutorials" / name)
        for page in (ROOT / "cluster").rglob("*.md"):
            (source / page.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            linked = re.sub(r"\]\(((?:\.\./)+)docs/", r"](\1", page.read_text(encoding="utf-8"))
            (source / page.relative_to(ROOT)).write_text(linked, encoding="utf-8")
        card, page = "deepstreaks_dask/models/weights/README.md", "explanation/shipped-networks.md"
        shutil.copy(ROOT / card, source / page)
        readme = (ROOT / "README.md").read_text(encoding="utf-8").replace(f"]({card}", f"](/{page}")
        (source / "README.part.md").write_text(readme, encoding="utf-8")
        (source / "reference" / "cli.md").write_text(_commands(), encoding="utf-8")
        _describe_modules(source / "reference")
        _copy_scripts(source / "static")
        options = ["-W", "--keep-going", "-n", "-q", "-b", "html", "-d", f"{folder}/doctrees"]
        if announcement:
            options += ["-D", f"html_theme_options.announcement={announcement}"]
        # notebooks are left beside what is built, where the next build would take them for pages
        if sphinx_build([*options, str(source), f"{folder}/site"]):
            raise SystemExit("Sphinx has warned: see above")
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(f"{folder}/site", out)


def _at_rest(content: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave out what only a running notebook has a use for, and let nothing be loaded from elsewhere."""
    resting = copy.deepcopy(content)
    for cell in resting.cells:
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.output_type in ("display_data", "execute_result"):
                for kind in [kind for kind in output.data if "holoviews" in kind]:
                    del output.data[kind]
                # the scripts that load Bokeh and Panel: the page has them already
                output.data.pop("application/javascript", None)
                if "text/html" in output.data:
                    output.data["text/html"] = output.data["text/html"].replace(
                        CDN_DIST, "../_static/panel/"
                    )
                if not output.data:
                    continue
            kept.append(output)
        cell.outputs = kept
    return resting


def _commands() -> str:
    """Describe all sub-commands, from what they say of themselves."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="deepstreaks")
    return get_docs_for_click(
        obj=command, ctx=context, name="deepstreaks", title="The command line"
    )


def public_modules() -> dict[str, str]:
    """Find every module of the package that others may import, without importing it.

    Returns
    -------
    dict of str to str
        First line of its doc-string by the module's name. Left out are names with an underscore in front, and the scripts
        that Alembic runs.
    """
    package = ROOT / "deepstreaks_dask"
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        hidden = any(part.startswith("_") for part in name.split("."))
        if not hidden and not name.startswith("deepstreaks_dask.review.migrations."):
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[name] = text.partition("\n")[0]
    return found


def _describe_modules(reference: Path) -> None:
    """Write a page for each module, and a table of them behind the index."""
    rows = []
    for name, words in public_modules().items():
        page = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n"
        if name != "deepstreaks_dask":  # whose names are described where they are defined
            page += "   :members:\n"
        (reference / f"{name}.rst").write_text(page, encoding="utf-8")
        words = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", words).replace("``", "`")
        rows.append(f"| [{name.removeprefix('deepstreaks_dask.')}]({name}.rst) | {words} |\n")
    with (reference / "index.md").open("a", encoding="utf-8") as index:
        index.write("\n| module | |\n|---|---|\n" + "".join(rows))
        index.write("\n```{toctree}\n:hidden:\n:glob:\n\ndeepstreaks_dask*\n```\n")


def _copy_scripts(static: Path) -> None:
    """Copy what draws plots and widgets from the packages that made them."""
    scripts = Path(bokeh.__file__).parent / "server" / "static" / "js"
    dist = Path(panel.__file__).parent / "dist"
    for name in ("bokeh", "bokeh-gl", "bokeh-widgets", "bokeh-tables"):
        (static / "bokeh").mkdir(parents=True, exist_ok=True)
        shutil.copy(scripts / f"{name}.min.js", static / "bokeh")
    for folder in ("css", "bundled/theme"):
        shutil.copytree(dist / folder, static / "panel" / folder)
    shutil.copy(dist / "panel.min.js", static / "panel")


def main() -> None:
    """Execute all notebooks, at their own size or a small one, and build the site."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DOCS / "site", help="folder of the site")
    parser.add_argument("--small", action="store_true", help="sizes that show nothing, quickly")
    given = parser.parse_args()
    executed = {}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        parameters: dict[str, Any] = {}
        if given.small:
            workers = stack.enter_context(connect("local", workers=1))
            parameters = {**SMALL, "SCHEDULER": workers.scheduler.address, "WORKERS": None}
            stack.enter_context(patch.dict(os.environ, credentials(workers)))
        for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
            print(notebook.name, end=" ", flush=True)
            began = time.monotonic()
            if notebook.stem.startswith("08"):  # which starts workers itself: that is what it shows
                parameters |= {"SCHEDULER": "local", "WORKERS": 1} if given.small else {}
            executed[notebook.name] = execute(notebook, Path(folder), **parameters)
            print(f"{time.monotonic() - began:.0f} s", flush=True)
    build(executed, given.out, QUICKLY if given.small else "")


if __name__ == "__main__":
    main()
