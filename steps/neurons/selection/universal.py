"""Which neurons of the reference count as *the universal ones* where a figure or a test speaks of them.

The paper takes an excess correlation above 0.5 and says that no principled threshold exists; at laptop
scale few neurons pass it. So the set is a setting, and whatever shows the set also shows which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from steps.core.settings import Settings
from steps.core.statistics import exact
from steps.core.text import plural

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


UniversalSet = Literal["half", "calibrated", "top_share"]
"""The paper's threshold, the privileged basis of ``neurons.baseline``, or the largest excess."""


class UniversalSettings(Settings):
    """Which neurons are the universal ones; a step that speaks of them builds its settings on these."""

    universal_set: UniversalSet = Field(
        "calibrated",
        description="which neurons figures and tests call universal. calibrated: excess above the"
        " privileged basis; half: excess above 0.5 (paper), which few neurons of small"
        " models pass; top_share: the largest excess",
    )
    top_share: float = Field(
        0.05, gt=0, le=1, description="share of the neurons, by excess, that top_share takes"
    )


SET_COLUMNS = ("universal", "privileged_basis", "excess_corr", "constant")
"""The columns that :func:`chosen` reads."""


def chosen(excess: pd.DataFrame, universal_set: UniversalSet, top_share: float) -> np.ndarray:
    """Whether each neuron of the excess table, or of the reference's rows of the neuron table, is in the set.

    ``top_share`` takes the nearest whole number of all neurons, of equal ones the earlier; a neuron that
    never varies is never taken. Where the excess is missing, a neuron is not universal.

    Returns:
        bool ``[neurons]``, in the order of the table; all false where the set is empty.
    """
    import numpy as np

    if universal_set != "top_share":
        column = excess["universal" if universal_set == "half" else "privileged_basis"]
        return column.fillna(False).to_numpy(dtype=bool)
    value = excess["excess_corr"].to_numpy(dtype=float, na_value=np.nan)
    constant = excess["constant"].fillna(True).to_numpy(dtype=bool)
    possible = ~constant & ~np.isnan(value)
    count = min(int(possible.sum()), round(exact(top_share) * len(excess)))
    result = np.zeros(len(excess), bool)
    result[np.argsort(np.where(possible, -value, np.inf), kind="stable")[:count]] = True
    return result


def describe(universal_set: UniversalSet, top_share: float, count: int) -> str:
    """What figures print of a set of ``count`` neurons."""
    rule = {
        "half": "excess correlation above 0.5",
        "calibrated": "privileged basis, calibrated against rotations",
        "top_share": f"the {100 * top_share:g} % of largest excess",
    }[universal_set]
    # "taken as": the paper's own count, of an excess above 0.5, stands next to this one in reports
    many = f"{count:,}" if count else "no"
    return f"{many} {plural(count, 'neuron')} taken as universal: {rule}"
