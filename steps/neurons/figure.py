"""The chapter's figures, each an SVG and a JSON file of what it shows.

Reads what other steps wrote, known by the names of the files; each figure asks for its own, so that some can
be drawn without the others' files:

=========================  =====================================  ============================================
figure                     shows (the paper's number)             reads
=========================  =====================================  ============================================
``correlation_summary``    correlations, baseline, partners,      ``excess``, ``clusters``, correlations
                           layers (F2, F12, F13)
``excess``                 redrawn rotations as null (ours)       the same
``clusters``               sizes and stability (ours)             the same
``universal_percentiles``  universal neurons in layers (F3)       ``neurons``
``frequency_cosine``       frequency by cos(in, out) (F9)         ``neurons``
``redundancy``             the most similar neuron (F10)          ``neurons``
``metric_densities``       all models (F11)                       ``neurons``, ``beside``
``metrics_by_layer``       universal neurons by layer (F14)       ``neurons``
``roles``                  of neurons of the last layers (ours)   ``roles``; ``neurons``, where given
``roles_by_depth``         kurtosis, skewness, roles (F6, F22)    ``depth``
``logit_histograms``       effects on logits (F5, F23, F24)       ``logit_histograms.safetensors``
``attention``              neurons that steer heads (F8, F26)     ``attention_heads``, ``attention_pairs``,
                                                                  ``attention.json``, ``.safetensors``
``interventions``          entropy neurons, ablations (F7, F25)   ``interventions``, ``roles``,
                                                                  ``interventions.safetensors``
``suppression``            activation by next token (F24)         ``suppression``,
                                                                  ``interventions.safetensors``
``similarity``             other measures and nulls (ours)        ``similarity``
``checkpoints``            universality over training (ours)      ``checkpoints``
=========================  =====================================  ============================================

Where figures speak of universal neurons, they are those of ``universal_set`` and say so.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steps.core.digest import file_digest
from steps.core.errors import UserError
from steps.core.figures import check_names, save_figure
from steps.core.runner import Output, progress, run
from steps.core.stores import read_json, read_table, require_rows, write_json
from steps.core.tensors import read_tensors
from steps.neurons.correlations.pairs import Pair, load_pairs
from steps.neurons.figures import (
    attention,
    checkpoints,
    interventions,
    logit_histograms,
    roles,
    similarity,
    statistics,
)
from steps.neurons.figures import correlations as correlation_figures
from steps.neurons.selection.rules import ROLE_COLUMNS
from steps.neurons.selection.tables import KEYS, MEASURES, read_excess, read_members
from steps.neurons.selection.universal import SET_COLUMNS, UniversalSettings, chosen, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    _Drawn = tuple[Figure, dict[str, Any]]


class Settings(UniversalSettings):
    """Which neurons are shown as the universal ones, and what they are compared with."""

    beside: list[str] = Field(
        [], description="neuron tables of other studies, whose models metric_densities draws with ours"
    )
    last_layers: float = Field(
        0.25, gt=0, le=1, description="share of the layers that roles takes as the last ones, rounded up"
    )


@dataclasses.dataclass
class Study:
    """What figures are drawn from, read when one asks for it.

    Attributes:
        files: what steps wrote, by their names.
        tiles: correlations of the reference's pairs.
        beside: neuron tables of other studies.
        settings: see :class:`Settings`.
        threshold: excess above which the table of checkpoints says universal.
    """

    files: dict[str, Path]
    tiles: list[Path]
    beside: list[Path]
    settings: Settings
    threshold: float

    def file(self, name: str) -> Path:
        """The file of that name.

        Raises:
            UserError: it was not given.
        """
        if name not in self.files:
            raise UserError(f"--files: found no {name}, which a figure needs; give it, or draw another")
        return self.files[name]

    def table(self, name: str, *needed: str) -> pd.DataFrame:
        """The parquet table of that name, which must have the columns ``needed``."""
        table: pd.DataFrame = read_table(self.file(f"{name}.parquet"), needed=needed).to_pandas()
        return table

    def arrays(self, name: str, kind: str, **tables: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays of that name and the facts about them.

        Raises:
            UserError: one of the ``tables``, by the fact that tells its digest, does not belong to them.
        """
        path = self.file(f"{name}.safetensors")
        arrays, facts = read_tensors(path, kind=kind)
        for fact, table in tables.items():
            if facts[fact] != file_digest(own := self.file(f"{table}.parquet")):
                raise UserError(
                    f"{own}: is not the table that belongs to {path}; give that of the same study"
                )
        return arrays, facts

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        """The reference with each partner."""
        if not self.tiles:
            raise UserError("--correlations: found none, expected those of the reference with its partners")
        return load_pairs(self.tiles)

    @functools.cached_property
    def excess(self) -> pd.DataFrame:
        """The excess table of the reference."""
        return read_excess(self.file("excess.parquet"), self.pairs)

    @functools.cached_property
    def members(self) -> pd.DataFrame:
        """The members of clusters."""
        models = {name for pair in self.pairs for name in (pair.a, pair.b)}
        return read_members(self.file("clusters.parquet"), models)

    @functools.cached_property
    def neurons(self) -> pd.DataFrame:
        """The neuron table."""
        path = self.file("neurons.parquet")
        table: pd.DataFrame = read_table(path, needed=[*KEYS, *SET_COLUMNS]).to_pandas()
        return table

    def require_one_study(self) -> None:
        """Refuse a neuron table that is not of the same study as the excess table.

        Equal excess is asked for, too: neurons of the same name are in every study.
        """
        same = [*KEYS, "excess_corr"]
        own = self.excess.assign(model=self.pairs[0].a)
        found = statistics.reference_rows(self.neurons)
        require_rows(self.file("neurons.parquet"), found[same], own[same], self.file("excess.parquet"))

    @functools.cached_property
    def universal(self) -> tuple[np.ndarray, str]:
        """Which of the reference's rows of the neuron table are universal ones, and what to call them."""
        settings, rows = self.settings, statistics.reference_rows(self.neurons)
        inside = chosen(rows, settings.universal_set, settings.top_share)
        return inside, describe(settings.universal_set, settings.top_share, int(inside.sum()))


