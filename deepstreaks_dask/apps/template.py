"""Pages of the dashboards: templates in ``pages/`` that extend ``app.html.j2``.

Controls are plain HTML; plots are Bokeh figures embedded in the template.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2
import panel as pn

from deepstreaks_dask.apps.bridge import Bridge


def page_template(
    name: str, bridge: Bridge, panels: Mapping[str, Any] | None = None, **variables: Any
) -> pn.Template:
    """Return a page made from ``pages/<name>.html.j2``.

    Parameters
    ----------
    name : str
        Name of the template.
    bridge : Bridge
        The page's connection to Python.
    panels : mapping of str to Panel object
        Embedded in the template as ``embed(roots.<key>)``.
    **variables
        Of the template, ``app`` and ``heading`` among them; the template escapes them.

    Returns
    -------
    panel.Template
        The page.
    """
    template = pn.Template(_environment().get_template(f"{name}.html.j2"))
    template.add_panel("bridge", bridge)
    for key, panel in (panels or {}).items():
        template.add_panel(key, panel)
    for key, value in variables.items():
        template.add_variable(key, value)
    return template


def archive_name(archive: str) -> str:
    """Return the last part of an archive's path or URL, a page's heading."""
    return archive.rstrip("/").rsplit("/", 1)[-1]


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepstreaks_dask.apps", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment
