"""Measures and nulls against plain numpy over what is stored, whatever the cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.neurons import similarity
from steps.neurons.activations.store import PostActivations
from steps.neurons.correlations import products, rotation
from steps.neurons.correlations.pairs import load_pairs
from steps.neurons.selection.tables import MEASURES, NULLS
from tests.neurons.planted import correlate_pair, draw_figure, pearson, stored_post, write_activations

TOKENS, WIDTH, LAYERS = 900, 24, 2
CONSTANT, SILENT, ONCE = 3, 4, 5


def planted(folder: Path, name: str, seed: int, **changes: Any) -> Path:
    """A store with neurons shared by all models, one that never varies, a silent one, one that fires once."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((TOKENS, 8)) - 1
    keep = rng.random(TOKENS) < 0.9
    pre = np.random.default_rng(seed).standard_normal((TOKENS, WIDTH * LAYERS)) * 0.8 + 0.3
    pre[:, 10:18] = shared + 0.2 * pre[:, 10:18]
    pre[:, CONSTANT] = 0.731
    pre[:, SILENT] = -30
    pre[:, ONCE] = -30
    pre[np.flatnonzero(keep)[77], ONCE] = 2
    options: dict[str, Any] = {"activation": "relu", "keep": keep, "block_tokens": 256, **changes}
    return write_activations(folder / name, pre.astype("float16"), name=name, layers=LAYERS, **options)


def keep_of(ledger: Path) -> np.ndarray:
    import zarr

    return np.asarray(zarr.open_array(str(ledger.parent / "keep"), mode="r")[:]).astype(bool)


def run(ledgers: list[Path], **settings: Any) -> pd.DataFrame:
    chosen = similarity.Settings.model_validate({"precision": "float64", **settings})
    return similarity.compare([similarity.Activations(ledger) for ledger in ledgers], chosen)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        value: np.ndarray = (a.T @ b) / np.linalg.norm(a, axis=0)[:, None] / np.linalg.norm(b, axis=0)
    return np.nan_to_num(value)


