"""Galleries: what they draw is in their data, and empty ones say so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.tensors import read_tensors, write_tensors
from steps.neurons import gallery, report
from steps.neurons.activations.bins import BINS
from steps.neurons.activations.store import Activations
from steps.neurons.explanations.families import FAMILIES
from steps.neurons.figures import captions, galleries
from tests.neurons.conftest import Study


@pytest.fixture(scope="module")
def explained(planted: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Explanations of the planted study: shared neurons (10 to 29) are of four families, others of none."""
    folder = tmp_path_factory.mktemp("explained")
    table = pd.read_parquet(planted.folder / "neurons.parquet")[["model", "layer", "neuron"]]
    number = table.groupby("model").cumcount()
    shared = number.between(10, 29)
    table["family"] = np.where(shared, np.array([*FAMILIES[:3], "unigram"])[number % 4], "none")
    table["feature"] = "unigram '$a\\n'"
    table["variance_reduction"] = 0.5 + number / 1000
    table["variance_reduction_held_out"] = 0.45 + number / 400
    table.to_parquet(folder / "explanations")
    bins = np.zeros((96, BINS), np.int32)
    bins[:, 110] = 50
    profile = np.random.default_rng(0).random((96, 16), dtype=np.float32)
    arrays = {"a.bins_on": bins, "a.position_mean": profile, "a.position_std": profile, "b.bins_on": bins[:1]}
    facts = {"kind": "explanation profiles"}
    write_tensors(
        folder / "profiles",
        arrays,
        {**facts, "activations": [Activations(path).store.fingerprint for path in planted.activations]},
    )
    return folder / "explanations", folder / "profiles"


def draw(
    study: Study,
    explained: tuple[Path, Path],
    folder: Path,
    family: str,
    excess: Path | None = None,
    **settings: object,
) -> tuple[str, dict]:
    out, data = folder / f"{family}.svg", folder / f"{family}.json"
    chosen = gallery.Settings.model_validate(settings)
    excess, histograms = (
        excess or study.folder / "excess.parquet",
        study.folder / "histograms" / "ledger.json",
    )
    gallery.main(excess, *explained, histograms, chosen, {family: Output(out)}, {family: Output(data)})
    return out.read_text(), json.loads(data.read_text())


def test_the_best_explained_universal_neurons_come_first(
    planted: Study, explained: tuple[Path, Path], tmp_path: Path
) -> None:
    svg, data = draw(planted, explained, tmp_path, "unigram", panels=3)
    excess = pd.read_parquet(planted.folder / "excess.parquet")
    universal = [n for n in range(10, 30) if excess["privileged_basis"][n] and n % 4 == 3]
    assert len(universal) >= 3
    assert [48 * n["layer"] + n["neuron"] for n in data["neurons"]] == universal[::-1][:3]
    first = data["neurons"][0]
    assert sum(first["on"]) == 50
    assert first["variance_reduction_held_out"] == pytest.approx(0.45 + universal[-1] / 400)
    assert data["set"] in svg
    assert "with the feature" in svg
    position = draw(planted, explained, tmp_path, "position")[1]
    assert len(position["neurons"][0]["mean"]) == 16


def test_the_best_of_each_family(planted: Study, explained: tuple[Path, Path], tmp_path: Path) -> None:
    _, data = draw(planted, explained, tmp_path, "best")
    table = pd.read_parquet(explained[0]).query("model == 'a'")
    drawn = [table.iloc[48 * one["layer"] + one["neuron"]] for one in data["neurons"]]
    families = [row["family"] for row in drawn]
    assert sorted(families) == sorted({*families})
    assert "unigram" in families
    assert "none" not in families
    excess = pd.read_parquet(planted.folder / "excess.parquet")
    for row in drawn:
        rivals = table[excess["privileged_basis"].to_numpy() & (table["family"] == row["family"]).to_numpy()]
        assert row["variance_reduction_held_out"] == rivals["variance_reduction_held_out"].max()


