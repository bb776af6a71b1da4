"""Interventions against plain forward passes with a hook, planted entropy neurons, and the selections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_ind

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.settings import validate
from steps.interp.architectures import architecture, compute_in_float64
from steps.interp.forward import Forward
from steps.interp.interventions import (
    Intervention,
    Kind,
    Suppressed,
    activation_by_class,
    activation_edges,
    counted,
    sweep,
)
from steps.interp.loading import load, load_tokenizer
from steps.interp.weights import processed, read
from steps.language_models.text.tokenizers import token_texts
from steps.neurons import dump, intervene
from steps.neurons.activations.store import Activations
from steps.neurons.correlations.moments import Moments
from steps.neurons.explanations.features import read_word_lists, token_features
from steps.neurons.figures import interventions as intervention_figure
from steps.neurons.selection.candidates import (
    control_neurons,
    entropy_candidates,
    matched,
    opposite,
    suppressed_tokens,
    vocabulary_cosines,
)
from steps.neurons.table import model_table
from tests.language_models.tiny_models import tiny_model
from tests.neurons.planted import (
    CONTEXT,
    VOCABULARY,
    draw_figure,
    rows_of,
    write_model,
    write_moments,
    write_rows,
    write_tokenizer,
)


def hooked_tokens(
    model: Any, rows: np.ndarray, each: Intervention | None, excluded: list[int]
) -> dict[str, list[float]]:
    """The measures at each token that counts, of a plain pass whose neuron is changed by a hook.

    The hook is on what the MLP's last module takes.
    """
    parts = architecture(model)
    handles, seen = [], {}

    def change(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        assert each is not None
        values = inputs[0].clone()
        if each.kind == "clamp":
            values[..., each.neuron] = values[..., each.neuron].clamp(max=each.value)
        elif each.kind == "relu":
            factor = seen["up"][..., each.neuron] if "up" in seen else 1
            values[..., each.neuron] = seen["pre"][..., each.neuron].clamp(min=0) * factor
        else:
            values[..., each.neuron] = each.value
        return (values,)

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    if each is not None:
        block = parts.blocks[each.layer]
        handles.append(block.down.register_forward_pre_hook(change))
        handles.append(block.pre.register_forward_hook(keep("pre")))
        if block.up is not None:
            handles.append(block.up.register_forward_hook(keep("up")))
    handles.append(
        parts.final_norm.register_forward_pre_hook(lambda module, inputs: seen.__setitem__("x", inputs[0]))
    )
    with torch.inference_mode():
        logits = model(torch.from_numpy(rows).long(), use_cache=False).logits
    for handle in handles:
        handle.remove()
    x = seen["x"] - seen["x"].mean(-1, keepdim=True) if parts.norm == "layer" else seen["x"]
    eps = getattr(parts.final_norm, "eps", None) or parts.final_norm.variance_epsilon
    scale = (x.square().mean(-1) + eps).sqrt()
    found: dict[str, list[float]] = {name: [] for name in ("scale", "entropy", "loss", "rank", "inverse")}
    for row in range(len(rows)):
        for position in range(rows.shape[1] - 1):
            if rows[row, position] in excluded:
                continue
            own = logits[row, position].numpy()
            p = np.exp(own - own.max())
            p /= p.sum()
            true = rows[row, position + 1]
            found["scale"].append(float(scale[row, position]))
            found["entropy"].append(float(-(p * np.log(p)).sum()))
            found["loss"].append(float(-np.log(p[true])))
            found["rank"].append(int((own > own[true]).sum()))
            found["inverse"].append(1 / (found["rank"][-1] + 1))
    found["reciprocal_rank"] = found.pop("inverse")
    return found


def hooked(model: Any, rows: np.ndarray, each: Intervention | None, excluded: list[int]) -> dict[str, float]:
    """Means of :func:`hooked_tokens`."""
    found = hooked_tokens(model, rows, each, excluded)
    return {name: float(np.mean(values)) for name, values in found.items()}


def frozen(
    forward: Forward, rows: np.ndarray, layer: int, neuron: int, value: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and scale ``[rows, context - 1]`` where the neuron has a value and the rest stays as it was.

    What later layers write and the final norm's scale are those of the clean pass.
    """
    clean = forward.run(rows, {layer})
    x, norm = clean.residual[-1], forward.parts.final_norm
    w = forward.written(layer, [neuron])[0]
    moved = x + (value - clean.post[layer][..., neuron])[..., None] * w
    centred = [v - v.mean(-1, keepdim=True) if forward.facts.norm == "layer" else v for v in (x, moved)]
    scale = (centred[0].square().mean(-1, keepdim=True) + forward.facts.norm_eps).sqrt()
    bias = getattr(norm, "bias", None)
    out = centred[1] / scale * norm.weight + (0 if bias is None else bias)
    log_p = forward.parts.unembedding(out).log_softmax(-1)[:, :-1]
    target = torch.from_numpy(rows[:, 1:]).long()
    return -log_p.gather(-1, target[..., None])[..., 0], scale[:, :-1, 0]


