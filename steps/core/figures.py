"""Figures in one plain style, saved as SVG whose bytes depend on what is drawn and nothing else."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""What lines and bars are drawn in, in this order; told apart by most colour-blind readers."""

MAP = "viridis"
"""The colour map of heat maps."""


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
    """Write ``text`` in the middle of axes that have nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#555555", wrap=True)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])


def plain(values: Any) -> list[Any]:
    """Values as JSON knows them: what is missing or infinite becomes null."""
    return [
        None if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
        for value in (value.item() if hasattr(value, "item") else value for value in values)
    ]


def plain_ticks(*axes: Any) -> None:
    """Write the numbers of logarithmic axes out: texts are not typeset as formulas here."""
    from matplotlib.ticker import NullFormatter

    for axis in axes:
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
