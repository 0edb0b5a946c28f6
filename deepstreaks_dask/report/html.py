"""Self-contained HTML pages: a template, its plots, and nothing loaded from elsewhere.

The content security policy of the pages forbids them to load anything.
"""

from __future__ import annotations

import os
from typing import Any

import holoviews as hv
import jinja2
from bokeh.embed import json_item
from bokeh.resources import Resources

from deepstreaks_dask import plots
from deepstreaks_dask.utils.storage import write_text


def write_page(template: str, path: str | os.PathLike[str], **values: Any) -> None:
    """Fill in a template and write it as one file, which replaces an existing one in one step.

    Parameters
    ----------
    template : str
        Name of a template of this package that extends ``page.html.j2``.
    path : str or path
        The file to write, as a path or as any fsspec URL.
    **values
        Of the template; plots as :func:`chart_item` returns them.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    html = (
        _environment()
        .get_template(template)
        .render(
            **values,
            bokeh=Resources(mode="inline", components=["bokeh"], log_level="error").js_raw,
            colours=plots.DARK,
        )
    )
    write_text(path, html)


def chart_item(chart: Any) -> dict[str, Any]:
    """Return a HoloViews element as BokehJS draws it, as wide as the page."""
    figure = hv.render(chart)
    figure.sizing_mode = "stretch_width"
    figure.output_backend = "canvas"  # browsers have few WebGL contexts for a page's many charts
    item: Any = json_item(figure)
    item["doc"].pop("defs", None)  # Panel's models, of which a chart has none
    return dict(item)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepstreaks_dask.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # BokehJS reads a model before what refers to it: keys stay in their order
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["night"] = plots.night_name
    return environment