@pytest.mark.parametrize(
    "shape", ["gpt2", "gpt2_untied", "gpt_neox", "gpt_neox_sequential", "llama", "qwen2"]
)
def test_a_sweep_from_the_kept_residual_is_a_plain_pass_with_a_hook(shape: str) -> None:
    model = tiny_model(shape).double()
    compute_in_float64(model)
    rows = rows_of()
    done = [
        Intervention(layer, neuron, kind, value)  # type: ignore[arg-type]
        for layer, neuron in ((0, 3), (1, 7), (2, 11))
        for kind, value in (("fixed", -0.17), ("fixed", 6.0), ("clamp", 0.1), ("relu", 0.0), ("mean", 0.3))
    ]
    excluded = [0, int(rows[2, 4])]
    with torch.inference_mode():
        result = sweep(Forward(model), rows, done, excluded, 2 * CONTEXT)
    expected = hooked(model, rows, None, excluded)
    assert result.nominal == pytest.approx(expected, abs=1e-9)
    for each, means in zip(done, result.means, strict=True):
        expected = hooked(model, rows, each, excluded)
        assert {name: means[name] for name in expected} == pytest.approx(expected, abs=1e-9)
        assert each.kind != "fixed" or abs(expected["loss"] - result.nominal["loss"]) > 1e-6
    assert len(result.tokens) == counted(rows, excluded).sum() < rows.size - len(rows)


@pytest.mark.parametrize("shape", ["gpt2", "gpt_neox", "llama"])
def test_a_direct_effect_freezes_the_scale_and_later_layers(shape: str) -> None:
    model = tiny_model(shape).double()
    compute_in_float64(model)
    rows, forward = rows_of(), Forward(model)
    with torch.inference_mode():
        for layer in range(3):
            each = Intervention(layer, 5, "direct", 0.4)
            means = sweep(forward, rows, [each], [], 4096).means[0]
            loss, scale = frozen(forward, rows, layer, 5, 0.4)
            assert means["loss"] == pytest.approx(float(loss.mean()), abs=1e-9)
            assert means["scale"] == pytest.approx(float(scale.mean()), abs=1e-9)


