"""The chapter's figures, each an SVG and a JSON file of what it shows.

Reads the excess table of the reference model, the cluster members, the correlation files of the
reference's pairs and the neuron table. Figures (the paper's numbers): ``correlation_summary`` (F2, F12,
F13: histograms, the largest over partners against the smallest, layer by layer matches), ``excess``
(against the null of redrawn rotations; ours), ``clusters`` (sizes and stability; ours), and those of
``statistic_figures.py`` (F3, F9, F10, F11, F14).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steps.core.figures import check_names, save_figure
from steps.core.runner import Output, progress, run
from steps.core.stores import read_table, require_rows, write_json
from steps.neurons.correlations.pairs import Pair, load_pairs
from steps.neurons.figures.correlations import cluster_sizes, correlation_summary, excess_against_null
from steps.neurons.figures.statistics import STATISTICS, reference_rows
from steps.neurons.selection.tables import KEYS, read_excess, read_members
from steps.neurons.selection.universal import SET_COLUMNS, UniversalSettings, chosen, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from matplotlib.figure import Figure

    _Drawn = tuple[Figure, dict[str, Any]]
    _Draw = Callable[[pd.DataFrame, pd.DataFrame, list[Pair]], _Drawn]


class Settings(UniversalSettings):
    """Which neurons are shown as the universal ones, and what they are compared with."""

    beside: list[str] = Field(
        [], description="neuron tables of other studies, whose models metric_densities draws with ours"
    )


FIGURES: dict[str, _Draw] = {
    "correlation_summary": correlation_summary,
    "excess": excess_against_null,
    "clusters": cluster_sizes,
}


def _of_another_study(path: Path) -> pd.DataFrame:
    """A neuron table whose models are named after its folder, too."""
    table = read_table(path, needed=["model"]).to_pandas()
    return table.assign(model=f"{path.parent.name}/" + table["model"].astype(str))


def main(
    excess: Path,
    clusters: Path,
    correlations: list[Path],
    neurons: Path,
    beside: list[Path],
    settings: Settings,
    figures: dict[str, Output],
    data: dict[str, Output],
) -> None:
    """Draw the ``figures``, each named for what it shows, and write the ``data`` of the same names.

    ``beside`` holds neuron tables of other studies, each named after its folder.
    """
    import pandas as pd

    check_names(figures, data, [*FIGURES, *STATISTICS])
    pairs = load_pairs(correlations)
    members = read_members(clusters, {name for pair in pairs for name in (pair.a, pair.b)})
    differences = read_excess(excess, pairs)
    # Equal excess, too: neurons of the same name are in every study.
    same = [*KEYS, "excess_corr"]
    table = read_table(neurons, needed=[*KEYS, *SET_COLUMNS]).to_pandas()
    own = differences.assign(model=pairs[0].a)
    require_rows(neurons, reference_rows(table)[same], own[same], excess)
    universal = chosen(reference_rows(table), settings.universal_set, settings.top_share)
    label = describe(settings.universal_set, settings.top_share, int(universal.sum()))
    for name in progress(figures, len(figures), "figures"):
        if name == "metric_densities":
            whole = pd.concat([table, *map(_of_another_study, beside)])
            drawn, shown = STATISTICS[name](whole, universal, label)
        elif name in STATISTICS:
            drawn, shown = STATISTICS[name](table, universal, label)
        else:
            drawn, shown = FIGURES[name](differences, members, pairs)
        save_figure(drawn, figures[name])
        write_json(data[name], shown)


if __name__ == "__main__":
    run(main)
