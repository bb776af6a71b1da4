"""A task for skills: hold all four objects and stand at home, within 320 steps (docs/skills.md).

Tables of Q-values over whole states choose what to do next: one of the skills, which then runs to its end; a
skill or a single action; or single actions only, without any skills. Whether the task is done is looked at
when what was chosen ends, and a skill is cut at the cap. The reward is 1 for success, discounted per
decision. All learners go through the same number of episodes, many at once; each kind starts from Q-values of
0 and of 1, since with single actions that decides what is found.

Reads a folder of skills, or none. Writes JSON: ``base``, ``mode``, ``seed``, ``versions``, and ``learners``,
a list of ``{"choices", "initial", "curve": [{"episodes", "steps", "success"}]}``: mean steps to the goal (the
cap where it was missed) and share of successes when the best choice is always taken, after so many episodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field, field_validator

from steps.core.digest import code_digest
from steps.core.digest import seed as derive
from steps.core.provenance import versions
from steps.core.resume import Resumable
from steps.core.runner import Output, final_name, run
from steps.core.settings import NO_INFLUENCE
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import Folder, write_json
from steps.skills.learning.bases import BOTH, PRIMITIVES, SKILLS
from steps.skills.learning.skill import Skills, load
from steps.skills.worlds.grids import four_rooms

if TYPE_CHECKING:
    import numpy as np

    from steps.skills.worlds.tables import World


class Settings(BaseSettings):
    """The task, and how it is learned."""

    cap: int = Field(320, ge=1, le=10**6, description="steps after which an episode ends")
    episodes: int = Field(6400, ge=1, le=10**8, description="episodes of each learner")
    at_once: int = Field(
        64, ge=1, le=10**5, description="episodes that run side by side, with the same Q-values"
    )
    learning_rate: float = Field(
        0.1, gt=0, le=1, description="step of a Q-value towards its target at each decision: 1 is all the way"
    )
    discount: float = Field(0.99, gt=0, le=1, description="of the reward, for each decision")
    last_random: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of random choices (epsilon) in the second half of"
        " learning; in the first it falls from 1",
    )
    initial: list[float] = Field(
        [0.0, 1.0],
        min_length=1,
        description="Q-values to start from, one learner each; headline figures are those from 0",
    )
    evaluations: int = Field(10, ge=1, le=10_000, description="points of the learning curve")
    save_seconds: float = Field(
        60.0,
        ge=0,
        le=1e6,
        description="seconds between saved states, to resume from; no influence on the result",
        json_schema_extra=NO_INFLUENCE,
    )

    @field_validator("initial")
    @classmethod
    def _headline_learns(cls, initial: list[float]) -> list[float]:
        if len(set(initial)) < len(initial) or 0 not in initial:
            raise ValueError("values that differ, with 0 among them (headline figures are from there)")
        return initial


class Learners(NamedTuple):
    """Learners that go through their episodes together."""

    choices: list[str]
    """What each chooses from."""
    initial: list[float]
    """The Q-values that each started from."""
    allowed: np.ndarray
    """Which choices each has, ``bool [learners, skills + actions]``."""
    q: np.ndarray
    """``float64 [learners, states, skills + actions]``."""


def learners(skills: Skills | None, world: World, settings: Settings) -> Learners:
    """The learners that choose among these skills; among single actions where there are none."""
    import numpy as np

    count = len(skills) if skills is not None else 0
    kinds = [SKILLS, BOTH] if skills is not None else [PRIMITIVES]
    choices = [kind for kind in kinds for _ in settings.initial]
    initial = [value for _ in kinds for value in settings.initial]
    is_skill = np.arange(count + world.actions) < count
    allowed = np.array([is_skill | (kind != SKILLS) for kind in choices])
    start = np.array(initial)[:, None, None]
    q = np.broadcast_to(start, (len(choices), world.schema.size, count + world.actions)).copy()
    return Learners(choices, initial, allowed, q)


def episodes(
    task: Learners,
    skills: Skills | None,
    world: World,
    settings: Settings,
    random_share: float,
    learn: bool,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """One episode on each of the places of every learner.

    Returns:
        Steps ``int [learners, at_once]`` and successes ``bool [learners, at_once]``.
    """
    import numpy as np

    count, places = len(skills) if skills is not None else 0, settings.at_once
    length = skills.length if skills is not None else 1
    learner = np.repeat(np.arange(len(task.q)), places)
    taken, success = np.full(len(learner), settings.cap), np.zeros(len(learner), bool)
    state = np.full(len(learner), world.home)
    began, choice, elapsed = state.copy(), np.zeros(len(learner), np.int64), np.zeros(len(learner), np.int64)
    at = np.arange(len(learner))
    for clock in range(1, settings.cap + 1):
        new = at[elapsed[at] == 0]
        if len(new):
            choice[new] = _chosen(task, learner[new], state[new], random_share, generator)
            began[new] = state[new]
        action = choice[at] - count
        skilled = at[choice[at] < count]
        if skills is not None and len(skilled):
            action[choice[at] < count] = skills.act(
                choice[skilled], state[skilled], began[skilled], elapsed[skilled], generator
            )
        state[at] = world.step(state[at], action, generator)
        elapsed[at] += 1
        ended = at[(choice[at] >= count) | (elapsed[at] == length)]
        if learn and len(ended):
            _learn(task, learner[ended], began[ended], choice[ended], state[ended], world.goal, settings)
        elapsed[ended] = 0
        looked_at = ended if clock < settings.cap else at
        won = looked_at[state[looked_at] == world.goal]
        taken[won], success[won] = clock, True
        at = at[~success[at]]
        if not len(at):
            break
    return taken.reshape(-1, places), success.reshape(-1, places)


def _chosen(
    task: Learners,
    learner: np.ndarray,
    state: np.ndarray,
    random_share: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """A choice for each of these places: the best one, or any of those that are allowed."""
    import numpy as np

    allowed = task.allowed[learner]
    noise = generator.random(allowed.shape)
    best = np.where(allowed, task.q[learner, state] + 1e-9 * noise, -np.inf).argmax(1)  # ties by chance
    anyone = np.where(allowed, noise, -1).argmax(1)
    return np.where(generator.random(len(learner)) < random_share, anyone, best)


def _learn(
    task: Learners,
    learner: np.ndarray,
    began: np.ndarray,
    choice: np.ndarray,
    state: np.ndarray,
    goal: int,
    settings: Settings,
) -> None:
    """One step of Q-learning; several places with the same decision are as many steps to their mean."""
    import numpy as np

    won = state == goal
    following = np.where(task.allowed[learner], task.q[learner, state], -np.inf).max(1)
    target = np.where(won, 1.0, settings.discount * following)
    flat = task.q.reshape(-1)
    keys = (learner * task.q.shape[1] + began) * task.q.shape[2] + choice
    unique, where, times = np.unique(keys, return_inverse=True, return_counts=True)
    mean = np.bincount(where, target) / times
    flat[unique] += (1 - (1 - settings.learning_rate) ** times) * (mean - flat[unique])


def main(skills: list[Path], seed: int, settings: Settings, out: Output) -> None:
    """Learn the task over the skills of a ledger; without one, over single actions."""
    import numpy as np

    world = four_rooms()
    chosen = load(skills[0]) if skills else None
    card = chosen.card if chosen is not None else {"base": PRIMITIVES, "mode": PRIMITIVES, "seed": seed}
    task = learners(chosen, world, settings)
    name = f"{card['base']}, {card['mode']}, seed {seed}"
    made_from = {
        "skills": Folder(skills[0], "skills").fingerprint if skills else None,
        "seed": seed,
        "settings": settings.model_dump(exclude={"save_seconds"}),
        "code": code_digest("skills.downstream"),
        "versions": versions(("numpy",)),
    }
    state = out.parent / f".{final_name(out)}.state"
    job = Resumable(state, made_from, {"q": task.q}, settings.save_seconds)
    rounds = -(-settings.episodes // settings.at_once)
    shown = {round(rounds * (k + 1) / settings.evaluations) for k in range(settings.evaluations)}
    for number in job.steps(rounds, f"rounds of episodes of {name}"):
        generator = np.random.default_rng(derive(seed, "skills.downstream", number))
        random_share = max(settings.last_random, 1 - (1 - settings.last_random) * 2 * number / rounds)
        episodes(task, chosen, world, settings, random_share, True, generator)
        if number + 1 in shown:
            steps, success = episodes(task, chosen, world, settings, 0.0, False, generator)
            job.curve.append(
                {
                    "episodes": (number + 1) * settings.at_once,
                    "steps": steps.mean(1).tolist(),
                    "success": success.mean(1).tolist(),
                }
            )
    found = [
        {
            "choices": choices,
            "initial": initial,
            "curve": [
                {"episodes": p["episodes"], "steps": p["steps"][index], "success": p["success"][index]}
                for p in job.curve
            ],
        }
        for index, (choices, initial) in enumerate(zip(task.choices, task.initial, strict=True))
    ]
    about = {name: card[name] for name in ("base", "mode", "seed")}
    write_json(out, {**about, "learners": found, "versions": versions(("numpy", "safetensors"))})
    job.finish()


if __name__ == "__main__":
    run(main)
