"""The grid behind the default temperatures of skills (``python -m benchmarks.temperatures --base vic``).

Run by hand; prints a table in Markdown (docs/skills.md has it). Seeds are others than those of studies. A set
of skills is learned at each temperature, unfocused, and each kind of focused group by itself, which is what
differs from a study, where they look for states together. Every pair of temperatures of focused skills is
then judged.
The choice: of unfocused skills, the best area under terminal coverage; of focused ones the best among those
with side effects of at most .05, of at most .15 for the worst skill, and control of the position of at least
.3 and of every object of at least .8. Of those that three decimals do not tell apart, the warmest.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from steps.skills.evaluate import from_starts
from steps.skills.learning.bases import BASES
from steps.skills.learning.focus import Group, focused, unfocused
from steps.skills.learning.skill import Skills, cumulated
from steps.skills.learning.tabular import Learner, Settings
from steps.skills.measures.control import judged
from steps.skills.measures.coverage import auc, coverage
from steps.skills.worlds.grids import four_rooms

SEEDS = (101, 102)
TEMPERATURES = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0)
BINARY = {"vic": (0.0025, 0.005, 0.01, 0.02, 0.04), "diayn": (0.0125, 0.025, 0.05, 0.15, 0.4)}


def learned(
    groups: list[Group], base: str, temperature: float, seed: int, settings: Settings
) -> list[np.ndarray]:
    """The policies of groups at one temperature."""
    world = four_rooms()
    learner = Learner(world, groups, base, [temperature] * len(groups), settings, seed)
    for iteration in range(settings.iterations):
        learner.iterate(iteration)
    return [cumulated(q, temperature) for q in learner.q]


def measured(skills: Skills, targets: list[list[int]], seed: int) -> dict[str, Any]:
    """Area under coverage; side effects and control from home."""
    world, chance = four_rooms(), np.random.default_rng(seed)
    reach = coverage(
        lambda chosen, starts: skills.run(world, chosen, starts, chance),
        *(len(skills), world.schema.size, world.home),
    )
    home = from_starts(skills, world, np.array([world.home]), 400, chance)
    found = judged(home, world.schema, skills.group_of, targets)
    control = [row[index] for index, row in enumerate(found["control"])]
    return {
        "auc": auc(reach["terminal"]),
        "side_effects": float(np.mean(found["side_effects"])),
        "worst": max(found["side_effects"]),
        "position": control[0],
        "object": min(control[1:], default=None),
    }


def rows(base: str, settings: Settings) -> Iterator[list[Any]]:
    """A row for every temperature or pair of them, means over seeds."""
    schema, algorithm = four_rooms().schema, settings.algorithm(base)
    [whole] = unfocused(schema, 16)
    for temperature in TEMPERATURES:
        sets = [Skills(schema, [whole], learned([whole], base, temperature, s, settings)) for s in SEEDS]
        found = [measured(one, [[]] * 16, seed) for one, seed in zip(sets, SEEDS, strict=True)]
        yield ["unfocused", temperature, "", *mean(found)]
    position, *objects = focused(schema, algorithm.weight)
    places = {
        (warm, seed): learned([position], base, warm, seed, settings)
        for warm in TEMPERATURES
        for seed in SEEDS
    }
    for cold in BINARY[base]:
        bits = {seed: learned(objects, base, cold, seed, settings) for seed in SEEDS}
        for warm in TEMPERATURES:
            found = []
            for seed in SEEDS:
                skills = Skills(schema, [position, *objects], [*places[warm, seed], *bits[seed]])
                targets = [list(skills.groups[group].targets) for group in skills.group_of]
                found.append(measured(skills, targets, seed))
            yield ["focused", cold, warm, *mean(found)]


def mean(found: list[dict[str, Any]]) -> list[str]:
    """Means over seeds, as text."""
    return [
        "" if found[0][name] is None else f"{np.mean([one[name] for one in found]):.3f}" for name in found[0]
    ]


def main() -> None:
    """Print the grid of a base."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.temperatures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", choices=BASES, required=True, help="the base algorithm")
    arguments = parser.parse_args()
    print(
        "| skills | bits, or all | position | area | side effects | worst skill | G of position"
        " | least G of an object |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows(arguments.base, Settings()):
        print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
