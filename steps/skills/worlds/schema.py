"""The variables that the states of a world are made of (a factored state, section 2 of the paper).

A state is one number, in mixed radix: the value of the first variable counts most.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MOST_SKILLS = 8
"""Skills of a variable with many values; one with fewer has as many skills as values."""


@dataclasses.dataclass(frozen=True)
class Variable:
    """A state variable.

    Attributes:
        name: what it is called.
        size: number of its values, which are 0 to ``size`` - 1.
        permanent: whether it is 0 or 1 and stays 1 once it is: what it was at the start then follows from
            what it is, or has no consequences any more.
        weight: of a change of it in the penalty of skills that should leave it alone; 0 for what nobody
            controls.
    """

    name: str
    size: int
    permanent: bool = False
    weight: float = 1.0

    @property
    def kind(self) -> str:
        """``binary`` or ``categorical``; temperatures go by it."""
        return "binary" if self.size == 2 else "categorical"

    @property
    def skills(self) -> int:
        """How many skills it gets."""
        return min(self.size, MOST_SKILLS)


@dataclasses.dataclass(frozen=True)
class Schema:
    """The variables of a world, in the order in which states count them."""

    variables: tuple[Variable, ...]

    @property
    def size(self) -> int:
        """The number of states that could be written: the product of the variables' sizes."""
        return math.prod(variable.size for variable in self.variables)

    @functools.cached_property
    def values(self) -> np.ndarray:
        """The values of every variable in every state, ``int16 [states, variables]``."""
        import numpy as np

        sizes = [variable.size for variable in self.variables]
        columns = np.unravel_index(np.arange(self.size), sizes)
        return np.stack(columns, axis=1).astype(np.int16)

    def state(self, *values: int) -> int:
        """The number of the state with these values."""
        number = 0
        for variable, value in zip(self.variables, values, strict=True):
            number = number * variable.size + value
        return number

    def described(self) -> list[dict[str, Any]]:
        """The variables as JSON."""
        return [dataclasses.asdict(variable) for variable in self.variables]


def from_description(described: list[dict[str, Any]]) -> Schema:
    """The schema that :meth:`Schema.described` wrote down."""
    return Schema(tuple(Variable(**variable) for variable in described))
