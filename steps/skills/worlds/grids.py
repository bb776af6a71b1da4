"""Rooms of cells in which objects lie: FourRooms.

The map, the start and the places of the objects are read from the figures on the page of the paper's authors;
the dynamics are ours, since they were published nowhere. An object is taken by entering its cell, which
the plateau of the published coverage confirms: 1,632 of 1,664 states can be reached. A fifth action, to stay,
lets a skill that is done wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steps.skills.worlds.schema import Schema, Variable
from steps.skills.worlds.tables import World

if TYPE_CHECKING:
    import numpy as np

Cell = tuple[int, int]
"""Row and column from 0, walls counted."""

FOUR_ROOMS = (
    "#############",
    "#     #     #",
    "#     #     #",
    "#           #",
    "#     #     #",
    "#     #     #",
    "## ####     #",
    "#     ### ###",
    "#     #     #",
    "#     #     #",
    "#           #",
    "#     #     #",
    "#############",
)
"""The grid of Sutton, Precup and Singh (1999): ``#`` is a wall."""

START: Cell = (6, 9)
OBJECTS: tuple[Cell, ...] = ((5, 5), (7, 5), (6, 7), (8, 7))
MOVES: tuple[Cell, ...] = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))
"""What the actions add to row and column: up, down, left, right, stay."""


def free_cells(rows: Sequence[str] = FOUR_ROOMS) -> list[Cell]:
    """The cells without a wall, row by row: the values of the position."""
    return [(y, x) for y, row in enumerate(rows) for x, mark in enumerate(row) if mark != "#"]


def four_rooms(objects: Sequence[Cell] = OBJECTS, flip: float = 0.0) -> World:
    """The FourRooms world: a position and, for each object, whether it is held.

    Args:
        objects: the cells in which objects lie.
        flip: where above 0, a bit is added that changes with this probability at each step, whatever is done.
    """
    import numpy as np

    cells = free_cells()
    number = {cell: index for index, cell in enumerate(cells)}
    variables = [
        Variable("position", len(cells)),
        *(Variable(f"object {y},{x}", 2, permanent=True) for y, x in objects),
        *([Variable("coin", 2, weight=0.0)] if flip else []),
    ]
    schema = Schema(tuple(variables))
    values = schema.values.astype(np.int64)
    moved = np.array(
        [[number.get((y + dy, x + dx), number[y, x]) for dy, dx in MOVES] for y, x in cells], np.int32
    )
    held = np.zeros((len(cells), len(variables)), np.int64)
    for place, cell in enumerate(objects, start=1):
        held[number[cell], place] = 1
    strides = np.array([schema.size // np.prod(_sizes(schema)[: i + 1]) for i in range(len(variables))])
    successors = np.empty((schema.size, len(MOVES)), np.int32)
    for action in range(len(MOVES)):
        position = moved[values[:, 0], action]
        after = np.maximum(values, held[position])
        after[:, 0] = position
        successors[:, action] = after @ strides
    return World(
        name="fourrooms",
        schema=schema,
        successors=successors,
        home=schema.state(number[START], *[0] * (len(variables) - 1)),
        goal=schema.state(number[START], *[1] * len(objects), *([0] if flip else [])),
        flip=flip,
    )


def _sizes(schema: Schema) -> np.ndarray:
    import numpy as np

    return np.array([variable.size for variable in schema.variables])
