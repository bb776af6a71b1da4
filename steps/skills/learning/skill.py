"""Skills as they are kept: policies as shares of actions, with a card that says what each is for.

A folder of kind ``skills``: ``skills.safetensors`` with an array ``uint8 [skills, time, states, starts,
actions - 1]`` for each group, and ``card.json``. The numbers are cumulated shares of all actions but the
last, in 255ths: a number is drawn from 0 to 254, and the action is how many of them it is not below. What is
less likely than 1 in 510 is left out, and never done. Which of the ``starts`` of its group a state is follows
from the schema and the weights in the card (``focus``).

    skills = load(Path("data/skills/default/fourrooms/vic-focused/seed-1/ledger.json"))
    skill = skills[9]
    skill.name, skill.targets           # "object 5,5 #1", ("object 5,5",)
    action = skill.act(state, start, time, generator)

``state``, ``start`` (the state in which the skill began) and ``time`` (steps since) are numbers or arrays of
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError
from steps.core.stores import Folder, Ledger, read_json, write_json
from steps.core.tensors import read_tensors, write_tensors
from steps.skills.learning.focus import STATE, Group, unfocused
from steps.skills.learning.tabular import groups
from steps.skills.worlds.schema import Schema, from_description

if TYPE_CHECKING:
    import numpy as np

    from steps.skills.worlds.tables import World

LEVELS = 255
"""Into how many equal parts the shares of actions are cut."""

CARD = "card.json"
POLICIES = "skills.safetensors"


def cumulated(q: np.ndarray, temperature: float) -> np.ndarray:
    """The policies of Q-values, as they are kept.

    Args:
        q: ``float32 [skills, time, actions, states, starts]``.
        temperature: of the policies.

    Returns:
        ``uint8 [skills, time, states, starts, actions - 1]``.
    """
    import numpy as np

    skills, length, actions, states, starts = q.shape
    kept = np.empty((skills, length, states, starts, actions - 1), np.uint8)
    for skill in range(skills):
        for time in range(length):
            values = q[skill, time]
            shares = values - values.max(0)
            shares /= np.float32(temperature)
            np.exp(shares, out=shares)
            # One by one, before they are cumulated: a rounded sum would lift a tiny share to a whole part.
            shares *= shares >= shares.sum(0) / np.float32(2 * LEVELS)
            for action in range(1, actions):
                shares[action] += shares[action - 1]
            shares *= LEVELS / shares[-1]
            shares += np.float32(0.5)
            for action in range(actions - 1):
                kept[skill, time, :, :, action] = shares[action]
    return kept


@dataclasses.dataclass(frozen=True)
class Skill:
    """One skill of a set."""

    skills: Skills
    index: int
    name: str
    targets: tuple[str, ...]

    def act(self, state: Any, start: Any, time: Any, generator: np.random.Generator) -> np.ndarray:
        """The action that the skill takes, ``int`` of the shape of ``state``.

        Args:
            state: where it is now.
            start: where it began.
            time: steps since it began, from 0 to the length of the skill less 1.
            generator: of what is left to chance.

        Raises:
            ValueError: there is no such state or time.
        """
        import numpy as np

        states, length = self.skills.schema.size, self.skills.length
        for name, given, end in (("state", state, states), ("start", start, states), ("time", time, length)):
            values = np.asarray(given)
            if wrong := values[(values < 0) | (values >= end)].tolist():
                raise ValueError(f"{name}: found {wrong[0]}, expected 0 to {end - 1}")
        state, start, time = np.broadcast_arrays(state, start, time)
        flat = self.skills.act(
            np.full(state.size, self.index), state.ravel(), start.ravel(), time.ravel(), generator
        )
        return flat.reshape(state.shape)


class Skills(Sequence[Skill]):
    """A set of skills, which all run for the same number of steps."""

    def __init__(
        self,
        schema: Schema,
        groups: Sequence[Group],
        policies: Sequence[np.ndarray],
        card: dict[str, Any] | None = None,
    ) -> None:
        """Put policies together.

        Args:
            schema: the variables of the states.
            groups: of skills with the same targets.
            policies: of each group, as :func:`cumulated` gives them.
            card: what is known about them.
        """
        import numpy as np

        self.schema, self.groups, self.policies, self.card = schema, groups, policies, card or {}
        self.length = policies[0].shape[1]
        self.group_of = np.repeat(np.arange(len(groups)), [group.skills for group in groups])
        """The group of each skill."""
        width = policies[0].shape[-1]
        cells = [policy.reshape(-1, width) for policy in policies]
        self._cells = np.concatenate(cells) if len(cells) > 1 else cells[0]
        self._starts = np.stack([group.starts for group in groups])
        self._start_count = np.array([group.start_count for group in groups])[self.group_of]
        one = self.length * schema.size * self._start_count
        self._first = np.concatenate([[0], np.cumsum(one)[:-1]])

    def __len__(self) -> int:
        return len(self.group_of)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        group = self.groups[self.group_of[number]]
        within = number - int((self.group_of < self.group_of[number]).sum())
        targets = (
            ()
            if group.name == STATE
            else tuple(self.schema.variables[target].name for target in group.targets)
        )
        return Skill(self, number, f"{group.name} #{within}", targets)

    def shares(
        self, skills: np.ndarray, states: np.ndarray, starts: np.ndarray, time: np.ndarray | int
    ) -> np.ndarray:
        """The cumulated shares of actions, ``uint8 [n, actions - 1]``."""
        began = self._starts[self.group_of[skills], starts]
        place = (time * self.schema.size + states) * self._start_count[skills] + began
        found: np.ndarray = self._cells[self._first[skills] + place]
        return found

    def act(
        self,
        skills: np.ndarray,
        states: np.ndarray,
        starts: np.ndarray,
        time: np.ndarray | int,
        generator: np.random.Generator,
    ) -> np.ndarray:
        """The actions of many skills at once, ``int [n]``."""
        import numpy as np

        drawn = generator.integers(LEVELS, size=len(skills), dtype=np.uint8)
        actions: np.ndarray = (self.shares(skills, states, starts, time) <= drawn[:, None]).sum(1)
        return actions

    def run(
        self, world: World, skills: np.ndarray, starts: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """Run skills from their starts to their ends: the states, ``int32 [n, length + 1]``."""
        import numpy as np

        states = np.empty((len(starts), self.length + 1), np.int32)
        states[:, 0] = starts
        for time in range(self.length):
            actions = self.act(skills, states[:, time], starts, time, generator)
            states[:, time + 1] = world.step(states[:, time], actions, generator)
        return states


def random_skills(world: World, skills: int, length: int) -> Skills:
    """Skills that take every action equally often, as a rival of those that learned."""
    import numpy as np

    [group] = unfocused(world.schema, skills)
    q = np.zeros((1, 1, world.actions, 1, 1), np.float32)
    shape = (skills, length, world.schema.size, 1, world.actions - 1)
    return Skills(world.schema, [group], [np.broadcast_to(cumulated(q, 1.0), shape).copy()])


def save(skills: Skills, ledger: Ledger) -> None:
    """Write skills and their card into a folder that is being made."""
    arrays = {group.name: policy for group, policy in zip(skills.groups, skills.policies, strict=True)}
    write_tensors(ledger.place(POLICIES), arrays, {"kind": "skills"})
    ledger.record(POLICIES)
    about = {
        **skills.card,
        "length": skills.length,
        "variables": skills.schema.described(),
        "skills": [
            {"name": skill.name, "targets": list(skill.targets), "array": skills.groups[int(group)].name}
            for skill, group in zip(skills, skills.group_of, strict=True)
        ],
    }
    write_json(ledger.place(CARD), about)
    ledger.record(CARD)


def load(path: Path) -> Skills:
    """Open a folder of skills by its ledger.

    Raises:
        UserError: it is damaged, or something else.
    """
    folder = Folder(path, "skills")
    card = read_json(folder.check(CARD))
    policies, _ = read_tensors(folder.check(POLICIES), kind="skills")
    try:
        schema = from_description(card["variables"])
        parts = groups(schema, card["mode"], card["weight"])
        tables = [policies[group.name] for group in parts]
        shapes = [(group.skills, card["length"], schema.size, group.start_count) for group in parts]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder.folder / CARD}: lacks {error}; delete {path} and build it again") from None
    for group, table, shape in zip(parts, tables, shapes, strict=True):
        if table.shape[:4] != shape:
            raise UserError(
                f"{folder.folder / POLICIES}: found {group.name!r} of shape {list(table.shape)}, expected"
                f" {list(shape)} and the actions; delete {path} and build it again"
            )
    return Skills(schema, parts, tables, card)