def test_empty_galleries_say_so(planted: Study, explained: tuple[Path, Path], tmp_path: Path) -> None:
    svg, data = draw(planted, explained, tmp_path, "syntax")
    assert data["neurons"] == []
    assert "Syntax neurons: none" in svg.replace("\n", " ")
    svg, data = draw(planted, explained, tmp_path, "unigram", universal_set="top_share", top_share=1e-9)
    assert data["neurons"] == []
    assert "Unigram neurons: no neurons taken as universal" in svg
    assert (
        "no neurons taken as universal"
        in draw(planted, explained, tmp_path, "all", universal_set="top_share", top_share=1e-9)[0]
    )


def test_counts_by_family_and_layer(planted: Study, explained: tuple[Path, Path], tmp_path: Path) -> None:
    data = draw(planted, explained, tmp_path, "all")[1]
    counts = dict(zip(data["families"], data["neurons"]["all"], strict=True))
    assert counts["unigram"] == [5, 0]
    assert counts["none"] == [28, 48]
    assert np.sum(data["neurons"]["all"]) == 96
    assert (np.array(data["neurons"]["universal"]) <= np.array(data["neurons"]["all"])).all()


def test_an_unknown_family_is_refused(planted: Study, explained: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found 'bigram'"):
        draw(planted, explained, tmp_path, "bigram")


def test_every_gallery_has_a_caption() -> None:
    assert set(galleries.GALLERIES) <= set(captions.CAPTIONS)


def test_explanation_metrics(explained: tuple[Path, Path]) -> None:
    table = pd.read_parquet(explained[0])
    table = table[table["model"] == "a"]
    universal = np.arange(96) < 40
    found = report.explanation_metrics(table, universal)
    assert found["explained_above_half"] == pytest.approx(19 / 40)
    assert found["family_count_unigram"] == 5
    assert found["family_count_syntax"] == 0
    assert report.explanation_metrics(table, np.zeros(96, bool))["explained_above_half"] == 0


def test_inputs_of_another_kind_or_study_are_refused(
    planted: Study, explained: tuple[Path, Path], tmp_path: Path
) -> None:
    excess, table = pd.read_parquet(planted.folder / "excess.parquet"), pd.read_parquet(explained[0])
    arrays, facts = read_tensors(explained[1])
    for name, frame in {
        "excess": excess.iloc[:-1],
        "bare": excess.drop(columns="privileged_basis"),
        "short": table.drop(index=95),
        "plain": table.drop(columns="family"),
    }.items():
        frame.to_parquet(tmp_path / f"{name}.parquet")
    fewer = {name: values[:95] for name, values in arrays.items()}
    write_tensors(tmp_path / "fewer", fewer, facts)
    write_tensors(tmp_path / "others", arrays, {**facts, "activations": facts["activations"][::-1]})
    for changes, said in (
        ({"excess": tmp_path / "excess.parquet"}, "explanations: holds layer 1, neuron 47, expected exactly"),
        ({"excess": tmp_path / "bare.parquet"}, "bare.parquet: lacks the column 'privileged_basis'"),
        (
            {"explained": (tmp_path / "short.parquet", explained[1])},
            "short.parquet: lacks layer 1, neuron 47",
        ),
        (
            {"explained": (tmp_path / "plain.parquet", explained[1])},
            "plain.parquet: lacks the column 'family'",
        ),
        (
            {"explained": (explained[0], planted.moments[0])},
            "found a file of 'moments', expected one of 'expl",
        ),
        (
            {"explained": (explained[0], tmp_path / "others")},
            "others: of other activations than .*ledger.json",
        ),
        (
            {"explained": (explained[0], tmp_path / "fewer")},
            "fewer: holds 95 neurons of 'a', expected the 96",
        ),
    ):
        with pytest.raises(UserError, match=said):
            draw(planted, folder=tmp_path, family="all", **({"explained": explained} | changes))  # type: ignore
    assert not (tmp_path / "all.svg").exists()
