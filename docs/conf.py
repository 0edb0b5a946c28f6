"""Sphinx's configuration; ``python docs/build.py`` prepares the sources and calls Sphinx."""

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import deepstreaks_dask

project = "deepstreaks_dask"
author = "The deepstreaks_dask developers"
copyright = "the deepstreaks_dask developers"
version = release = deepstreaks_dask.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["*.part.md"]

autodoc_typehints = "none"  # types and shapes are in the doc-strings
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True
# types are named without their modules, where two may have one name
suppress_warnings = ["ref.python"]
# what is of another package, and what is private, has no page here
nitpick_ignore_regex = [("py:.*", r"(?!deepstreaks_dask).*"), ("py:.*", r".*\._\w+")]

nb_execution_mode = "off"  # build.py has executed them
nb_output_stderr = "remove"  # TensorFlow greets each kernel there
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_math_renderer = "mathml"

html_theme = "pydata_sphinx_theme"
html_title = project
html_favicon = "favicon.svg"
html_context = {"default_mode": "auto"}
html_static_path = ["static"]
html_theme_options: dict[str, Any] = {"show_toc_level": 2, "navigation_with_keys": False}

_DRAWS = ("bokeh/bokeh", "bokeh/bokeh-gl", "bokeh/bokeh-widgets", "bokeh/bokeh-tables")


def write_formula(writer: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers draw themselves: nothing has to be loaded from elsewhere."""
    block = isinstance(node, nodes.math_block)
    writer.body.append(tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Write formulas without MathJax; give the tutorials, and no other page, what draws their plots."""
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))

    def add(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
        if page.startswith("tutorials/") and page != "tutorials/index":
            for name in (*_DRAWS, "panel/panel"):
                app.add_js_file(f"{name}.min.js")

    app.connect("html-page-context", add)
