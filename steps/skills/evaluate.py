"""Judge a set of skills: coverage, control, side effects (docs/skills.md).

Reads a folder of skills, or none for sixteen policies that take every action equally often. Writes JSON:

- ``base``, ``mode``, ``seed``, ``length``, and of each skill in ``skills`` its ``name``, ``targets`` and
  ``group``;
- ``coverage``: ``terminal`` and ``visited`` by chain length, shares of the 1,664 states that could be
  written, and ``auc``, the trapezoid of the former (``measures.coverage``);
- ``home`` and ``pooled``: what ``measures.control`` says of runs from home, and of runs from states drawn
  uniformly from those that can be reached, the same for all sets of a seed;
- ``action_entropy``: of the policies on the way of the runs from home, in nats, mean; 1.61 where all is
  random;
- ``paths``: some runs from home of each skill, states ``[skills, shown, length + 1]``;
- ``versions`` of libraries.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steps.core.digest import seed as derive
from steps.core.provenance import versions
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import write_json
from steps.skills.learning.bases import RANDOM
from steps.skills.learning.focus import STATE, UNFOCUSED_SKILLS
from steps.skills.learning.skill import LEVELS, Skills, load, random_skills
from steps.skills.measures.control import judged
from steps.skills.measures.coverage import auc, coverage
from steps.skills.worlds.grids import four_rooms

if TYPE_CHECKING:
    import numpy as np

    from steps.skills.worlds.tables import World


class Settings(BaseSettings):
    """From where, and how often, skills are run."""

    runs: int = Field(1000, ge=2, le=10**6, description="runs of each skill from home")
    starts: int = Field(
        32, ge=1, le=10**5, description="further starts, drawn from the states that can be reached"
    )
    runs_per_start: int = Field(200, ge=2, le=10**6, description="runs of each skill from each of them")
    shown: int = Field(4, ge=1, le=100, description="runs of each skill from home that are drawn on the map")


def from_starts(
    skills: Skills, world: World, starts: np.ndarray, runs: int, generator: np.random.Generator
) -> np.ndarray:
    """Run every skill from every start: the states, ``int32 [starts, skills, runs, length + 1]``."""
    import numpy as np

    chosen = np.tile(np.repeat(np.arange(len(skills)), runs), len(starts))
    states = skills.run(world, chosen, np.repeat(starts, len(skills) * runs), generator)
    return states.reshape(len(starts), len(skills), runs, -1)


def action_entropy(skills: Skills, states: np.ndarray) -> float:
    """The mean entropy of the policies in the states of runs ``[starts, skills, runs, length + 1]``, in
    nats."""
    import numpy as np

    which = np.broadcast_to(np.arange(len(skills))[:, None], states.shape[:3]).ravel()
    flat = states.reshape(-1, states.shape[-1])
    total = 0.0
    for time in range(skills.length):
        kept = skills.shares(which, flat[:, time], flat[:, 0], time).astype(float) / LEVELS
        edges = np.concatenate([np.zeros((len(kept), 1)), kept, np.ones((len(kept), 1))], axis=1)
        shares = np.diff(edges)
        total += float(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(1).mean())
    return total / skills.length


def evaluation(skills: Skills, world: World, seed: int, settings: Settings) -> dict[str, Any]:
    """Everything that is measured of a set of skills; see the module's docstring."""
    import numpy as np

    def generator(what: str) -> np.random.Generator:
        return np.random.default_rng(derive(seed, "skills.evaluate", what))

    chance = generator("coverage")
    reach = coverage(
        lambda chosen, starts: skills.run(world, chosen, starts, chance),
        *(len(skills), world.schema.size, world.home),
    )
    groups = [skills.groups[int(group)] for group in skills.group_of]
    targets = [[] if group.name == STATE else list(group.targets) for group in groups]
    home = from_starts(skills, world, np.array([world.home]), settings.runs, generator("home"))
    drawn = generator("starts").choice(world.reachable(), settings.starts)
    pooled = from_starts(skills, world, drawn, settings.runs_per_start, generator("pooled"))
    return {
        "skills": [
            {"name": skill.name, "targets": list(skill.targets), "group": group.name}
            for skill, group in zip(skills, groups, strict=True)
        ],
        "length": skills.length,
        "coverage": {**reach, "auc": auc(reach["terminal"])},
        "home": judged(home, world.schema, skills.group_of, targets),
        "pooled": judged(pooled, world.schema, skills.group_of, targets),
        "action_entropy": action_entropy(skills, home),
        "paths": home[0, :, : settings.shown].tolist(),
    }


def main(skills: list[Path], length: int, seed: int, settings: Settings, out: Output) -> None:
    """Judge the skills of a ledger; without one, random policies of ``length`` steps."""
    world = four_rooms()
    if skills:
        judged_skills = load(skills[0])
        about = {name: judged_skills.card[name] for name in ("base", "mode", "seed")}
    else:
        judged_skills = random_skills(world, UNFOCUSED_SKILLS, length)
        about = {"base": RANDOM, "mode": RANDOM, "seed": seed}
    found = evaluation(judged_skills, world, seed, settings)
    write_json(out, {**about, **found, "versions": versions(("numpy", "safetensors"))})


if __name__ == "__main__":
    run(main)
