"""The rotated baseline against explicit rotation, and which neurons it lets pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.tensors import read_tensors
from steps.neurons import baseline
from steps.neurons.activations.store import Activations
from steps.neurons.baseline import Settings, excess_table
from steps.neurons.correlate import summarise
from steps.neurons.correlations import rotation as rotations
from steps.neurons.correlations.moments import Moments
from steps.neurons.correlations.pairs import Pair, load_pairs
from steps.neurons.correlations.rotation import rotated_maxima, rotation
from tests.neurons.planted import correlate_pair, pearson, stored_post, write_activations, write_moments

KEEP = np.random.default_rng(1).random(400) < 0.9


@dataclasses.dataclass
class Planted:
    """Two stores, a of 2 x 15 neurons and b of 3 x 12, and what follows from them."""

    a: Path
    b: Path
    rho: np.ndarray
    partner: Moments
    folder: Path


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    folder = tmp_path_factory.mktemp("baseline")
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((400, 10))
    pre = {
        name: latent @ rng.standard_normal((10, count)) + rng.standard_normal((400, count)) + shift
        for name, count, shift in (("a", 30, 0), ("b", 36, 5))
    }
    pre["b"][:, 13] = 2  # a constant
    pre["b"][:, 24:] = -9  # a whole layer of constants
    a, b = (
        write_activations(
            folder / name,
            pre[name].astype("float32"),
            name=name,
            layers=layers,
            activation="relu",
            keep=KEEP,
            block_tokens=128,
        )
        for name, layers in (("a", 2), ("b", 3))
    )
    rho = pearson(stored_post(a, "relu", KEEP), stored_post(b, "relu", KEEP))
    return Planted(a, b, rho, Moments(write_moments(folder / "moments", b), Activations(b)), folder)


def maxima(planted: Planted, draws: int, rows: slice = slice(None), seed: int = 3) -> np.ndarray:
    rho = torch.from_numpy(planted.rho[rows].copy())
    return rotated_maxima(rho, planted.partner, 3, "b", draws, seed, "float64")


@pytest.mark.parametrize("unit_rows", [True, False])
def test_maxima_equal_those_of_rotated_activations(planted: Planted, unit_rows: bool) -> None:
    """Rotate the stored activations themselves; rows of unit norm, as in the paper, change nothing."""
    found = maxima(planted, 5)
    v, w = stored_post(planted.a, "relu", KEEP), stored_post(planted.b, "relu", KEEP)
    for draw in range(5):
        best = np.full(30, -np.inf)
        for layer in range(3):
            matrix = rotation(3, "b", layer, draw, 12, "float64")
            if unit_rows:
                matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
            best = np.maximum(best, pearson(v, w[:, layer * 12 : layer * 12 + 12] @ matrix.T).max(1))
        np.testing.assert_allclose(found[draw], best, rtol=0, atol=1e-10)


@pytest.mark.parametrize("together", [1, 24, 1024])
def test_a_draw_does_not_depend_on_the_others_nor_on_the_tile(
    planted: Planted, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = maxima(planted, 31)
    monkeypatch.setattr(rotations, "DRAW_COLUMNS", together)
    for draws in (1, 2, 17):
        np.testing.assert_allclose(maxima(planted, draws), whole[:draws], rtol=0, atol=1e-12)
    for rows in (slice(0, 1), slice(7, 30), slice(3, 20)):
        np.testing.assert_allclose(maxima(planted, 5, rows), whole[:5, rows], rtol=0, atol=1e-12)
    assert not np.isclose(whole[0], whole[1]).any()
    assert not np.isclose(whole[:5], maxima(planted, 5, seed=4)).any()


def test_the_step_uses_them(planted: Planted, tmp_path: Path) -> None:
    """``neurons.correlate`` writes the same, whatever the cut."""
    for tiles, ranges in ((1, 1), (4, 3)):
        files = correlate_pair(tmp_path, planted.a, planted.b, tiles=tiles, ranges=ranges, draws=5, seed=3)
        (pair,) = load_pairs(files)
        np.testing.assert_allclose(pair.rotated_max, maxima(planted, 5), rtol=0, atol=1e-10)


def test_float32_is_close(planted: Planted) -> None:
    """Other random numbers than in float64, so compare with explicit rotation by these."""
    found = rotated_maxima(torch.from_numpy(planted.rho.copy()), planted.partner, 3, "b", 2, 3, "float32")
    v, w = stored_post(planted.a, "relu", KEEP), stored_post(planted.b, "relu", KEEP)
    matrices = [rotation(3, "b", layer, 1, 12, "float32").astype(float) for layer in range(3)]
    parts = [pearson(v, part @ matrix.T) for part, matrix in zip(np.split(w, 3, 1), matrices, strict=True)]
    np.testing.assert_allclose(found[1], np.max([part.max(1) for part in parts], axis=0), rtol=0, atol=1e-6)


def test_rotations_are_normal_and_depend_on_what_they_rotate() -> None:
    matrix = rotation(0, "b", 1, 2, 200)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, rotation(0, "b", 1, 2, 200))
    assert scipy.stats.kstest(matrix.reshape(-1), "norm").pvalue > 0.01
    others = [rotation(1, "b", 1, 2, 200), rotation(0, "c", 1, 2, 200), rotation(0, "b", 0, 2, 200)]
    others += [rotation(0, "b", 1, 3, 200), rotation(0, "b1", 1, 2, 200)]
    for other in others:
        assert abs(np.corrcoef(matrix.reshape(-1), other.reshape(-1))[0, 1]) < 0.025


def test_excess_table(planted: Planted, tmp_path: Path) -> None:
    """Every column from two pairs, worked out by hand."""
    pre = np.random.default_rng(5).standard_normal((400, 20)).astype("float32")
    c = write_activations(
        tmp_path / "c", pre, name="c", layers=1, activation="relu", keep=KEEP, block_tokens=128
    )
    files = [
        *correlate_pair(tmp_path / "ab", planted.a, planted.b, tiles=2, draws=39),
        *correlate_pair(tmp_path / "ac", planted.a, c, draws=39),
    ]
    out = tmp_path / "excess.parquet"
    baseline.main(files, Settings(threshold=0.1), Output(out))
    table = pd.read_parquet(out)
    rho = [planted.rho, pearson(stored_post(planted.a, "relu", KEEP), stored_post(c, "relu", KEEP))]
    largest = np.stack([part.max(1) for part in rho])
    null = np.stack([pair.rotated_max for pair in load_pairs(files)])
    mean = largest.mean(0)
    expected = {
        "layer": np.repeat([0, 1], 15),
        "neuron": np.tile(range(15), 2),
        "max_corr": largest.max(0),
        "mean_corr": mean,
        "min_corr": largest.min(0),
        "max_baseline": null[:, 0].max(0),
        "mean_baseline": null[:, 0].mean(0),
        "min_baseline": null[:, 0].min(0),
        "mean_baseline_draws": null.mean((0, 1)),
        "excess_corr": (largest - null[:, 0]).mean(0),
        "excess_corr_draws": (largest[:, None] - null).mean((0, 1)),
        "universal": (largest - null[:, 0]).mean(0) > 0.1,
        "p_value": (1 + (null.mean(0) >= mean).sum(0)) / 40,
        "constant": np.zeros(30, bool),
        "max_corr[b]": largest[0],
        "layer[b]": rho[0].argmax(1) // 12,
        "neuron[b]": rho[0].argmax(1) % 12,
        "max_corr[c]": largest[1],
        "layer[c]": np.zeros(30),
        "neuron[c]": rho[1].argmax(1),
    }
    expected["adjusted_p_value"] = scipy.stats.false_discovery_control(expected["p_value"])
    expected["privileged_basis"] = expected["adjusted_p_value"] <= 0.05
    assert set(table.columns) == set(expected)
    assert 0 < table["universal"].sum() < 30
    for name, values in expected.items():
        np.testing.assert_allclose(
            table[name].astype(float), values.astype(float), rtol=0, atol=1e-10, err_msg=name
        )
    again = tmp_path / "again.parquet"
    baseline.main(files, Settings(threshold=0.1), Output(again))
    assert again.read_bytes() == out.read_bytes()


def test_neurons_above_every_rotation_pass_at_the_border(planted: Planted, tmp_path: Path) -> None:
    """With 19 draws the smallest p-value is 0.05: the rate itself, for any number of neurons."""
    (pair,) = load_pairs(correlate_pair(tmp_path, planted.a, planted.b, draws=19))
    several = np.arange(3072) % len(pair.row_constant)
    many = dataclasses.replace(
        pair,
        row_top_value=pair.row_top_value[several],
        row_top_index=pair.row_top_index[several],
        row_constant=pair.row_constant[several],
        rotated_max=np.full((19, 3072), -1.0),
    )
    table = excess_table([many], Settings(q=0.05))
    assert (table["p_value"] == 0.05).all()
    assert table["privileged_basis"].all()


def test_files_of_two_references_are_refused(planted: Planted, tmp_path: Path) -> None:
    files = [
        *correlate_pair(tmp_path / "ab", planted.a, planted.b),
        *correlate_pair(tmp_path / "ba", planted.b, planted.a),
    ]
    with pytest.raises(UserError, match=r"reference models \['a', 'b'\], expected one"):
        baseline.main(files, Settings(), Output(tmp_path / "out"))


WIDTH, TOKENS = 24, 1500


class Within:
    """What :func:`rotated_maxima` needs of ``Moments``, from activations in memory."""

    def __init__(self, post: np.ndarray, d_mlp: int) -> None:
        self._centred, self._d_mlp = post - post.mean(0), d_mlp
        self.norm = np.linalg.norm(self._centred, axis=0)

    def covariance(self, layer: int) -> np.ndarray:
        part = self._centred[:, layer * self._d_mlp : (layer + 1) * self._d_mlp]
        product: np.ndarray = part.T @ part
        return product


def study(seed: int, strength: np.ndarray | None, d_mlp: int = WIDTH) -> list[np.ndarray]:
    """Three models ``[tokens, 3 * d_mlp]``: a layer of shared neurons, then two without privileged basis.

    Shared neuron ``i`` of a partner correlates with the reference's with ``strength[i]``. The other layers
    (the first too, where there is no ``strength``) are in every model a rotation of its own of one latent:
    their neurons have matches, but only because in rotations of one space some always are.
    """
    rng = np.random.default_rng(seed)
    shared, *latent = rng.standard_normal((4, TOKENS, d_mlp))
    models = []
    for model in range(3):
        layers = [z @ scipy.stats.ortho_group.rvs(d_mlp, random_state=rng) for z in latent]
        if strength is not None:
            own = strength if model else np.ones(d_mlp)
            layers[0] = own * shared + np.sqrt(1 - own**2) * rng.standard_normal(shared.shape)
        models.append(np.hstack(layers))
    return models


def judged(models: list[np.ndarray], draws: int, d_mlp: int = WIDTH) -> pd.DataFrame:
    """The table of the first model, by the functions of the steps but without their files."""
    pairs = []
    for number, partner in enumerate(models[1:]):
        rho = pearson(models[0], partner)
        name, own = f"partner-{number}", Within(partner, d_mlp)
        null = rotated_maxima(torch.from_numpy(rho.copy()), own, 3, name, draws, 0, "float64")  # type: ignore[arg-type]
        varies = np.zeros(3 * d_mlp, "uint8")
        pairs.append(
            Pair(
                a="reference",
                b=name,
                neurons=(3 * d_mlp, 3 * d_mlp),
                d_mlp=(d_mlp, d_mlp),
                tokens=TOKENS,
                **summarise(torch.from_numpy(rho), 0, 1),
                row_constant=varies,
                column_constant=varies,
                rotated_max=null,
                activations=("", ""),
            )
        )
    return excess_table(pairs, Settings())


def test_privileged_neurons_are_found_and_false_discoveries_are_few() -> None:
    """Twenty planted studies: every shared neuron is found, and at most q of what is found is false.

    A third of the neurons are shared, so Benjamini-Hochberg promises a mean false discovery proportion
    of 2/3 q = 0.033; the bound is q itself, for a mean over 20 studies with a standard error near 0.01.
    """
    proportions, layers = [], []
    for seed in range(20):
        table = judged(study(seed, np.linspace(0.75, 0.95, WIDTH)), 299)
        found = table["privileged_basis"].to_numpy()
        assert found[:WIDTH].all()
        for partner in ("partner-0", "partner-1"):  # and matched with their own twins
            assert table[f"neuron[{partner}]"][:WIDTH].tolist() == list(range(WIDTH))
            layers.append(table[f"layer[{partner}]"].to_numpy())
        proportions.append(found[WIDTH:].sum() / found.sum())
    assert np.mean(proportions) <= 0.05
    assert np.max(proportions) > 0  # there is something to be controlled
    assert np.mean(np.stack(layers) == np.repeat([0, 1, 2], WIDTH)) > 0.99


def test_false_discoveries_in_layers_that_mix() -> None:
    """What docs/neurons.md warns of: shared neurons lower the null of the others in their layer.

    Half of each layer's neurons are shared. The bounds are measured, not promised.
    """
    proportions, mixed = [], WIDTH // 2
    strength = np.linspace(0.75, 0.95, mixed)
    for seed in range(8):
        models = study(300 + seed, None)
        rng = np.random.default_rng(seed)
        shared = rng.standard_normal((TOKENS, 3, mixed))
        for number, model in enumerate(models):
            noise = rng.standard_normal(shared.shape)
            values = strength * shared + np.sqrt(1 - strength**2) * noise if number else shared
            model.reshape(TOKENS, 3, WIDTH)[:, :, :mixed] = values
        found = judged(models, 99)["privileged_basis"].to_numpy().reshape(3, WIDTH)
        assert found[:, :mixed].all()
        proportions.append(found[:, mixed:].sum() / found.sum())
    assert 0.15 < np.mean(proportions) < 0.45


def test_models_without_privileged_basis_yield_next_to_nothing() -> None:
    """Nothing is shared, so a study has any discovery with a probability of q at most.

    Of 20 studies, 1 is expected to have one; 5 or more have a probability of 0.3 %.
    """
    tables = [judged(study(100 + seed, None), 299) for seed in range(20)]
    assert sum(bool(table["privileged_basis"].any()) for table in tables) <= 4
    p = np.concatenate([table["p_value"] for table in tables])
    assert 0.4 < p.mean() < 0.6  # neither blind nor trigger-happy
    assert (p <= 0.1).mean() < 0.13


def test_universal_are_those_above_the_threshold_whatever_the_rest() -> None:
    """Baselines are about 0.3 here: 0.95 exceeds them by more than 0.5, 0.55 does not, though it is real."""
    table = judged(study(0, np.repeat([0.95, 0.55], 36), d_mlp=72), 99, d_mlp=72)
    assert table["universal"].tolist() == [True] * 36 + [False] * 180
    assert table["privileged_basis"][:72].all()
    assert (table["universal"] == (table["excess_corr"] > 0.5)).all()


def test_constant_neurons_are_neither(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pre = rng.standard_normal((128, 8)).astype("float32")
    pre[:, 3] = 1
    ledgers = [write_activations(tmp_path / name, pre, name=name) for name in ("a", "b")]
    files = correlate_pair(tmp_path, *ledgers, draws=19)
    table = excess_table(load_pairs(files), Settings())
    row = table.loc[3]
    assert row["constant"]
    assert not row["universal"]
    assert not row["privileged_basis"]
    assert row["p_value"] == 1
    assert row["mean_corr"] == row["mean_baseline"] == 0
    assert table.notna().all(axis=None)
    assert read_tensors(files[0])[0]["row_constant"].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
