"""How fast skills are learned."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import RUNS, Figure, in_child
from steps.skills.learning.tabular import Learner, Settings, groups
from steps.skills.worlds.grids import four_rooms


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """``skills.env_steps_per_cpu_second``: steps per second of the processor, learning included.

    Steps beyond the first visit of a state and action teach discriminators alone, since the learner replays
    the last successor of every pair; their number is no measure of how much Q-values learned.
    """
    settings = {"length": 2, "iterations": 1} if quick else {}
    runs = 2 if quick else RUNS
    measured = in_child("skills.seconds", {"settings": settings, "runs": runs})
    values = [measured["steps"] / seconds for seconds in measured["seconds"]]
    yield Figure(
        "skills.env_steps_per_cpu_second",
        statistics.median(values),
        "steps/s",
        (min(values), max(values)),
        {"learning": statistics.median(measured["seconds"])},
        runs,
    )


def seconds(settings: dict[str, int], runs: int) -> dict[str, object]:
    """Processor seconds of learning the default focused VIC skills, after one that does not count."""
    chosen, world = Settings(**settings), four_rooms()
    algorithm, measured, steps = chosen.vic, [], 0
    for _ in range(runs + 1):
        start = time.process_time()
        parts = groups(world.schema, "focused", algorithm.weight)
        temperatures = [getattr(algorithm.temperatures, part.kind) for part in parts]
        learner = Learner(world, parts, "vic", temperatures, chosen, 1)
        for iteration in range(chosen.iterations):
            learner.iterate(iteration)
        measured.append(time.process_time() - start)
        steps = chosen.iterations * learner.steps_per_iteration()
    return {"steps": steps, "seconds": measured[1:]}