def jaccard(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    on, other = a > threshold, b > threshold
    both = (on[:, :, None] & other[:, None, :]).sum(0)
    either = (on[:, :, None] | other[:, None, :]).sum(0)
    return both / np.maximum(1, either)


def expected(a: np.ndarray, b: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    return {"pearson": pearson(a, b), "cosine": cosine(a, b), "jaccard": jaccard(a, b, threshold)}


def rotated(seed: int, name: str, post: np.ndarray, precision: Any) -> np.ndarray:
    parts = []
    for layer in range(LAYERS):
        matrix = rotation.rotation(seed, name, layer, 0, WIDTH, precision).astype(np.float64)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        parts.append(post[:, layer * WIDTH : (layer + 1) * WIDTH] @ matrix.T)
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("threshold", [0.0, 0.6])
@pytest.mark.parametrize(("precision", "atol"), [("float32", 1e-6), ("float64", 1e-10)])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_new"])
def test_measures_and_nulls_equal_numpy(
    tmp_path: Path, activation: str, precision: str, atol: float, threshold: float
) -> None:
    ledgers = [planted(tmp_path, name, k, activation=activation) for k, name in enumerate("abc")]
    table = run(ledgers, precision=precision, threshold=threshold, seed=7)
    keep = keep_of(ledgers[0])
    a, *others = (stored_post(ledger, activation, keep) for ledger in ledgers)
    mean: dict[str, list[np.ndarray]] = {}
    for name, b in zip("bc", others, strict=True):
        wanted = expected(a, b, threshold)
        for measure, matrix in wanted.items():
            exact = 0 if measure == "jaccard" else atol
            np.testing.assert_allclose(table[f"{measure}[{name}]"], matrix.max(1), rtol=0, atol=exact)
            place = table[f"{measure}_layer[{name}]"] * WIDTH + table[f"{measure}_neuron[{name}]"]
            found = np.take_along_axis(matrix, place.to_numpy()[:, None], 1)[:, 0]
            np.testing.assert_allclose(found, matrix.max(1), rtol=0, atol=exact)
            mean.setdefault(measure, []).append(matrix.max(1))
        order = similarity.permutation(7, name, int(keep.sum())).numpy()
        assert sorted(order) == list(range(keep.sum()))
        for null, other in (("rotated", rotated(7, name, b, precision)), ("permuted", b[order])):
            for measure, matrix in expected(a, other, threshold).items():
                mean.setdefault(f"{measure}_{null}", []).append(matrix.max(1))
    for column, values in mean.items():
        exact = 0 if column in ("jaccard", "jaccard_permuted") else atol
        np.testing.assert_allclose(table[column], np.mean(values, axis=0), rtol=0, atol=exact, err_msg=column)
    for measure in MEASURES:
        for null in NULLS:
            excess = table[measure] - table[f"{measure}_{null}"]
            np.testing.assert_array_equal(table[f"{measure}_excess_{null}"], excess)
    assert np.isfinite(table.to_numpy(float)).all()


def test_neurons_that_never_vary_or_fire_are_like_nothing(tmp_path: Path) -> None:
    ledgers = [planted(tmp_path, name, k) for k, name in enumerate("ab")]
    table = run(ledgers)
    nulls = [f"pearson_{null}" for null in NULLS]
    assert not table.loc[[CONSTANT, SILENT], ["pearson[b]", *nulls]].to_numpy().any()
    for measure in ("cosine", "jaccard"):
        assert not table.loc[SILENT, [f"{measure}[b]", *(f"{measure}_{n}" for n in NULLS)]].any()
    # It fires on the same token in both: the one and only.
    assert table.loc[ONCE, "jaccard[b]"] == 1
    assert table.loc[ONCE, ["pearson[b]", "cosine[b]"]].to_numpy() == pytest.approx(1)
    assert table.loc[ONCE, "jaccard_neuron[b]"] == ONCE


def test_planted_neurons_come_back_by_every_measure_and_exceed_every_null(tmp_path: Path) -> None:
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        ledgers = [planted(folder, name, 100 * seed + k) for k, name in enumerate("ab")]
        table = run(ledgers, precision="float32", seed=seed)
        for measure in MEASURES:
            assert (table.loc[10:17, f"{measure}_neuron[b]"] == np.arange(10, 18)).all()
            for null in NULLS:
                excess = table[f"{measure}_excess_{null}"]
                assert excess[10:18].min() > 0.2, (measure, null)
                if measure == "pearson":
                    assert excess[18:].max() < 0.2, null


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_accelerators_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Their path, on the CPU and where there is one on an accelerator."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no accelerator here")
    ledgers = [planted(tmp_path, name, k) for k, name in enumerate("ab")]
    wanted = run(ledgers)
    if device == "cpu":
        on_device = PostActivations._block_on_device
        monkeypatch.setattr(PostActivations, "block", lambda post, k: on_device(post, k, None))
        monkeypatch.setattr(similarity, "add_products", products._add_whole_products)
    pd.testing.assert_frame_equal(run(ledgers, device=device), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cut", [{"block_tokens": 900}, {"block_tokens": 64}, {"block_tokens": 112}])
def test_nulls_are_the_same_for_every_cut(tmp_path: Path, cut: dict[str, int]) -> None:
    whole = [planted(tmp_path, name, k) for k, name in enumerate("ab")]
    other = [planted(tmp_path / "cut", name, k, **cut) for k, name in enumerate("ab")]
    wanted, found = run(whole), run(other)
    for column in wanted:
        exact = column.startswith("jaccard") and "rotated" not in column
        np.testing.assert_allclose(found[column], wanted[column], rtol=0, atol=0 if exact else 1e-12)


def test_gaussian_null_has_the_mean_and_variance_of_pre_activations(tmp_path: Path) -> None:
    ledgers = [planted(tmp_path, name, k, activation="linear") for k, name in enumerate("ab")]
    settings = similarity.Settings(precision="float64")
    source = similarity.Activations(ledgers[1])
    reader = similarity.BlockReader(source, settings, slice(0, WIDTH))
    null = similarity.Gaussian(reader, 0, settings)
    pre = stored_post(ledgers[1], "linear", keep_of(ledgers[1]))[:, :WIDTH]
    np.testing.assert_allclose(null.mean[0], pre.mean(0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(null.deviation[0], pre.std(0), rtol=0, atol=1e-12)
    assert null.deviation[0, CONSTANT] == null.deviation[0, SILENT] == 0
    drawn = null.draw(40_000).numpy()
    error = 5 * pre.std(0) / 200
    assert (np.abs(drawn.mean(0) - pre.mean(0)) <= error + 1e-3).all()
    np.testing.assert_allclose(drawn.std(0), pre.std(0), rtol=0.03)
    rho = np.corrcoef(drawn[:, 6:].T)
    assert np.abs(rho[np.triu_indices_from(rho, 1)]).max() < 0.03


def test_rotated_pearson_is_the_baseline_of_draw_0(tmp_path: Path) -> None:
    ledgers = [planted(tmp_path, name, k) for k, name in enumerate("ab")]
    (pair,) = load_pairs(correlate_pair(tmp_path, *ledgers, seed=5))
    table = run(ledgers, seed=5)
    np.testing.assert_allclose(table["pearson"], pair.row_top_value[:, 0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(table["pearson_rotated"], pair.rotated_max[0], rtol=0, atol=1e-10)


def test_only_the_first_tokens(tmp_path: Path) -> None:
    ledgers = [planted(tmp_path, name, k) for k, name in enumerate("ab")]
    table = run(ledgers, tokens=390)  # 25 rows of 16
    keep = keep_of(ledgers[0])
    keep[400:] = False
    a, b = (stored_post(ledger, "relu", keep) for ledger in ledgers)
    for measure, matrix in expected(a, b, 0).items():
        np.testing.assert_allclose(table[measure], matrix.max(1), rtol=0, atol=1e-10)


def test_the_figure_says_what_it_shows(tmp_path: Path) -> None:
    ledgers = [planted(tmp_path, name, k) for k, name in enumerate("ab")]
    out = tmp_path / "similarity.parquet"
    similarity.main(ledgers, similarity.Settings(), Output(out))
    table, (_, data) = pd.read_parquet(out), draw_figure(tmp_path, "similarity", [out])
    for measure in MEASURES:
        for shown in ("partners", *NULLS):
            assert sum(data[measure][shown]) == len(table)
    mean = data["mean_excess_gaussian"]["cosine"]
    assert mean == pytest.approx(table["cosine_excess_gaussian"].mean())


def test_the_same_model_other_tokens_and_no_partner_are_refused(tmp_path: Path) -> None:
    a, b = planted(tmp_path, "a", 0), planted(tmp_path, "b", 1, tokens=np.arange(TOKENS) % 7)
    with pytest.raises(UserError, match="different tokens"):
        run([a, b])
    with pytest.raises(UserError, match="neurons.allow_self"):
        run([a, a])
    with pytest.raises(UserError, match="found 1, expected the reference and its partners"):
        run([a])


def test_gated_mlps(tmp_path: Path) -> None:
    """A neuron's value is the activated gate times a factor, which the Gaussian null draws as well."""
    rng = np.random.default_rng(0)
    ledgers, posts = [], []
    for k, name in enumerate("ab"):
        up = (rng.standard_normal((TOKENS, WIDTH * LAYERS)) * 0.5 + 1).astype("float16")
        ledgers.append(planted(tmp_path, name, k, up=up))
        posts.append((stored_post(ledgers[-1], "relu") * up.astype(float))[keep_of(ledgers[-1])])
    table = run(ledgers)
    for measure, matrix in expected(*posts, 0).items():
        np.testing.assert_allclose(table[measure], matrix.max(1), rtol=0, atol=1e-10)
    settings = similarity.Settings(precision="float64")
    reader = similarity.BlockReader(similarity.Activations(ledgers[1]), settings, slice(0, WIDTH))
    null = similarity.Gaussian(reader, 0, settings)
    np.testing.assert_allclose(
        null.mean[1], up[keep_of(ledgers[1]), :WIDTH].astype(float).mean(0), atol=1e-12
    )
    drawn = null.draw(20_000).numpy()
    assert drawn.shape == (20_000, WIDTH)
    # Both are independent: the mean of the product is that of the means.
    plain = np.maximum(0, null.mean[0] + null.deviation[0] * rng.standard_normal((20_000, WIDTH))).mean(0)
    np.testing.assert_allclose(drawn.mean(0), plain * null.mean[1], atol=0.05)