def _of_another_study(path: Path) -> pd.DataFrame:
    """A neuron table whose models are named after its folder, too."""
    table = read_table(path, needed=["model"]).to_pandas()
    return table.assign(model=f"{path.parent.name}/" + table["model"].astype(str))


def _of_correlations(name: str) -> Callable[[Study], _Drawn]:
    def draw(study: Study) -> _Drawn:
        return correlation_figures.FIGURES[name](study.excess, study.members, study.pairs)

    return draw


def _of_statistics(name: str) -> Callable[[Study], _Drawn]:
    def draw(study: Study) -> _Drawn:
        import pandas as pd

        table = study.neurons
        if name == "metric_densities":
            table = pd.concat([table, *map(_of_another_study, study.beside)])
        return statistics.STATISTICS[name](table, *study.universal)

    return draw


def _roles(study: Study) -> _Drawn:
    whole = study.table("roles", *KEYS, "layers", *ROLE_COLUMNS)
    reference = whole[whole["model"] == whole["model"].iloc[0]].reset_index(drop=True)
    if "neurons.parquet" in study.files:
        table, settings = study.neurons, study.settings
        require_rows(study.file("neurons.parquet"), table[KEYS], whole[KEYS], study.file("roles.parquet"))
        own = reference[KEYS].merge(table[[*KEYS, *SET_COLUMNS]], on=KEYS, how="left", validate="one_to_one")
        reference["in_set"] = chosen(own, settings.universal_set, settings.top_share)
    return roles.draw_roles(reference, study.settings, study.settings.last_layers)


def _roles_by_depth(study: Study) -> _Drawn:
    return roles.draw_depth(study.table("depth", "model", "layer", "depth", "high_kurtosis"))


def _logit_histograms(study: Study) -> _Drawn:
    arrays, facts = study.arrays("logit_histograms", "logit effects")
    return logit_histograms.draw(facts["neurons"], arrays["effects"], arrays["inside"])


def _attention(study: Study) -> _Drawn:
    points, _ = study.arrays("attention", "attention points", pairs="attention_pairs")
    called = read_json(study.file("attention.json"))["attention_neurons"]
    heads = study.table("attention_heads", "layer", "score_max", "other_norm", "bos_norm", "norm_ratio")
    return attention.draw(heads, study.table("attention_pairs"), points, called)


def _interventions(study: Study) -> _Drawn:
    arrays, facts = study.arrays("interventions", "interventions", interventions="interventions")
    table, of_roles = study.table("interventions"), study.table("roles", *KEYS, "l2_penalty")
    own = of_roles[of_roles["model"] == table["model"].iloc[0]].sort_values(["layer", "neuron"])
    cosines = {
        (layer, n): c for (layer, n), c in zip(arrays["swept"].tolist(), arrays["cosines"], strict=True)
    }
    label = describe(facts["universal_set"], facts["top_share"], facts["universal"])
    return interventions.draw(table, cosines, own.reset_index(drop=True), label)


def _suppression(study: Study) -> _Drawn:
    arrays, _ = study.arrays("interventions", "interventions", suppression="suppression")
    return interventions.draw_suppression(study.table("suppression"), arrays["counts"])


def _similarity(study: Study) -> _Drawn:
    return similarity.similarity_figure(study.table("similarity", *MEASURES))


def _checkpoints(study: Study) -> _Drawn:
    table = study.table("checkpoints", "step", "tokens", "excess_corr", "self_corr")
    return checkpoints.training_figure(table, study.settings, study.threshold)


FIGURES: dict[str, Callable[[Study], _Drawn]] = {
    **{name: _of_correlations(name) for name in correlation_figures.FIGURES},
    **{name: _of_statistics(name) for name in statistics.STATISTICS},
    "roles": _roles,
    "roles_by_depth": _roles_by_depth,
    "logit_histograms": _logit_histograms,
    "attention": _attention,
    "interventions": _interventions,
    "suppression": _suppression,
    "similarity": _similarity,
    "checkpoints": _checkpoints,
}
"""How each figure is drawn."""


def main(
    files: list[Path],
    correlations: list[Path],
    beside: list[Path],
    settings: Settings,
    figures: dict[str, Output],
    data: dict[str, Output],
    threshold: float = 0.5,
) -> None:
    """Draw the ``figures``, each named for what it shows, and write the ``data`` of the same names.

    ``files`` are what the chapter's steps wrote, under the names that they have there; ``beside`` holds
    neuron tables of other studies, each named after its folder; ``threshold`` is that of
    ``neurons.checkpoints``.
    """
    check_names(figures, data, list(FIGURES))
    study = Study({path.name: path for path in files}, correlations, beside, settings, threshold)
    if {"excess.parquet", "neurons.parquet"} <= study.files.keys():
        study.require_one_study()
    for name in progress(figures, len(figures), "figures"):
        drawn, shown = FIGURES[name](study)
        save_figure(drawn, figures[name])
        write_json(data[name], shown)


if __name__ == "__main__":
    run(main)
