"""Explanations as tables: what both passes found, and families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.core.statistics import adjusted_p_values, discovered
from steps.neurons.activations.store import Activations
from steps.neurons.explanations import syntax
from steps.neurons.explanations.families import family, letter
from steps.neurons.explanations.first_pass import Best
from steps.neurons.explanations.labels import Labelling
from steps.neurons.explanations.second_pass import Explained
from steps.neurons.explanations.text import Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


Explanations = tuple["pd.DataFrame", "pd.DataFrame", dict[str, "np.ndarray"]]
"""Explanations (before :func:`finish`), top tokens, and profiles by name, of neurons of one model."""


def with_place(table: pd.DataFrame, source: Activations) -> pd.DataFrame:
    number = table.pop("number")
    table.insert(0, "model", source.name)
    table.insert(1, "layer", (number // source.d_mlp).astype("int32"))
    table.insert(2, "neuron", (number % source.d_mlp).astype("int32"))
    return table


def _names(best: Best, found: list[Labelling]) -> list[tuple[str, str, str]]:
    """Which token, group and name of each neuron's best explanation."""
    everything: list[tuple[str, str, str]] = [
        (labelling.which, group, name)
        for labelling in found
        for group, name in zip(labelling.features.groups, labelling.features.names, strict=True)
    ]
    everything += [("position", "position", "position"), ("none", "none", "none")]
    return [everything[number] for number in best.feature]


def letters(best: Best, found: list[Labelling]) -> list[str | None]:
    names = _names(best, found)
    return [letter(name, group) if which == "current" else None for which, group, name in names]


def explanation_table(
    best: Best, explained: Explained, found: list[Labelling], letter_response: np.ndarray
) -> pd.DataFrame:
    """What both passes found, a row per neuron."""
    import pandas as pd

    which, group, name = zip(*_names(best, found), strict=True)
    role = [
        syntax.ROLES[number] if w == "current" else None
        for number, w in zip(explained.role, which, strict=True)
    ]
    table = pd.DataFrame(
        {
            "feature": name,
            "which": which,
            "group": group,
            "variance_reduction": explained.reduction[0],
            "variance_reduction_held_out": explained.reduction[1],
            "difference": best.difference,
            "p": explained.p,
            "role": pd.array(role, dtype="str"),  # a string column with no string in it, too
            "role_share": explained.role_share,
            "letter_response": letter_response,
        }
    )
    table.loc[table["which"] != "current", "role_share"] = float("nan")
    return table


def finish(table: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The explanations of all neurons of a model, with what follows from them together."""
    table = table.assign(
        **{f"{name}_adjusted": adjusted_p_values(table[name].to_numpy()) for name in ("p", "position_p")}
    )
    label_families(table, settings)
    return table


def label_families(table: pd.DataFrame, settings: Settings) -> None:
    """Add the columns ``family`` and ``evidence``."""
    strong = discovered(table["p_adjusted"], settings.q) & (
        table["variance_reduction_held_out"] >= settings.minimum_reduction
    )
    # Position is more than a mean that differs: whether the neuron fires must tell where it is.
    strong &= (table["which"] != "position") | discovered(table["position_p_adjusted"], settings.q)
    columns = [table[name] for name in ("which", "group", "feature", "difference")]
    table["family"] = [
        family(which, group, name, difference > 0, holds_up)
        for which, group, name, difference, holds_up in zip(*columns, strong, strict=True)
    ]
    table["evidence"] = [_evidence(row) for row in table.itertuples()]


def _evidence(row: Any) -> str:
    if row.which == "none":
        return "never varies"
    direction = (
        "" if row.which == "position" else ", fires on it" if row.difference > 0 else ", silenced by it"
    )
    role = (
        f", {100 * row.role_share:.0f} % of it on {row.role}s" if row.family == "unigram" and row.role else ""
    )
    token = {"current": "", "previous": "previous token: ", "position": ""}[row.which]
    return (
        f"{token}{row.feature}: variance reduction {row.variance_reduction:.2f}, held out"
        f" {row.variance_reduction_held_out:.2f}{direction}{role}; adjusted p {row.p_adjusted:.1g};"
        f" information about position {row.position_mi:.3f} nats, adjusted p {row.position_p_adjusted:.1g}"
    )
