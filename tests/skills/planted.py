"""Skills whose results are known: they act by the clock alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from steps.skills.learning.focus import unfocused
from steps.skills.learning.skill import LEVELS, Skills
from steps.skills.worlds.grids import MOVES, OBJECTS, START, Cell, free_cells
from steps.skills.worlds.tables import World

LENGTH = 24
STAY = len(MOVES) - 1


def by_the_clock(world: World, plans: Sequence[Sequence[int]]) -> Skills:
    """Skills that take the actions of their plans wherever they are, and stay when those are done."""
    shape = (len(plans), LENGTH, world.schema.size, 1, len(MOVES) - 1)
    policy = np.zeros(shape, np.uint8)
    for skill, plan in enumerate(plans):
        for time in range(LENGTH):
            action = plan[time] if time < len(plan) else STAY
            policy[skill, time, :, :, action:] = LEVELS
    return Skills(world.schema, unfocused(world.schema, len(plans)), [policy])


def plan(start: Cell, goal: Cell, avoided: Sequence[Cell]) -> list[int]:
    """The actions of a shortest way."""
    free = set(free_cells()) - set(avoided)
    came: dict[Cell, tuple[Cell, int]] = {}
    waiting = deque([start])
    while waiting:
        y, x = waiting.popleft()
        for action, (dy, dx) in enumerate(MOVES[:STAY]):
            after = (y + dy, x + dx)
            if after in free and after not in came and after != start:
                came[after] = ((y, x), action)
                waiting.append(after)
    actions: list[int] = []
    while goal != start:
        goal, action = came[goal]
        actions.insert(0, action)
    return actions


def fetching(cell: Cell) -> list[int]:
    """Take an object and come home, without touching the others."""
    others = [other for other in OBJECTS if other != cell]
    return plan(START, cell, others) + plan(cell, START, others)


def oracle(world: World) -> tuple[Skills, list[int], list[list[int]]]:
    """A set that controls everything and changes nothing else: skills, the group and the targets of each."""
    cells = [(1, 1), (1, 7), (3, 3), (4, 9), (6, 9), (9, 9), (11, 7), (9, 3)]
    plans = [plan(START, cell, OBJECTS) if cell != START else [] for cell in cells]
    groups, targets = [0] * len(cells), [[0] for _ in cells]
    for number, cell in enumerate(OBJECTS, start=1):
        plans += [[], fetching(cell)]
        groups += [number] * 2
        targets += [[number]] * 2
    return by_the_clock(world, plans), groups, targets
