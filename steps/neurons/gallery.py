"""A figure for each family of neurons, and two of all families (the paper's F1, F4 and F15 to F21).

Reads the excess table, the explanations with their profiles, and the histograms. Draws the universal neurons
of the reference (``universal_set``), those whose explanation holds up best on held-out tokens first: for most
families how pre-activations are distributed on tokens with the feature and on others, for position the mean
post-activation with its spread at every position. ``all``: how many neurons each family has, by layer, over
all neurons and over the universal ones; ``best``: of each family the one explained best. Where there are
none, the figure says so.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from steps.core.errors import UserError
from steps.core.figures import check_names, save_figure
from steps.core.runner import Output, progress, run
from steps.core.stores import Folder, read_table, require_rows, write_json
from steps.core.tensors import read_tensors
from steps.neurons.activations.bins import Histograms
from steps.neurons.explanations.families import FAMILIES
from steps.neurons.figures.galleries import GALLERIES, gallery, overview
from steps.neurons.selection.universal import SET_COLUMNS, UniversalSettings, chosen, describe

READ = ["model", "layer", "neuron", "family", "feature", "variance_reduction", "variance_reduction_held_out"]
"""The columns read of the explanations."""


OF_EXCESS = ["layer", "neuron", *SET_COLUMNS]
"""The columns read of the excess table."""


class Settings(UniversalSettings):
    """What the galleries show."""

    panels: int = Field(12, ge=1, description="universal neurons shown of each family")


def main(
    excess: Path,
    explanations: Path,
    profiles: Path,
    histograms: Path,
    settings: Settings,
    figures: dict[str, Output],
    data: dict[str, Output],
) -> None:
    """Draw the galleries (``figures``), named for a family, ``all`` or ``best``, and write their ``data``."""
    import numpy as np

    check_names(figures, data, GALLERIES)
    table = read_table(explanations, READ).to_pandas()
    reference = str(table["model"].iloc[0])
    table = table[table["model"] == reference].reset_index(drop=True)
    differences = read_table(excess, OF_EXCESS).to_pandas()
    require_rows(explanations, table[["layer", "neuron"]], differences[["layer", "neuron"]], excess)
    universal = chosen(differences, settings.universal_set, settings.top_share)
    label = describe(settings.universal_set, settings.top_share, int(universal.sum()))
    table["number"] = np.arange(len(table))
    best_first = table[universal].sort_values("variance_reduction_held_out", ascending=False, kind="stable")
    whole, facts = read_tensors(profiles, kind="explanation profiles")
    if facts["activations"] != Folder(histograms, "histograms").made_from["activations"]:
        raise UserError(f"{profiles}: of other activations than {histograms}; give those of one study")
    arrays = {
        name.removeprefix(f"{reference}."): values
        for name, values in whole.items()
        if name.startswith(f"{reference}.")
    }
    if (count := len(arrays.get("bins_on", ()))) != len(table):
        raise UserError(
            f"{profiles}: holds {count} neurons of {reference!r}, expected the {len(table)} of"
            f" {explanations}; give those of one study"
        )
    counts = Histograms(histograms).counts(reference).sum(0)
    for family in progress(figures, len(figures), "galleries"):
        if family == "all":
            drawn, shown = overview(table, universal, label)
        else:
            members = best_first[best_first["family"].isin(FAMILIES if family == "best" else [family])]
            if family == "best":
                members = members.drop_duplicates("family")
            drawn, shown = gallery(family, members.head(settings.panels), arrays, counts, label)
        save_figure(drawn, figures[family])
        write_json(data[family], shown)


if __name__ == "__main__":
    run(main)
