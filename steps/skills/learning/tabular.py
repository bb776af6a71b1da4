"""The soft tabular learner, which knows of the world only what runs showed.

Skills run in the world. A transition that any of them sampled is valid for every skill, every start and
every time within a skill, so all of their Q-values of its state and action learn from it. The last successor
seen of every state and action is kept, and all of them are replayed in every round, those of this round and
of earlier ones alike. In a world without chance, such as FourRooms, that amounts to value iteration on what
has been seen: a further visit to a pair teaches discriminators, and Q-values nothing. Sweeps go backward in
time, from the last step to the first:

    Q[t](s, a | s0)  moves by ``learning_rate`` towards  r(s') + V[t + 1](s' | s0),
    V[t](s | s0)  =  temperature * log mean over a of exp(Q[t](s, a | s0) / temperature),

where s' is the last successor seen of s and a, and r and the start s0 are
those of ``focus``. A policy takes actions in proportion to exp(Q / temperature): that is the best one for
reward less ``temperature`` times its divergence from random actions. The state of a policy is (start, time,
state): without the start, nobody knows what is to be left as it was.

Runs begin at home, after ``warm_up`` half of them in states in which earlier ones ended, each as likely as
any other, since skills are chained. All skills run from the same starts. Further runs of random actions look
for states that nobody knows; discriminators learn nothing from those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pydantic

from steps.core.digest import seed as derive
from steps.core.settings import NO_INFLUENCE
from steps.core.settings import Settings as BaseSettings
from steps.core.statistics import exact
from steps.skills.learning.bases import BASES
from steps.skills.learning.focus import UNFOCUSED_SKILLS, Group, Objective, focused, unfocused

if TYPE_CHECKING:
    import numpy as np

    from steps.skills.worlds.schema import Schema
    from steps.skills.worlds.tables import World


class Temperatures(BaseSettings):
    """Of policies, by what their skills are about: in units of the reward."""

    binary: float = pydantic.Field(
        0.01, gt=0, le=1000, description="of focused skills whose target is a bit (an object)"
    )
    categorical: float = pydantic.Field(
        0.5, gt=0, le=1000, description="of focused skills whose target has more values (the position)"
    )
    state: float = pydantic.Field(0.5, gt=0, le=1000, description="of unfocused skills")


class Algorithm(BaseSettings):
    """What differs between the base algorithms."""

    weight: float = pydantic.Field(
        5.0,
        ge=0,
        le=1e6,
        description="reward taken off at the end for each variable outside the"
        " target that differs from the start",
    )
    temperatures: Temperatures = pydantic.Field(
        Temperatures(),
        description="softmax temperatures of the policies, in units of the reward: higher is more random",
    )


class Settings(BaseSettings):
    """How skills are learned; the same for all base algorithms and modes, but for what they name."""

    length: int = pydantic.Field(24, ge=1, le=200, description="steps of a skill, T")
    iterations: int = pydantic.Field(14, ge=1, le=100_000, description="rounds of running and learning")
    episodes: int = pydantic.Field(128, ge=1, le=10**6, description="runs of each skill in a round")
    exploring: int = pydantic.Field(4096, ge=0, le=10**7, description="runs of random actions in a round")
    warm_up: float = pydantic.Field(
        0.3,
        ge=0,
        le=1,
        description="share of the rounds, from the first, in which all skills"
        " start at home; later half of them do",
    )
    learning_rate: float = pydantic.Field(
        0.7,
        gt=0,
        le=1,
        description="step of the Q-values towards their targets in each round: 1 is all the way",
    )
    vic: Algorithm = pydantic.Field(Algorithm(), description="VIC: reward for where a skill ended")
    diayn: Algorithm = pydantic.Field(
        Algorithm(weight=10.0, temperatures=Temperatures(binary=0.025, categorical=2.0, state=2.0)),
        description="DIAYN: reward after every step",
    )
    save_seconds: float = pydantic.Field(
        60.0,
        ge=0,
        le=1e6,
        description="seconds between saved states, to resume from; no influence on the result",
        json_schema_extra=NO_INFLUENCE,
    )

    def algorithm(self, base: str) -> Algorithm:
        """The settings of a base algorithm."""
        found: Algorithm = getattr(self, base)
        return found


def groups(schema: Schema, mode: str, weight: float) -> list[Group]:
    """The groups of skills of a mode."""
    return focused(schema, weight) if mode == "focused" else unfocused(schema, UNFOCUSED_SKILLS)


class Learner:
    """Skills of several groups that learn together."""

    def __init__(
        self,
        world: World,
        groups: Sequence[Group],
        base: str,
        temperatures: Sequence[float],
        settings: Settings,
        seed: int,
    ) -> None:
        """Start from nothing.

        Args:
            world: where skills run.
            groups: of skills.
            base: the name of the base algorithm.
            temperatures: of each group.
            settings: of learning.
            seed: of the run.
        """
        import numpy as np

        self.world, self.settings, self.seed = world, settings, seed
        self.temperatures = temperatures
        self.objectives = [
            Objective(group, BASES[base], np.random.default_rng(derive(seed, "skills.train", "first", index)))
            for index, group in enumerate(groups)
        ]
        states, actions = world.successors.shape
        self.q = [
            np.zeros((group.skills, settings.length, actions, states, group.start_count), np.float32)
            for group in groups
        ]
        """Q-values of each group, ``float32 [skills, time, actions, states, starts]``."""
        self.latest = np.full((actions, states), -1, np.int32)
        """The last successor seen of each action in each state; kept, and replayed in every round; -1: never
        seen."""
        self.ended = np.zeros(states, bool)
        """The states in which runs have ended."""
        self.ended[world.home] = True

    def arrays(self) -> dict[str, np.ndarray]:
        """All that learning changes, in place."""
        named = {f"q/{index}": q for index, q in enumerate(self.q)}
        named |= {f"visits/{index}": one.base.visits for index, one in enumerate(self.objectives)}
        return named | {"latest": self.latest, "ended": self.ended}

    def iterate(self, iteration: int) -> dict[str, Any]:
        """Run all skills, then learn from what was seen; returns a point of the learning curve."""
        import numpy as np

        generator = np.random.default_rng(derive(self.seed, "skills.train", "iteration", iteration))
        settings, home = self.settings, self.world.home
        pool = np.flatnonzero(self.ended)
        starts = np.full(settings.episodes, home)
        if iteration >= int(exact(settings.warm_up) * settings.iterations):
            half = settings.episodes // 2
            starts[:half] = generator.choice(pool, half)
        runs = [self._explore(generator.choice(pool, settings.exploring), generator)]
        reached = {}
        for index, objective in enumerate(self.objectives):
            skills = np.repeat(np.arange(objective.group.skills), settings.episodes)
            states, actions = self._run(index, skills, np.tile(starts, objective.group.skills), generator)
            objective.update(skills, states)
            reached[objective.group.name] = len(np.unique(states[:, -1]))
            runs.append((states, actions))
        for states, actions in runs:
            self.latest[actions, states[:, :-1]] = states[:, 1:]
            self.ended[states[:, -1]] = True
        for index, objective in enumerate(self.objectives):
            for skill in range(objective.group.skills):
                self._sweep(index, objective, skill)
        return {
            "steps": (iteration + 1) * self.steps_per_iteration(),
            "known": float((self.latest >= 0).mean()),
            "ends": reached,
            "reward": {one.group.name: self._information(one) for one in self.objectives},
        }

    def steps_per_iteration(self) -> int:
        """Steps in the world of each round."""
        skills = sum(objective.group.skills for objective in self.objectives)
        return (skills * self.settings.episodes + self.settings.exploring) * self.settings.length

    def _information(self, objective: Objective) -> float:
        """The mean of log q(skill | value) - log p(skill) over what skills visited, in nats."""
        visits = objective.base.visits
        return float((visits * objective.base.log_ratio()).sum() / len(visits))

    def _explore(self, starts: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        actions = generator.integers(self.world.actions, size=(len(starts), self.settings.length))
        states = np.empty((len(starts), self.settings.length + 1), np.int32)
        states[:, 0] = starts
        for time in range(self.settings.length):
            states[:, time + 1] = self.world.step(states[:, time], actions[:, time], generator)
        return states, actions

    def _run(
        self, index: int, skills: np.ndarray, starts: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run the policies: states ``int32 [n, length + 1]`` and actions ``int [n, length]``."""
        import numpy as np

        group, q, temperature = self.objectives[index].group, self.q[index], self.temperatures[index]
        states = np.empty((len(starts), self.settings.length + 1), np.int32)
        actions = np.empty((len(starts), self.settings.length), np.int64)
        states[:, 0] = starts
        began = group.starts[starts]
        for time in range(self.settings.length):
            now = states[:, time]
            shares = probabilities(q[skills, time, :, now, began], temperature).cumsum(1)
            drawn = generator.random(len(now), np.float32)
            actions[:, time] = np.minimum((shares <= drawn[:, None]).sum(1), self.world.actions - 1)
            states[:, time + 1] = self.world.step(now, actions[:, time], generator)
        return states, actions

    def _sweep(self, index: int, objective: Objective, skill: int) -> None:
        """Move the Q-values of one skill, over all starts and, from the last to the first, all times.

        Of all pairs of state and action that were ever seen, not of this round's alone.
        """
        import numpy as np

        group, q = objective.group, self.q[index][skill]
        temperature = np.float32(self.temperatures[index])
        known = self.latest >= 0
        after = np.where(known, self.latest, 0)
        rate = (np.float32(self.settings.learning_rate) * known)[:, :, None]
        taken = group.charge_taken[after] - group.charge_taken
        arriving = (objective.arriving(skill, last=False)[after] - taken)[:, :, None]
        value = objective.arriving(skill, last=True)[:, None] - group.charge_kept
        gain = -taken[:, :, None]
        step, best = np.empty_like(value), np.empty_like(value)
        for time in reversed(range(self.settings.length)):
            for action in range(len(q[time])):
                values = q[time, action]
                np.take(value, after[action], axis=0, out=step)
                step += gain[action]
                step -= values
                step *= rate[action]
                values += step
                np.copyto(best, values) if action == 0 else np.maximum(best, values, out=best)
            value = np.zeros_like(best)
            for values in q[time]:
                np.subtract(values, best, out=step)
                step /= temperature
                value += np.exp(step, out=step)
            value /= np.float32(len(q[time]))
            np.log(value, out=value)
            value *= temperature
            value += best
            gain = arriving


def probabilities(q: np.ndarray, temperature: float) -> np.ndarray:
    """The shares of actions in proportion to exp(q / temperature), over the last axis."""
    import numpy as np

    shares: np.ndarray = np.exp((q - q.max(-1, keepdims=True)) / np.float32(temperature))
    shares /= shares.sum(-1, keepdims=True)
    return shares
