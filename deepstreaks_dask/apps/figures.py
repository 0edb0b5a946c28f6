"""The Bokeh figures of a page, in the colours of a light or a dark page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv
import panel as pn
from bokeh.core.property.vectorization import Value
from bokeh.model import Model

from deepstreaks_dask import plots

DEFAULT_HEIGHT = 320
"""Pixels, of a figure's place on the page."""

_LIGHT_COLOURS = {dark: light for light, dark in plots.DARK.items()}


class Figures:
    """Figures by name, each with a place on the page, which says "Drawing" until the figure is there.

    Parameters
    ----------
    heights : mapping of str to int
        Least height of each figure's place, in pixels.

    Attributes
    ----------
    places : dict of str to panel.Column
        To be embedded in the page's template.
    drawn : dict of str to bokeh.model.Model
        Figures that are on the page.
    dark : bool
        The page is dark.
    """

    def __init__(self, heights: Mapping[str, int]) -> None:
        self.places = {key: _place(height) for key, height in heights.items()}
        self.drawn: dict[str, Any] = {}
        self.dark = False

    def draw(self, key: str, element: Any) -> Any:
        """Draw a HoloViews element in its place.

        Parameters
        ----------
        key : str
            Name of the figure.
        element : holoviews element
            As a function of :mod:`~deepstreaks_dask.plots` returns it.

        Returns
        -------
        bokeh.model.Model
            The figure.
        """
        return self.put(key, render_figure(element))

    def put(self, key: str, figure: Any) -> Any:
        """Put a figure in its place, in the colours of the page.

        Parameters
        ----------
        key : str
            Name of the figure.
        figure : bokeh.model.Model
            In light colours.

        Returns
        -------
        bokeh.model.Model
            The figure.
        """
        if self.dark:
            recolour(figure, True)
        self.drawn[key] = figure
        self.places[key].objects = [pn.pane.Bokeh(figure, sizing_mode="stretch_width")]
        return figure

    def recolour(self, dark: bool) -> None:
        """Change all figures to the colours of a dark or a light page."""
        self.dark = dark
        for figure in self.drawn.values():
            recolour(figure, dark)


def recolour(model: Model, dark: bool) -> None:
    """Change a Bokeh figure to the colours of a dark or a light page.

    Parameters
    ----------
    model : bokeh.model.Model
        The figure, or a row of figures.
    dark : bool
        The page is dark.
    """
    colours = plots.DARK if dark else _LIGHT_COLOURS
    for part in model.references():
        for name, value in part.properties_with_values(include_defaults=False).items():
            constant = value.value if isinstance(value, Value) else value
            if isinstance(constant, str) and constant in colours:
                setattr(part, name, colours[constant])


def render_figure(element: Any) -> Any:
    """Return a HoloViews element as a Bokeh figure in light colours, as wide as its place on the page."""
    figure = hv.render(element)
    figure.sizing_mode = "stretch_width"
    figure.output_backend = "canvas"
    return figure


def _place(height: int) -> pn.Column:
    return pn.Column(
        pn.pane.HTML("Drawing", styles={"opacity": "0.7"}),
        sizing_mode="stretch_width",
        min_height=height,
    )
