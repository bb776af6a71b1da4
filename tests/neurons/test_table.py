"""The neuron table and the top examples against numpy on the stored values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from steps.neurons import table
from steps.neurons.activations import Activations
from tests.neurons.conftest import Study


def stored(study: Study, model: int) -> np.ndarray:
    source = Activations(study.activations[model])
    layers = [
        np.concatenate([source.pre(layer, source.block_slice(k)) for k in range(source.blocks)])
        for layer in range(source.layers)
    ]
    return np.concatenate(layers, axis=1).astype(float)


def test_moments_and_frequency_of_every_model(planted: Study) -> None:
    whole = pd.read_parquet(planted.folder / "neurons.parquet")
    assert len(whole) == 3 * 96
    for model, name in enumerate("abc"):
        pre = stored(planted, model)
        rows = whole[whole["model"] == name]
        centred = pre - pre.mean(0)
        var = (centred**2).mean(0)
        varies = var > 0
        np.testing.assert_allclose(rows["mean"], pre.mean(0), atol=1e-12)
        np.testing.assert_allclose(rows["var"], var, atol=1e-12)
        np.testing.assert_allclose(
            rows["skew"][varies], (centred**3).mean(0)[varies] / var[varies] ** 1.5, atol=1e-10
        )
        np.testing.assert_allclose(
            rows["kurt"][varies], (centred**4).mean(0)[varies] / var[varies] ** 2, atol=1e-10
        )
        assert rows["skew"][~varies].isna().all()
        assert (~varies).sum() == 1
        np.testing.assert_array_equal(rows["activation_frequency"], (pre > 0).mean(0))


def test_reference_columns_are_null_for_the_other_models(planted: Study) -> None:
    whole = pd.read_parquet(planted.folder / "neurons.parquet")
    excess = pd.read_parquet(planted.folder / "excess.parquet")
    reference = whole[whole["model"] == "a"]
    np.testing.assert_array_equal(reference["excess_corr"], excess["excess_corr"])
    assert reference["universal"].notna().all()
    assert whole.loc[whole["model"] != "a", ["excess_corr", "universal", "layer[b]"]].isna().all().all()


def test_cluster_columns_agree_with_the_members(planted: Study) -> None:
    whole = pd.read_parquet(planted.folder / "neurons.parquet")
    members = pd.read_parquet(planted.folder / "clusters.parquet")
    assert whole["cluster"].notna().sum() == len(members)
    joined = whole.dropna(subset="cluster").merge(members, on=["model", "layer", "neuron"])
    assert (joined["cluster_x"] == joined["cluster_y"]).all()


def test_examples_are_the_largest_kept_post_activations(planted: Study) -> None:
    examples = pd.read_parquet(planted.folder / "examples.parquet")
    source = Activations(planted.activations[1])
    pre = stored(planted, 1)
    kept = np.flatnonzero(source.keep)
    for number in (0, 5, 17, 95):
        rows = examples[
            (examples["model"] == "b")
            & (examples["layer"] == number // 48)
            & (examples["neuron"] == number % 48)
        ]
        order = kept[np.lexsort((kept, -pre[kept, number]))][:20]
        np.testing.assert_array_equal(rows["token"], order)
        np.testing.assert_allclose(rows["value"], pre[order, number], rtol=1e-6)
        np.testing.assert_array_equal(rows["row"] * source.context + rows["position"], rows["token"])


def test_partner_columns_are_moments_of_the_row_of_correlations(planted: Study) -> None:
    whole = pd.read_parquet(planted.folder / "neurons.parquet")
    keep = Activations(planted.activations[0]).keep
    a, c = stored(planted, 0)[keep], stored(planted, 2)[keep]
    a[:, 5], c[:, 5] = np.random.default_rng(0).standard_normal((2, len(a)))  # constant: correlations are 0
    rho = np.corrcoef(a.T, c.T)[:96, 96:]
    rho[5], rho[:, 5] = 0, 0
    reference = whole[whole["model"] == "a"]
    np.testing.assert_allclose(reference["corr_mean[c]"], rho.mean(1), atol=1e-6)
    np.testing.assert_allclose(reference["corr_var[c]"], rho.var(1), atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_power_moments_of_a_known_sample(shift: float) -> None:
    values = np.random.default_rng(1).gamma(2.0, size=1000)
    shifted = values - shift
    powers = np.stack([(shifted**k).sum() for k in range(1, 5)])[:, None]
    found = table.power_moments(powers, 1000, shift)
    centred = values - values.mean()
    assert found["mean"][0] == pytest.approx(values.mean())
    assert found["var"][0] == pytest.approx(values.var(), rel=1e-6)
    assert found["skew"][0] == pytest.approx(
        (centred**3).mean() / values.std() ** 3, rel=1e-2 if shift else 1e-9
    )