def weight_columns(forward: Forward) -> pd.DataFrame:
    """What ``neurons.roles`` says of a LayerNorm model's neurons, as far as it is read here."""
    model = processed(read(forward.model))
    unembedding = model.ends.w_u / model.ends.w_u.norm(dim=0)
    tables = []
    for number, layer in enumerate(model.layers):
        norm = layer.w_out.norm(dim=1)
        cosine = (layer.w_out @ unembedding / norm[:, None]).numpy()
        columns = {
            "layer": number,
            "neuron": np.arange(len(norm)),
            "l2_penalty": (layer.w_in.square().sum(0) + norm.square()).numpy(),
            "w_out_norm": norm.numpy(),
            "vocab_var": cosine.var(1),
            "vocab_kurt": 3.0,
            "vocab_skew": -np.arange(1, len(norm) + 1) / 10,
            "role": ["suppression", *[""] * (len(norm) - 1)],
            "entropy_rank": np.nan,
            "entropy": False,
            "null_space_p": 1.0,
            "best_feature": "contains_digit",
            "best_feature_sign": 1 if number else -1,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def plant(seed: int) -> Any:
    """A GPT-2 whose L2.9 writes where no token reads, strongly; L2.10 does so weakly, L2.11 writes elsewhere.

    L2.12 writes against L2.9. Noise: 0.5 % of the norm of L2.9's output lies elsewhere.
    """
    model = tiny_model("gpt2", vocabulary=12, seed=seed).double()
    generator = torch.Generator().manual_seed(1000 + seed)
    with torch.no_grad():
        model.transformer.ln_f.bias.zero_()
        w_u = (model.transformer.ln_f.weight * model.lm_head.weight).T
        w_u = w_u - w_u.mean(-1, keepdim=True)
        basis = torch.linalg.qr(torch.cat([w_u, torch.ones(16, 1, dtype=torch.float64)], 1), "complete").Q
        free = basis[:, 13:]  # 12 tokens and the mean that the norm takes away leave three dimensions
        silent = free @ torch.randn(3, generator=generator, dtype=torch.float64)
        other = torch.randn(16, generator=generator, dtype=torch.float64)
        silent /= silent.norm()
        mlp = model.transformer.h[2].mlp
        written = mlp.c_proj.weight
        written *= 0.3
        written[[9, 11]] = 0
        for neuron in (10, 12):  # fire little
            mlp.c_fc.weight[:, neuron] *= 0.01
            mlp.c_fc.bias[neuron] *= 0.01
        residual = Forward(model).run(rows_of(8, 12, CONTEXT, seed)).residual[-1]
        silent *= (residual @ silent).mean().sign()  # so that the scale grows from 0 on
        noise = torch.randn(16, generator=generator, dtype=torch.float64)
        written[9] = 4 * (silent + 0.005 * noise / noise.norm())
        written[10] = 0.01 * silent
        written[11] = 4 * other / other.norm()
        written[12] = -0.8 * written[9] + 0.3 * noise / noise.norm()
    return model


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_entropy_neuron_is_found_and_acts_through_the_scale(seed: int) -> None:
    model = plant(seed)
    forward = Forward(model)
    rows = rows_of(8, 12, CONTEXT, seed)
    with torch.inference_mode():
        table = weight_columns(forward)
        first, called = entropy_candidates(table, 1)
        assert not called
        assert table.iloc[first[0]][["layer", "neuron"]].tolist() == [2, 9]
        written = torch.cat([forward.reader.layer(layer).w_out for layer in range(3)]).numpy()
        centred = written - written.mean(1, keepdims=True)
        assert opposite(centred, np.arange(24, 72), int(first[0])) == 2 * 24 + 12
        done = [Intervention(2, 9, "fixed", value) for value in (0, 3, 6)]
        done += [Intervention(2, 9, "direct", 6.0), Intervention(2, 11, "direct", 6.0)]
        result = sweep(forward, rows, done, [0], 4096)
    zero, three, six, direct, decoy = result.means
    assert zero["scale"] < three["scale"] < six["scale"]
    assert zero["entropy"] < three["entropy"] < six["entropy"]
    assert direct["scale"] == result.nominal["scale"]
    assert direct["loss_change_abs"] < 0.1 * six["loss_change_abs"]
    assert decoy["loss_change_abs"] > 5 * direct["loss_change_abs"]


@pytest.mark.parametrize("seed", range(4))
def test_the_share_through_the_scale_is_nearly_all_of_an_entropy_neuron_and_little_of_another(
    seed: int,
) -> None:
    kinds: tuple[Kind, ...] = ("mean", "direct")
    done = [Intervention(2, neuron, kind, 6.0) for neuron in (9, 11) for kind in kinds]
    with torch.inference_mode():
        result = sweep(Forward(plant(seed)), rows_of(8, 12, CONTEXT, seed), done, [0], 4096)
    table = intervene.intervention_table("a", [("named", None, each) for each in done], result)
    planted, decoy = intervention_figure.effects(table)
    assert [(one["layer"], one["neuron"]) for one in (planted, decoy)] == [(2, 9), (2, 11)]
    assert planted["through_scale"] > 0.9
    assert decoy["through_scale"] < 0.5
    for one, means in ((planted, result.means[:2]), (decoy, result.means[2:])):
        total, direct = (each["loss_change_abs"] for each in means)
        assert (one["total_loss_change_abs"], one["direct_loss_change_abs"]) == (total, direct)
        assert one["through_scale"] == pytest.approx((total - direct) / total)


@pytest.mark.parametrize("named", [True, False])
def test_the_opposite_neuron_is_of_the_last_two_layers_and_without_what_the_norm_takes_away(
    named: bool,
) -> None:
    model = plant(0)
    with torch.no_grad():
        first, _, last = (block.mlp.c_proj.weight for block in model.transformer.h)
        first[3] = -last[9]  # a decoy, exactly opposite, but too early
        last[12] += 5  # a mean, which no norm lets through
    forward = Forward(model)
    table = weight_columns(forward).assign(activation_frequency=0.5, universal=False)
    settings = intervene.Settings(
        named=[(2, 9)] if named else [], candidates=1, controls=0, universal_set="half"
    )
    with torch.inference_mode():
        found = intervene.choose(table, forward, settings, "a")
    role = "named" if named else "nearest"
    assert found == [(2 * 24 + 9, role, None), (2 * 24 + 12, "opposite", None)]


def test_without_noise_a_frozen_norm_leaves_every_rank() -> None:
    model = plant(3)
    with torch.no_grad():
        w_u = (model.transformer.ln_f.weight * model.lm_head.weight).T
        basis = torch.linalg.qr(
            torch.cat([w_u - w_u.mean(-1, keepdim=True), torch.ones(16, 1, dtype=torch.float64)], 1),
            "complete",
        ).Q
        model.transformer.h[2].mlp.c_proj.weight[9] = 4 * basis[:, 14]
    done = [Intervention(2, 9, "direct", 6.0), Intervention(2, 9, "fixed", 6.0)]
    with torch.inference_mode():
        direct, fixed = sweep(Forward(model), rows_of(8, 12), done, [0], 4096).means
    assert direct["rank_changed"] == fixed["rank_changed"] == 0
    assert direct["loss_change_abs"] == pytest.approx(0, abs=1e-12)
    assert fixed["entropy_raised"] > 0.9
    assert fixed["loss_change_abs"] > 0.01


def test_called_neurons_go_first_and_ranked_ones_are_only_near() -> None:
    table = pd.DataFrame({"layer": [0, 0, 1, 1], "entropy_rank": pd.array([None, 2, None, 1], "Int32")})
    table = table.assign(entropy=[False, True, True, False], null_space_p=[np.nan, 1e-4, 1e-6, 0.5])
    found, called = entropy_candidates(table, 5)
    assert called
    assert found.tolist() == [2, 1]
    found, called = entropy_candidates(table.assign(entropy=False), 5)
    assert not called
    assert found.tolist() == [3, 1]


def test_cosines_with_the_unembedding_against_plain_weights() -> None:
    model = tiny_model("gpt2").double()
    with torch.no_grad():
        model.transformer.h[2].mlp.c_proj.weight[5] = (
            0.25  # the mean that a LayerNorm takes away, nothing else
        )
    with torch.inference_mode():
        found = vocabulary_cosines(Forward(model), [(2, 7), (0, 3), (2, 5), (2, 1)])
        whole = processed(read(model))
    assert set(found) == {(2, 7), (0, 3), (2, 5), (2, 1)}
    for layer, neuron in ((2, 7), (0, 3), (2, 1)):
        w = whole.layers[layer].w_out[neuron]
        expected = torch.cosine_similarity(w[:, None], whole.ends.w_u, dim=0)
        np.testing.assert_allclose(found[layer, neuron], expected.numpy(), atol=1e-12)
    assert np.abs(found[2, 5]).max() < 1.0


def test_controls_are_ordinary_neurons_of_the_last_layers() -> None:
    rng = np.random.default_rng(0)
    layer = np.repeat(np.arange(4), 100)
    table = pd.DataFrame({"layer": layer, "l2_penalty": rng.random(400), "vocab_var": rng.random(400)})
    found = control_neurons(table, 30, 5, np.arange(200, 260))
    assert len(set(found)) == 30
    assert found.min() >= 260
    assert table["l2_penalty"][found].max() <= np.quantile(table["l2_penalty"], 0.9)
    assert table["vocab_var"][found].min() >= np.quantile(table["vocab_var"], 0.1)
    np.testing.assert_array_equal(found, control_neurons(table, 30, 5, np.arange(200, 260)))
    assert len(control_neurons(table, 10**6, 5, np.arange(0))) < 200


@pytest.mark.parametrize("seed", range(20))
def test_matched_neurons_are_the_planted_twins(seed: int) -> None:
    """Twins differ by noise; decoys have the same frequency and norm in another layer, or one of the two."""
    rng = np.random.default_rng(seed)
    layer = np.repeat(np.arange(3), 60)
    frequency, norm = rng.random(180), rng.gamma(4.0, size=180)
    chosen = np.zeros(180, bool)
    twins = []
    for place, n in enumerate(rng.choice(60, 8, replace=False) + 60 * rng.integers(0, 3, 8)):
        if chosen[n] or any(n in pair for pair in twins):
            continue
        twin = next(
            int(m)
            for m in rng.permutation(np.flatnonzero(layer == layer[n]))
            if m != n and not chosen[m] and not any(m in pair for pair in twins)
        )
        frequency[n], norm[n] = 2 + place, 20 + 3 * ((5 * place) % 8)  # unlike all others
        frequency[twin] = frequency[n] + 1e-3 * rng.standard_normal()
        norm[twin] = norm[n] + 1e-3 * rng.standard_normal()
        chosen[n] = True
        twins.append((int(n), twin))
    assert matched(chosen, layer, frequency, norm, 99, seed) == sorted(twins)
    few = matched(chosen, layer, frequency, norm, 3, seed)
    assert len(few) == 3
    assert set(few) <= set(twins)


def test_no_neuron_is_taken_twice_and_a_full_layer_leaves_some_without() -> None:
    chosen = np.array([True, True, True, False, False, True, False])
    layer = np.array([0, 0, 0, 0, 0, 1, 2])
    pairs = matched(chosen, layer, np.ones(7), np.arange(7.0), 9, seed=0)
    assert sorted(other for _, other in pairs) == [3, 4]
    assert all(layer[a] == layer[b] and chosen[a] and not chosen[b] for a, b in pairs)


def test_activation_before_the_class_against_numpy() -> None:
    model = tiny_model("gpt2", vocabulary=12).double()
    forward, rows = Forward(model), rows_of(9, 12)
    with torch.inference_mode():
        tokens = tuple(suppressed_tokens(forward, 1, [4], 3)[0].tolist())
        looked = [Suppressed(1, 4, tokens), Suppressed(2, 6, (5,)), Suppressed(0, 1, ())]
        found, counts = activation_by_class(forward, rows, looked, [0], 3 * CONTEXT)
        other_batches = activation_by_class(forward, rows, looked, [0], 4096)[1]
        post = forward.run(rows, {0, 1, 2}).post
        ends = forward.written(1, [4])[0] @ (model.lm_head.weight * model.transformer.ln_f.weight).T
        ends = ends - forward.written(1, [4])[0].mean() * (
            model.lm_head.weight * model.transformer.ln_f.weight
        ).sum(1)
    assert set(tokens) == set(np.argsort(ends.numpy())[:3])
    valid = counted(rows, [0])
    following = np.roll(rows, -1, 1)[valid]
    for number, each in enumerate(looked):
        own = post[each.layer][..., each.neuron].numpy()[valid]
        inside = np.isin(following, each.tokens)
        for place, mask in enumerate((inside, ~inside)):
            assert found[number, place, 0] == mask.sum()
            if mask.any():
                assert found[number, place, 1] == pytest.approx(own[mask].mean(), abs=1e-12)
                assert found[number, place, 2] == pytest.approx(own[mask].var(), abs=1e-12)
            expected = np.histogram(own[mask], np.concatenate([[-np.inf], activation_edges(), [np.inf]]))[0]
            np.testing.assert_array_equal(counts[number, place], expected)
    np.testing.assert_array_equal(counts, other_batches)
    assert np.isnan(found[2, 0, 1])


def test_what_counts() -> None:
    rows = np.array([[0, 5, 7, 5], [0, 7, 7, 7]])
    np.testing.assert_array_equal(counted(rows, [0, 5]), [[0, 0, 1, 0], [0, 1, 1, 0]])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, its dump, and a neuron table in which a fifth of the neurons are universal."""
    folder = tmp_path_factory.mktemp("intervene")
    write_tokenizer(folder / "tokenizer")
    write_rows(folder / "rows")
    write_model(folder / "a")
    (folder / "dump").mkdir()
    ledgers = [folder / name / "ledger.json" for name in ("a", "tokenizer", "rows")]
    dump.main(*ledgers, "a", dump.Settings(tokens=240), Output(folder / "dump" / "ledger.json"))
    source, rng = Activations(folder / "dump" / "ledger.json"), np.random.default_rng(0)
    moments = Moments(write_moments(folder / "moments", folder / "dump" / "ledger.json"), source)
    number = np.arange(source.neurons)
    universal = number % 5 == 0
    table = pd.DataFrame(
        {
            "model": "a",
            "layer": number // source.d_mlp,
            "neuron": number % source.d_mlp,
            "activation_frequency": rng.random(len(number)),
            "post_mean": model_table("a", source.d_mlp, moments)["post_mean"],
            "universal": pd.array([False] * len(number), "boolean"),
            "privileged_basis": pd.array(universal, "boolean"),
            "excess_corr": rng.random(len(number)),
            "constant": pd.array([False] * len(number), "boolean"),
        }
    )
    other = table.assign(model="b", privileged_basis=pd.array([None] * len(table), "boolean"))
    other["post_mean"] += 9
    pd.concat([table, other]).to_parquet(folder / "neurons.parquet")
    with torch.inference_mode():
        roles = weight_columns(Forward(load(folder / "a" / "ledger.json")))
    pd.concat([roles.assign(model=name) for name in "ab"]).to_parquet(folder / "roles.parquet")
    return folder


NAMES = ("interventions.parquet", "reversals.parquet", "suppression.parquet", "interventions.safetensors")


def step(made: Path, folder: Path, **settings: Any) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [Output(folder / name) for name in NAMES]
    chosen = intervene.Settings.model_validate(
        {"rows": 6, "controls": 3, "ablated": 4, "reversals": 5, "values": [0, 3], **settings}
    )
    inputs = [made / "a" / "ledger.json", made / "dump" / "ledger.json", made / "neurons.parquet"]
    inputs += [made / "roles.parquet", made / "tokenizer" / "ledger.json"]
    intervene.main(*inputs, chosen, *files)
    return dict(zip(NAMES, files, strict=True)) | {"roles.parquet": made / "roles.parquet"}


def test_the_step_writes_the_same_bytes_twice_and_tables_that_agree(made: Path, tmp_path: Path) -> None:
    first, second = (step(made, tmp_path / name) for name in "ab")
    for name in first:
        assert first[name].read_bytes() == second[name].read_bytes()
    table = pd.read_parquet(first["interventions.parquet"])
    assert table["kind"][0] == "nominal"
    assert (table["tokens"] == 6 * (CONTEXT - 2)).all()
    counts = table.groupby("role", sort=False)["kind"].value_counts().unstack(fill_value=0)
    assert counts.loc["nearest"].drop("nominal").to_dict() == {
        "clamp": 2, "direct": 2, "fixed": 4, "mean": 2, "relu": 2
    }  # fmt: skip
    assert counts.loc["control"].drop("nominal").to_dict() == {
        "clamp": 0, "direct": 3, "fixed": 6, "mean": 3, "relu": 0
    }  # fmt: skip
    pairs = table.dropna(subset="pair").pivot(index="pair", columns="role", values=["layer", "value"])
    assert len(pairs) == 4
    assert (pairs["layer", "universal"] == pairs["layer", "matched"]).all()
    assert (pairs["value"] == 0).all().all()
    changed = table["loss"] - table["loss"][0]
    np.testing.assert_allclose(table["loss_change"], changed, atol=1e-12)
    assert (table["loss_change"].abs() <= table["loss_change_abs"] + 1e-12).all()
    reversals = pd.read_parquet(first["reversals.parquet"])
    assert len(reversals) > 0
    for (layer, neuron), own in reversals.groupby(["layer", "neuron"]):
        whole = table[(table["layer"] == layer) & (table["neuron"] == neuron) & (table["value"] == 3)]
        mean = whole[whole["kind"] == "fixed"]["entropy_change"].iloc[0]
        assert (own["entropy_change"] * mean < 0).all()
        assert own["entropy_change"].abs().is_monotonic_decreasing
    assert (reversals["position"] < CONTEXT - 1).all()
    suppression = pd.read_parquet(first["suppression.parquet"])
    assert suppression[["layer", "neuron"]].to_numpy().tolist() == [[0, 0], [0, 0], [1, 0]]
    assert suppression["class"].tolist() == ["feature", "lowered", "lowered"]  # L1.0 promotes its feature
    assert suppression["by_the_rule"].all()
    tokenizer = load_tokenizer(made / "tokenizer" / "ledger.json")
    features = token_features(token_texts(tokenizer, VOCABULARY), read_word_lists())
    tokens = np.flatnonzero(features.matrix[:, features.names.index("contains_digit")])
    assert suppression["token_ids"][0].tolist() == tokens.tolist()
    assert [len(ids) for ids in suppression["token_ids"][1:]] == [20, 20]
    svg, data = draw_figure(tmp_path, "suppression", first.values())
    drawn = data["neurons"]
    assert [(one["layer"], one["class"]) for one in drawn] == [(0, "feature"), (0, "lowered"), (1, "lowered")]
    for one, (_, row) in zip(drawn, suppression.iterrows(), strict=True):
        assert (sum(one["inside"]), sum(one["outside"])) == (row["inside"], row["outside"])
        assert len(one["edges"]) == len(one["inside"]) + 1
    assert svg.count(">activation<") == 2
    assert (suppression["inside"] + suppression["outside"] == table["tokens"][0]).all()
    _, shown = draw_figure(tmp_path, "interventions", first.values())
    assert shown["universal_set"].endswith("calibrated against rotations")
    assert len(shown["effects"]) == len(table[table["kind"] == "mean"])
    assert len(shown["cosines"]["neurons"]) == 2 + 1 + 3  # nearest, opposite, controls
    assert {sum(one["counts"]) for one in shown["cosines"]["neurons"]} == {VOCABULARY}


NAMED = ((0, 3), (1, 5), (0, 9))
"""Neurons of the model in ``made`` that :func:`exact` changes."""


@pytest.fixture(scope="module")
def exact(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Any, np.ndarray]:
    """What the step writes in float64 of ``NAMED`` neurons, the model, and the tokens."""
    folder = tmp_path_factory.mktemp("exact")
    files = step(made, folder, named=NAMED, dtype="float64", controls=1, class_tokens=3)
    model = load(made / "a" / "ledger.json", dtype="float64")
    return files, model, Activations(made / "dump" / "ledger.json").tokens.reshape(-1, CONTEXT)


def test_mean_ablation_puts_the_mean_over_kept_tokens_in_at_every_position(
    made: Path, exact: tuple[dict[str, Path], Any, np.ndarray]
) -> None:
    files, model, tokens = exact
    table = pd.read_parquet(files["interventions.parquet"])
    known = pd.read_parquet(made / "neurons.parquet").set_index(["model", "layer", "neuron"])["post_mean"]
    rows, forward = tokens[:6], Forward(model)
    kept = ~np.isin(tokens, [0, 1])  # neither BOS nor a new line
    assert (tokens == 1).any()
    with torch.inference_mode():
        post = forward.run(tokens, {0, 1}).post
        clean = np.array(hooked_tokens(model, rows, None, [0])["loss"])
        own = table[table["kind"].isin(["mean", "direct"])]
        assert len(own) == 2 * own[["layer", "neuron"]].drop_duplicates().shape[0] > 2 * len(NAMED)
        for row in own.to_dict("records"):
            layer, neuron, value = row["layer"], row["neuron"], row["value"]
            assert value == known["a", layer, neuron]
            values = post[layer][..., neuron].numpy()
            assert value == pytest.approx(values[kept].mean(), abs=2e-3)  # pre-activations lie in float16
            assert abs(value - values.mean()) > 4e-3 or (layer, neuron) not in NAMED
            if row["kind"] == "mean":
                put = hooked_tokens(model, rows, Intervention(layer, neuron, "mean", value), [0])
                loss = np.array(put["loss"])
                assert row["entropy"] == pytest.approx(np.mean(put["entropy"]), abs=1e-9)
                assert row["scale"] == pytest.approx(np.mean(put["scale"]), abs=1e-9)
            else:
                loss = frozen(forward, rows, layer, neuron, value)[0][:, 1:].numpy().reshape(-1)
            assert row["loss"] == pytest.approx(loss.mean(), abs=1e-9)
            assert row["loss_change"] == pytest.approx((loss - clean).mean(), abs=1e-9)
            assert row["loss_change_abs"] == pytest.approx(np.abs(loss - clean).mean(), abs=1e-9)
            zero = hooked(model, rows, Intervention(layer, neuron, "fixed", 0.0), [0])["loss"]
            assert abs(row["loss"] - zero) > 1e-6  # another thing than zero ablation


def test_reversals_are_the_tokens_that_a_search_over_all_finds(
    exact: tuple[dict[str, Path], Any, np.ndarray],
) -> None:
    files, model, tokens = exact
    reversals = pd.read_parquet(files["reversals.parquet"])
    table = pd.read_parquet(files["interventions.parquet"])
    looked = table[table["role"].isin(["named", "opposite"]) & (table["value"] == 3)]
    assert len(looked) == 4
    rows, expected = tokens[:6], []
    before = hooked_tokens(model, rows, None, [0])["entropy"]
    for row in looked.to_dict("records"):
        key = row["layer"], row["neuron"]
        after = hooked_tokens(model, rows, Intervention(*key, "fixed", 3.0), [0])["entropy"]
        change = [late - early for late, early in zip(after, before, strict=True)]
        rising = sum(change) > 0
        against = [place for place, moved in enumerate(change) if (moved < 0) == rising]
        for place in sorted(against, key=lambda place: -abs(change[place]))[:5]:
            at, position = divmod(place, CONTEXT - 2)  # neither BOS nor the last token of a row counts
            position += 1
            expected.append(
                {
                    "model": "a",
                    "layer": key[0],
                    "neuron": key[1],
                    "role": row["role"],
                    "token_index": at * CONTEXT + position,
                    "row": at,
                    "position": position,
                    "token_id": rows[at, position],
                    "next_token_id": rows[at, position + 1],
                    "entropy": before[place],
                    "entropy_change": change[place],
                }
            )
    assert len(expected) > 10
    pd.testing.assert_frame_equal(reversals, pd.DataFrame(expected), check_dtype=False, rtol=0, atol=1e-9)


def test_welch_is_that_of_scipy(exact: tuple[dict[str, Path], Any, np.ndarray]) -> None:
    files, model, tokens = exact
    rows = tokens[:6]
    with torch.inference_mode():
        post = Forward(model).run(rows, {0, 1}).post
    valid, following = counted(rows, [0]), np.roll(rows, -1, 1)
    suppression = pd.read_parquet(files["suppression.parquet"])
    for row in suppression.to_dict("records"):
        values = post[row["layer"]][..., row["neuron"]].numpy()
        member = np.isin(following, row["token_ids"])
        inside, outside = values[valid & member], values[valid & ~member]
        assert (row["inside"], row["outside"]) == (len(inside), len(outside))
        assert row["mean_inside"] == pytest.approx(inside.mean(), abs=1e-12)
        assert row["mean_outside"] == pytest.approx(outside.mean(), abs=1e-12)
        assert row["difference"] == pytest.approx(inside.mean() - outside.mean(), abs=1e-12)
        expected = ttest_ind(inside, outside, equal_var=False).statistic
        assert row["welch_t"] == pytest.approx(expected, rel=1e-9)
    # Few and uneven, so that neither n for n - 1 nor one variance for both would go unnoticed.
    assert suppression["inside"].between(2, 12).any()
    assert (suppression["welch_t"].abs() > 0.1).any()


def test_without_a_suppression_neuron_the_nearest_is_shown_and_called_so(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a", "dump", "neurons.parquet", "tokenizer"):
        (other / name).symlink_to(made / name)
    roles = pd.read_parquet(made / "roles.parquet").assign(role="")
    roles["vocab_kurt"] = 3 + roles["neuron"] % 7 / 10
    roles.to_parquet(other / "roles.parquet")
    files = step(other, tmp_path)
    suppression = pd.read_parquet(files["suppression.parquet"])
    assert suppression[["layer", "neuron"]].to_numpy().tolist() == [[0, 6], [0, 6]]
    assert not suppression["by_the_rule"].any()
    assert "nearest to suppression: L0.6" in draw_figure(tmp_path, "suppression", files.values())[0]
    roles.assign(vocab_skew=1.0).to_parquet(other / "roles.parquet")
    files = step(other, tmp_path)
    svg, _ = draw_figure(tmp_path, "suppression", files.values())
    assert "no neuron comes near to suppression" in svg


def test_an_empty_universal_set_is_told(made: Path, tmp_path: Path) -> None:
    files = step(made, tmp_path, universal_set="half", controls=0)
    svg, _ = draw_figure(tmp_path, "interventions", files.values())
    assert "nothing to ablate: no neurons taken" in svg
    assert not pd.read_parquet(files["interventions.parquet"])["role"].isin(["universal", "matched"]).any()


def test_named_neurons_and_excluded_tokens(made: Path, tmp_path: Path) -> None:
    files = step(made, tmp_path, named=[(0, 3)], exclude_tokens=[1], controls=0, ablated=0)
    table = pd.read_parquet(files["interventions.parquet"])
    assert set(table["role"]) == {"nominal", "named", "opposite"}
    rows = Activations(made / "dump" / "ledger.json").tokens.reshape(-1, CONTEXT)[:6]
    assert table["tokens"][0] == counted(rows, [0, 1]).sum()


def test_mistakes_are_explained(made: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match="intervene.named: found .5, 3., expected .layer, neuron. of a model with 2 layers of 64",
    ):
        step(made, tmp_path, named=[(5, 3)])
    with pytest.raises(UserError, match="no token is left after exclusion"):
        step(made, tmp_path, exclude_tokens=list(range(VOCABULARY)))
    for name in ("a", "dump", "neurons.parquet", "roles.parquet"):
        (tmp_path / name).symlink_to(made / name)
    write_tokenizer(tmp_path / "tokenizer", "other")
    with pytest.raises(UserError, match=r"tokenizer/ledger.json: not the tokenizer that .*a/ledger.json was"):
        step(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"named": [[0, 0], [1, 2], [0, 0]]},
            r"named: found .*, expected: each neuron once .\[0, 0. is there",
        ),
        ({"values": [0, 1e308]}, "values.1: found 1e.308, expected: .*less than or equal to 65504"),
        ({"values": [-1e6]}, "values.0: found -1000000.0, expected: .*greater than or equal to -65504"),
        ({"clamps": [1e39]}, "clamps.0: found 1e.39, expected: .*less than or equal to 65504"),
    ],
)
def test_settings_that_no_model_can_take_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"^--settings: {says}"):
        validate(intervene.Settings, settings, "--settings")


def test_the_largest_values_are_taken(made: Path, tmp_path: Path) -> None:
    files = step(made, tmp_path, values=[65504, -65504], clamps=[-65504], controls=1, ablated=0)
    table = pd.read_parquet(files["interventions.parquet"])
    assert set(table["value"].dropna()) >= {65504, -65504}


def test_a_damaged_table_is_told(made: Path, tmp_path: Path) -> None:
    for damaged, column in (("neurons.parquet", "post_mean"), ("roles.parquet", "null_space_p")):
        other = tmp_path / damaged.split(".")[0]
        other.mkdir()
        for name in ("a", "dump", "tokenizer", "neurons.parquet", "roles.parquet"):
            if name != damaged:
                (other / name).symlink_to(made / name)
        (other / damaged).write_bytes((made / damaged).read_bytes()[:-40])
        with pytest.raises(UserError, match=f"{damaged}: unreadable as a parquet table"):
            step(other, tmp_path)
        pd.read_parquet(made / damaged).drop(columns=column).to_parquet(other / damaged)
        with pytest.raises(UserError, match=f"{damaged}: lacks the column '{column}'"):
            step(other, tmp_path)
