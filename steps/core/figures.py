"""Figures in one plain style, saved as SVG whose bytes depend on what is drawn and nothing else."""

from __future__ import annotations

import math
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Colours of lines and bars, in this order; most colour-blind readers can tell them apart."""

MAP = "viridis"
"""The colour map of heat maps."""

CHARACTERS = 12
"""Of the usual size in an inch, roughly."""

SOFT = "#555555"
"""The style of sentences that stand in for a picture."""


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 4.8, height: float = 3.2, **subplots: Any
) -> tuple[Figure, Any]:
    """Start a figure.

    Args:
        rows: of axes.
        columns: of axes.
        width: of one set of axes with its labels, in inches.
        height: of one set of axes with its labels, in inches.
        subplots: passed on to ``Figure.subplots`` (``sharex=True``).

    Returns:
        The figure and its axes: one, a row, or an array ``[rows, columns]``.
    """
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(
        {
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": "medium",
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "grid.color": "#e4e4e4",
            "grid.linewidth": 0.6,
            "image.cmap": MAP,
            "legend.frameon": False,
            "lines.linewidth": 1.4,
            "svg.fonttype": "none",  # text stays text: small, searchable, readable by screen readers
            "svg.hashsalt": "reprise",
            "text.parse_math": False,  # names with a dollar sign are names
        }
    )
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, **subplots)


def say(axes: Any, text: str) -> None:
    """Write ``text`` in the middle of axes that have nothing to show, without the axes themselves."""
    place = axes.get_subplotspec()
    width = axes.figure.get_figwidth() * len(place.colspan) / place.get_gridspec().ncols
    shown = "\n".join(textwrap.fill(line, int(width * CHARACTERS)) for line in text.splitlines())
    written = axes.text(0.5, 0.5, shown, transform=axes.transAxes, ha="center", va="center", color=SOFT)
    written.set_in_layout(False)  # else panels beside it shrink
    axes.set_axis_off()


def say_only(text: str) -> Figure:
    """A figure of nothing but ``text``, where no panel has anything to show."""
    figure, axes = new_figure(width=6.4, height=1.0)
    say(axes, text)
    return figure


def note(figure: Figure, text: str) -> None:
    """Write ``text`` under all panels of a figure, once."""
    figure.supxlabel(text, color=SOFT, fontsize="medium")


def legend_below(axes: Any, columns: int = 2) -> None:
    """Put the legend under axes, where it covers nothing."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=8)


def whole_numbers(most: int = 9) -> Any:
    """A locator of ticks, about ``most``, at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, integer=True)


def few_ticks(*axes: Any) -> None:
    """Leave room between the ticks of linear axes; large and small numbers share a power of ten."""
    for axis in axes:
        axis.get_major_locator().set_params(nbins=5)
        axis.get_major_formatter().set_powerlimits((-3, 4))


def plain(values: Any) -> list[Any]:
    """Values as JSON knows them: what is missing or infinite becomes null."""
    return [
        None if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
        for value in (value.item() if hasattr(value, "item") else value for value in values)
    ]


def plain_ticks(*axes: Any) -> None:
    """Write the numbers of logarithmic axes out: texts are not typeset as formulas here.

    Call it when all is drawn: an axis that holds fewer than two powers of ten, or many, gets other ticks.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    for axis in axes:
        low, high = sorted(axis.get_view_interval())
        powers = math.floor(math.log10(high)) - math.ceil(math.log10(low)) + 1
        if high < 4 * low:
            axis.set_major_locator(MaxNLocator(4))
        elif powers < 2:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        elif powers > 4:
            axis.set_major_locator(LogLocator(numticks=4))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def check_names(figures: Collection[str], data: Collection[str], known: Sequence[str]) -> None:
    """Check that a step knows how to draw every figure it is asked for, and that each has its data.

    Raises:
        UserError: a name that is not ``known``, or a figure without a data file of its name.
    """
    for name in figures:
        if name not in known:
            raise UserError(f"--figures: found {name!r}, expected some of {', '.join(known)}")
    if sorted(figures) != sorted(data):
        raise UserError(
            f"--data: found {', '.join(data)}, expected the names of --figures: {', '.join(figures)}"
        )


def save_figure(figure: Figure, out: Path) -> None:
    """Write a figure as SVG, whatever the name of ``out`` ends in."""
    with warnings.catch_warnings():
        # texts stay texts, so the reader's fonts draw what ours cannot measure
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
