"""Pictures: many small images in one PNG, and animations as SVG without a script.

Pixels of images are enlarged by whole factors, so that they stay sharp. In an animation marks move over the
cells of a map step by step; where the reader asks for less motion, and where animations do not run, they
stand at their last place, and lines show the whole way in either case.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    import numpy as np

CELL = 24
"""Pixels of a side of a cell."""

PANEL_GAP = 16
TITLE = 22


def bytes_of(images: np.ndarray, values: int) -> np.ndarray:
    """Pixel values from 0 to ``values`` - 1 as bytes from 0 to 255."""
    import numpy as np

    scaled: np.ndarray = np.rint(images.astype(float) * (255 / (values - 1))).astype(np.uint8)
    return scaled


def grid(images: np.ndarray, factor: int, gaps: list[int] | None = None, background: int = 255) -> np.ndarray:
    """Images in rows and columns, each pixel a square.

    Args:
        images: bytes, ``uint8 [rows, columns, height, width, channels]``, of one channel (grey)
            or three (RGB).
        factor: how many times as large a pixel becomes.
        gaps: enlarged pixels before each row but the first, ``factor`` by default; columns are ``factor``
            apart.
        background: what gaps are filled with.

    Returns:
        ``uint8 [height, width, channels]``.
    """
    import numpy as np

    large = images.repeat(factor, 2).repeat(factor, 3)
    rows, columns, height, width, channels = large.shape
    before = [0, *([factor] * (rows - 1) if gaps is None else gaps)]
    size = (sum(before) + rows * height, columns * width + (columns - 1) * factor, channels)
    picture = np.full(size, background, np.uint8)
    top = 0
    for row, gap in enumerate(before):
        top += gap
        for column in range(columns):
            left = column * (width + factor)
            picture[top : top + height, left : left + width] = large[row, column]
        top += height
    return picture


def save_png(picture: np.ndarray, out: Path) -> None:
    """Write a picture ``uint8 [height, width, channels]``, of one channel or three, as PNG."""
    from PIL import Image

    shown = picture[..., 0] if picture.shape[2] == 1 else picture
    Image.fromarray(shown).save(out, format="PNG", compress_level=9)


class Mark(NamedTuple):
    """Something that moves.

    Attributes:
        places: row and column at each step.
        colour: of the mark and its way.
    """

    places: Sequence[tuple[int, int]]
    colour: str


class Panel(NamedTuple):
    """A map with what moves on it.

    Attributes:
        title: what it shows.
        cells: the colour of each cell, row by row; all rows have the same length.
        signs: letters that stand in cells, with row and column.
        marks: what moves.
    """

    title: str
    cells: Sequence[Sequence[str]]
    signs: Sequence[tuple[int, int, str]]
    marks: Sequence[Mark]


def animation(panels: Sequence[Panel], caption: str, seconds: float, columns: int = 3) -> str:
    """An SVG in which the marks of all panels move in step, over and over.

    Args:
        panels: left to right, then down.
        caption: the picture in words, for who cannot see it.
        seconds: of one round; its last fifth is a rest.
        columns: panels in a row.
    """
    wide = max(len(panel.cells[0]) for panel in panels) * CELL
    high = max(len(panel.cells) for panel in panels) * CELL + TITLE
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width, height = columns * (wide + PANEL_GAP), rows * (high + PANEL_GAP)
    style, body = [], []
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, top = column * (wide + PANEL_GAP) + PANEL_GAP / 2, row * (high + PANEL_GAP) + TITLE
        body.append(f'<g transform="translate({left:g} {top:g})">')
        body.append(f'<text class="title" x="0" y="-7">{escape(panel.title)}</text>')
        body.append('<g shape-rendering="crispEdges">')  # no seams between cells
        for y, line in enumerate(panel.cells):
            for x, colour in enumerate(line):
                body.append(
                    f'<rect x="{x * CELL}" y="{y * CELL}" width="{CELL}" height="{CELL}"'
                    f" fill={quoteattr(colour)}/>"
                )
        body.append("</g>")
        for y, x, sign in panel.signs:
            body.append(f'<text class="sign" x="{_middle(x):g}" y="{_middle(y) + 4:g}">{escape(sign)}</text>')
        for index, mark in enumerate(panel.marks):
            name = f"m{number}-{index}"
            way = " ".join(f"{_middle(x):g},{_middle(y):g}" for y, x in mark.places)
            colour = quoteattr(mark.colour)
            body.append(f'<polyline class="way" points="{way}" stroke={colour}/>')
            y, x = mark.places[-1]
            body.append(
                f'<circle id="{name}" r="{CELL * 0.32:g}" fill={colour}'
                f' transform="translate({_middle(x):g} {_middle(y):g})"/>'
            )
            style.append(_moving(name, mark.places, seconds))
        body.append("</g>")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
        f' height="{height:g}" role="img" aria-label={quoteattr(caption)}>\n'
        f"<title>{escape(caption)}</title>\n"
        f"<style>{_STYLE}\n{_MOTION % chr(10).join(style)}</style>\n"
        + '<rect width="100%" height="100%" fill="#ffffff"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


_STYLE = (
    "text{font-family:sans-serif}.title{font-size:13px}.sign{font-size:11px;text-anchor:middle;fill:#333333}"
    ".way{fill:none;stroke-width:2;stroke-opacity:.35}circle{stroke:#ffffff;stroke-width:1.5}"
)
_MOTION = "@media (prefers-reduced-motion: no-preference){%s}"


def _middle(index: int) -> float:
    return (index + 0.5) * CELL


def _moving(name: str, places: Sequence[tuple[int, int]], seconds: float) -> str:
    """The style that moves a mark through its places in four fifths of the time."""
    last = max(len(places) - 1, 1)
    frames = "".join(
        f"{80 * step / last:.2f}%{{transform:translate({_middle(x):g}px,{_middle(y):g}px)}}"
        for step, (y, x) in enumerate(places)
    )
    y, x = places[-1]
    rest = f"100%{{transform:translate({_middle(x):g}px,{_middle(y):g}px)}}"
    return f"@keyframes {name}{{{frames}{rest}}}#{name}{{animation:{name} {seconds:g}s linear infinite}}"
