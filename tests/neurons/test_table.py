"""The neuron table and the top examples against numpy on the stored values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Ledger
from steps.neurons import table
from steps.neurons.activations.store import Activations
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


def test_partners_have_their_best_match_in_the_reference(planted: Study) -> None:
    whole = pd.read_parquet(planted.folder / "neurons.parquet")
    keep = Activations(planted.activations[0]).keep
    a, b = stored(planted, 0)[keep], stored(planted, 1)[keep]
    a[:, 5], b[:, 5] = np.random.default_rng(0).standard_normal((2, len(a)))  # constant: correlations are 0
    rho = np.corrcoef(b.T, a.T)[:96, 96:]
    rho[5], rho[:, 5] = 0, 0
    rows = whole[whole["model"] == "b"]
    np.testing.assert_allclose(rows["max_corr[a]"], rho.max(1), atol=1e-6)
    best = rows["layer[a]"].astype(int) * 48 + rows["neuron[a]"].astype(int)
    varies = np.arange(96) != 5
    np.testing.assert_array_equal(best[varies], rho.argmax(1)[varies])
    np.testing.assert_allclose(rows["corr_mean[a]"], rho.mean(1), atol=1e-6)
    spread = rho[varies].std(1)
    third = ((rho - rho.mean(1, keepdims=True)) ** 3).mean(1)[varies]
    np.testing.assert_allclose(rows["corr_skew[a]"][varies], third / spread**3, atol=1e-4)
    others = [column for column in whole if column.endswith("[a]")]
    assert len(others) == 7
    assert whole.loc[whole["model"] == "a", others].isna().all(axis=None)
    assert whole["layer[a]"].dtype == "Int32"


def test_means_and_spreads_of_post_activations(planted: Study) -> None:
    whole = pd.read_parquet(planted.folder / "neurons.parquet")
    for model, name in enumerate("abc"):
        post = stored(planted, model)[Activations(planted.activations[model]).keep]  # linear
        rows = whole[whole["model"] == name]
        np.testing.assert_allclose(rows["post_mean"], post.mean(0), atol=1e-6)
        np.testing.assert_allclose(rows["post_std"], post.std(0), atol=1e-6)


def build(planted: Study, folder: Path, **changes: object) -> None:
    """Run the step with other inputs."""
    inputs: dict[str, object] = {
        "activations": planted.activations,
        "moments": planted.moments,
        "histograms": planted.folder / "histograms" / "ledger.json",
        "correlations": planted.reference,
        "excess": planted.folder / "excess.parquet",
        "clusters": planted.folder / "clusters.parquet",
        "further": [],
    }
    outs = {"neurons": Output(folder / "n"), "examples": Output(folder / "e")}
    table.main(**(inputs | changes), **outs)  # type: ignore[arg-type]


def test_inputs_that_do_not_belong_together_are_refused(planted: Study, tmp_path: Path) -> None:
    a, b, c = planted.moments
    swapped = [a, c, b]
    excess = pd.read_parquet(planted.folder / "excess.parquet")
    excess.iloc[::-1].to_parquet(tmp_path / "other.parquet")
    excess.drop(columns="max_corr[c]").to_parquet(tmp_path / "short.parquet")
    (tmp_path / "broken.parquet").write_bytes((planted.folder / "excess.parquet").read_bytes()[:-9])
    members = pd.read_parquet(planted.folder / "clusters.parquet")
    members.replace({"model": {"c": "z"}}).to_parquet(tmp_path / "z.parquet")
    members.assign(neuron=members["neuron"] + 48).to_parquet(tmp_path / "wide.parquet")
    keys = pd.read_parquet(planted.folder / "neurons.parquet")[["model", "layer", "neuron"]]
    keys.iloc[:-1].to_parquet(tmp_path / "fewer.parquet")
    keys.replace({"model": {"c": "z"}}).to_parquet(tmp_path / "further.parquet")
    histograms = tmp_path / "h" / "ledger.json"
    Ledger(histograms, "histograms", {"activations": ["x"]}).finish({"sources": [], "tokens": []})
    for changes, said in (
        ({"moments": swapped}, r"c.safetensors: not made from .*/b/ledger.json as it is now"),
        ({"moments": [a, b]}, "--moments: 2 files of 3 models, expected as many of each"),
        ({"moments": [a, a, b, b, c, c]}, "a.safetensors: begins at token block 0, expected 25"),
        ({"moments": []}, "a: found no file of its moments"),
        ({"moments": planted.correlations}, "found a file of 'correlations', expected one of 'moments'"),
        ({"activations": []}, "--activations: found no ledger"),
        ({"activations": planted.activations[:2], "moments": [a, b]}, "--activations: none of c"),
        ({"correlations": []}, "--correlations: found no file"),
        ({"correlations": planted.moments}, "found a file of 'moments', expected one of 'correlations'"),
        ({"correlations": planted.correlations}, r"reference models \['a', 'b'\], expected one"),
        ({"excess": tmp_path / "other.parquet"}, "other.parquet: not made from the correlations of a as"),
        ({"excess": tmp_path / "short.parquet"}, r"short.parquet: lacks the column 'max_corr\[c\]'"),
        ({"excess": tmp_path / "broken.parquet"}, "broken.parquet: unreadable as a parquet table"),
        ({"excess": planted.folder / "clusters.parquet"}, "clusters.parquet: lacks the column"),
        ({"clusters": planted.folder / "excess.parquet"}, "excess.parquet: lacks the column 'cluster'"),
        ({"clusters": tmp_path / "z.parquet"}, "z.parquet: holds neurons of 'z'"),
        ({"clusters": tmp_path / "wide.parquet"}, "wide.parquet: holds model a, layer 0, neuron"),
        ({"further": [tmp_path / "fewer.parquet"]}, "fewer.parquet: lacks model c, layer 1, neuron 47"),
        ({"further": [tmp_path / "further.parquet"]}, "further.parquet: holds model z, layer 0, neuron 0"),
        ({"further": [planted.folder / "excess.parquet"]}, "excess.parquet: lacks the column 'model'"),
        ({"histograms": histograms}, "h/ledger.json: not made from .*a/ledger.json as it is now"),
    ):
        with pytest.raises(UserError, match=said):
            build(planted, tmp_path, **changes)
    assert not (tmp_path / "n").exists()


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
        np.testing.assert_array_equal(rows["token_index"], order)
        np.testing.assert_allclose(rows["value"], pre[order, number], rtol=1e-6)
        np.testing.assert_array_equal(rows["row"] * source.n_ctx + rows["position"], rows["token_index"])


def test_the_authors_columns_and_the_frequency_by_source(planted: Study) -> None:
    whole = pd.read_parquet(planted.folder / "neurons.parquet")
    pre = stored(planted, 1)
    rows = whole[whole["model"] == "b"]
    # one bin more than what is above 0, and exact moments to within a bin's width
    np.testing.assert_allclose(rows["hist_sparsity"], (pre > -25 / 255).mean(0))
    assert (rows["hist_sparsity"] >= rows["activation_frequency"]).all()
    np.testing.assert_allclose(rows["hist_mean"], pre.mean(0), atol=0.05)
    code = np.arange(len(pre)) // 16 % 2 == 0
    np.testing.assert_allclose(rows["activation_frequency[code]"], (pre[code] > 0).mean(0))
    np.testing.assert_allclose(rows["activation_frequency[prose]"], (pre[~code] > 0).mean(0))
    assert rows["activation_frequency[names]"].isna().all()


def test_percentiles_are_ranks_within_layer_and_model() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"model": list("aaaaabbbbb") * 4, "layer": [0] * 20 + [1] * 20})
    frame["skew"] = rng.integers(0, 4, 40).astype(float)  # ties
    frame.loc[3, "skew"] = np.nan
    found = table.percentiles(frame, ["skew"])["percentile[skew]"]
    for row, (model, layer, value) in enumerate(
        zip(frame["model"], frame["layer"], frame["skew"], strict=True)
    ):
        group = frame.loc[(frame["model"] == model) & (frame["layer"] == layer), "skew"].dropna()
        if row == 3:
            assert np.isnan(found[row])
            continue
        below, equal = (group < value).sum(), (group == value).sum()
        assert found[row] == pytest.approx(100 * (below + (equal + 1) / 2) / len(group))


def test_further_columns_are_joined_and_have_percentiles(planted: Study, tmp_path: Path) -> None:
    keys = pd.read_parquet(planted.folder / "neurons.parquet")[["model", "layer", "neuron"]]
    weights = keys.assign(l2_penalty=np.arange(len(keys)) % 7.0).sample(frac=1, random_state=1)
    weights.iloc[-1, -1] = np.nan
    weights.to_parquet(tmp_path / "weights.parquet")
    table.main(
        planted.activations,
        planted.moments,
        planted.folder / "histograms" / "ledger.json",
        planted.reference,
        planted.folder / "excess.parquet",
        planted.folder / "clusters.parquet",
        Output(tmp_path / "neurons.parquet"),
        Output(tmp_path / "examples.parquet"),
        [tmp_path / "weights.parquet"],
    )
    whole = pd.read_parquet(tmp_path / "neurons.parquet")
    pd.testing.assert_frame_equal(whole[["model", "layer", "neuron"]], keys)
    missing = weights.index[-1]
    expected = (np.arange(len(keys)) % 7.0).tolist()
    assert np.isnan(whole["l2_penalty"][missing])
    assert np.isnan(whole["percentile[l2_penalty]"][missing])
    assert whole["l2_penalty"].drop(missing).tolist() == np.delete(expected, missing).tolist()
    assert {"percentile[mean]", "percentile[l2_penalty]"} <= set(whole)
    assert "percentile[vocab_kurt]" not in whole


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
    centred, varies = rho - rho.mean(1, keepdims=True), np.arange(96) != 5
    for name, power in (("skew", 3), ("kurt", 4)):
        expected = (centred**power).mean(1)[varies] / rho[varies].std(1) ** power
        np.testing.assert_allclose(reference[f"corr_{name}[c]"][varies], expected, atol=1e-4)
        assert reference[f"corr_{name}[c]"][~varies].isna().all()
