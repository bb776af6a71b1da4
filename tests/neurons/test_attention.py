"""Heads, scores and path ablation against the model itself, and planted neurons that steer a head."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.tensors import read_tensors
from steps.interp.architectures import compute_in_float64
from steps.interp.forward import Forward
from steps.interp.heads import HeadNorms, Heads, Scores, all_scores, random_directions
from steps.interp.loading import load
from steps.interp.path_ablation import Pair, destinations, path_ablation, strongest_pairs
from steps.neurons import attention, dump
from steps.neurons.activations.store import Activations
from steps.neurons.attention import Settings, head_table, neuron_table, pair_table
from tests.language_models.tiny_models import SHAPES, tiny_model
from tests.neurons.planted import CONTEXT, draw_figure, rows_of, write_model, write_rows, write_tokenizer

WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
"""Of Qwen2: every layer but the first sees five tokens."""


def eager(shape: str, **config: Any) -> Any:
    """A model in float64 that shows its attention."""
    model = tiny_model(shape, **config).double()
    compute_in_float64(model)
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize(("shape", "config"), [*((shape, {}) for shape in SHAPES), ("qwen2", WINDOW)])
def test_attention_is_that_of_the_model(shape: str, config: dict[str, Any]) -> None:
    model = eager(shape, **config)
    rows = rows_of()
    expected = model(torch.from_numpy(rows).long(), output_attentions=True, use_cache=False).attentions
    forward = Forward(model)
    with torch.inference_mode():
        clean = forward.run(rows)
        for layer, seen in enumerate(expected):
            heads = Heads(forward, layer)
            query, key, _ = heads.of(clean)
            scores = torch.einsum("rdhi,rshi->rhds", query, key) * heads.scaling
            found = heads.attend(scores, torch.arange(CONTEXT))
            np.testing.assert_allclose(found, seen.detach(), atol=1e-9 if shape.startswith("gpt2") else 3e-6)
            assert bool((found[..., -1, 0] == 0).all()) == bool(config and layer)  # out of the window


@pytest.mark.parametrize("shape", SHAPES)
def test_heads_and_a_constant_are_what_attention_writes(shape: str) -> None:
    model = eager(shape)
    written: list[torch.Tensor] = []
    forward = Forward(model)
    block = forward.parts.blocks[1]
    block.attention.register_forward_hook(lambda module, inputs, output: written.append(output[0]))
    with torch.inference_mode():
        clean = forward.run(rows_of())
        heads = Heads(forward, 1)
        query, key, value = heads.of(clean)
        weights = heads.attend(
            torch.einsum("rdhi,rshi->rhds", query, key) * heads.scaling, torch.arange(CONTEXT)
        )
        mixed = torch.einsum("rhds,rshi->rdhi", weights, value)
        if forward.facts.norm == "layer":
            written[0] -= written[0].mean(-1, keepdim=True)
        # What single heads write adds up to the whole but for a constant, so differences between tokens do.
        single = mixed.clone()
        single[:, :, 1:] = 0
        whole = block.heads_out(single.flatten(2)) - block.heads_out(single.flatten(2) * 0)
        if forward.facts.norm == "layer":
            whole -= whole.mean(-1, keepdim=True)
        norms = (mixed[:, :, 0] @ heads.output[0]).norm(dim=-1)
        everything = block.heads_out(mixed.flatten(2))
        if forward.facts.norm == "layer":
            everything -= everything.mean(-1, keepdim=True)
    np.testing.assert_allclose(norms, whole.norm(dim=-1), atol=1e-9)
    apart = (written[0] - everything).flatten(0, 1)
    np.testing.assert_allclose(apart - apart[:1], 0, atol=1e-4)


@pytest.mark.parametrize("scaled", [False, True])
def test_scores_are_those_written_out(scaled: bool) -> None:
    model = tiny_model("gpt2", scale_attn_by_inverse_layer_idx=scaled).double()
    forward = Forward(model)
    body, rng = model.transformer, np.random.default_rng(0)
    with torch.inference_mode():
        heads = [Heads(forward, layer) for layer in range(3)]
        scores = all_scores(forward, heads, 0)
        found = [scores.of(layer) for layer in range(3)]
        x = body.wte.weight[:1] + body.wpe.weight[:1]
        for layer, block in enumerate(body.h):
            gain, bias = block.ln_1.weight, block.ln_1.bias
            whole, offset = block.attn.c_attn.weight, block.attn.c_attn.bias
            folded = gain[:, None] * whole
            folded = folded - folded.mean(0)
            normed = (x - x.mean()) / (x.var(unbiased=False) + block.ln_1.eps).sqrt()
            keys = normed @ folded + bias @ whole + offset
            assert found[layer].shape == (24 * layer, 4)
            assert heads[layer].layer_factor == (1 / (layer + 1) if scaled else 1)
            for number in rng.integers(0, max(1, 24 * layer), 6 if layer else 0):
                written = body.h[number // 24].mlp.c_proj.weight[number % 24]
                written = written - written.mean()
                written = written / written.norm()
                for head in range(4):
                    at = slice(4 * head, 4 * head + 4)
                    key = keys[0, 16:32][at]
                    score = float(written @ folded[:, :16][:, at] @ key) / 2
                    assert found[layer][number, head] == pytest.approx(score, rel=1e-5, abs=1e-6)
            x = block(x[None])[0]


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        *((shape, {}) for shape in ("gpt2", "gpt2_scaled", "gpt_neox", "llama", "llama_tied", "qwen2")),
        ("qwen2", WINDOW),
    ],
)
def test_path_ablation_changes_one_query_of_the_model(shape: str, config: dict[str, Any]) -> None:
    """Against hooks on the model that replace the query of one head at one token."""
    model = eager(shape, **config)
    forward = Forward(model)
    head = forward.facts.heads - 1
    rows, pair = rows_of(3), Pair(0, 5, 2, head)
    where = np.array([4, CONTEXT + 7, 2 * CONTEXT + 11])
    with torch.inference_mode():
        layers = [Heads(forward, layer) for layer in range(3)]
        other = Pair(1, 2, 2, head)  # batched with another neuron of the same head
        points = path_ablation(forward, layers, [pair, other], rows, where, 2 * CONTEXT)[pair]
        clean = forward.run(rows, {0})
        block, parts = forward.parts.blocks[2], forward.parts
        size = parts.d_head
        inside: list[torch.Tensor] = []
        block.heads_out.register_forward_pre_hook(lambda module, inputs: inside.append(inputs[0]))

        def look() -> tuple[torch.Tensor, torch.Tensor]:
            inside.clear()
            seen = model(torch.from_numpy(rows).long(), output_attentions=True, use_cache=False)
            raw = forward.reader.layer(2)
            constant = raw.attention_bias @ raw.w_v[head] + raw.b_v[head]
            own = inside[0][..., head * size : (head + 1) * size] - constant
            return seen.attentions[2][:, head, :, 0], (own @ layers[2].output[head]).norm(dim=-1)

        bos, norm = look()
        attended = block.attention
        reader: Any = {"gpt2": "c_attn", "gpt_neox": "query_key_value"}.get(parts.family, "q_proj")
        for number, token in enumerate(where):
            row, position = divmod(int(token), CONTEXT)
            activation = clean.post[0][row, position, 5]
            less = clean.residual[2][row, position] - activation * forward.written(0, [5])[0]
            first = (3 * head if parts.family == "gpt_neox" else head) * size
            place = slice(first, first + size)
            new = getattr(attended, reader)(block.attention_norm(less[None]))[0, place]

            def replace(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
                output = output.clone()
                output[row, position, place] = new  # noqa: B023
                return output

            handle = getattr(attended, reader).register_forward_hook(replace)
            changed_bos, changed_norm = look()
            handle.remove()
            at = (row, position)
            assert points[0, number] == pytest.approx(float(activation), abs=1e-9)
            assert points[1, number] == pytest.approx(float(bos[at] - changed_bos[at]), abs=3e-6)
            relative = float((norm[at] - changed_norm[at]) / norm[at])
            assert points[2, number] == pytest.approx(relative, abs=1e-4)
        assert (np.abs(points[1]) > 1e-5).any()


def plant(seed: int, sign: int = 1) -> tuple[Any, np.ndarray]:
    """A GPT-2 with a neuron L0.7 that steers L1H2 to BOS, or (``sign`` -1) away; L1H0 is L1H2 transposed.

    Its output is noisy, heads write little at BOS, and BOS gets about half of the attention.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    shape = {"vocab_size": 48, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}
    model = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.2)).double().eval()
    rows = rows_of(40, 48, 24, seed)
    block = model.transformer.h[1]
    with torch.no_grad():
        forward, first = Forward(model), model.transformer.h[0]
        direction, noise = torch.randn((2, 32), dtype=torch.float64)
        direction = (direction - direction.mean()) / (direction - direction.mean()).norm()
        body = model.transformer  # whose other parts write little into the neuron's direction
        for matrix in (body.wte.weight, body.wpe.weight, first.attn.c_proj.weight, first.mlp.c_proj.weight):
            matrix -= 0.9 * torch.outer(matrix @ direction, direction)
        first.mlp.c_proj.weight[7] = sign * (direction + 0.3 * noise / noise.norm())
        read: list[torch.Tensor] = []
        first.mlp.c_fc.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0][0, 0]))
        forward.run(np.array([[0]]))
        reads = first.mlp.c_fc.weight
        reads[:, 7] -= read[0] * (8 + read[0] @ reads[:, 7]) / (read[0] @ read[0])  # silent at BOS
        weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
        seen = block.ln_1(forward.run(np.array([[0]])).residual[1])[0, 0]
        values = weight[:, 64:]
        values -= seen[:, None] * (seen @ values) / (seen @ seen)  # nothing is moved from BOS
        key = 4 * torch.nn.functional.normalize(torch.randn(8, dtype=torch.float64), dim=0)
        weight[:, 48:56] = 0.3 * weight[:, 48:56] + torch.outer(seen, key) / (seen @ seen)
        weight[:, 16:24] = 0.3 * weight[:, 16:24] + torch.outer(direction, key) / 4
        if sign < 0:
            bias[16:24] = 8 * key / (key @ key)  # rests on BOS
        weight[:, 0:8] = weight[:, 48:56]  # the query of head 0 is the key of head 2, and the other way
        weight[:, 32:40] = weight[:, 16:24]
    return model, rows


def called(table: pd.DataFrame) -> set[tuple[int, int]]:
    found = table[table["attention_neuron"].fillna(False).astype(bool)]
    return set(zip(found["layer"], found["neuron"], strict=True))


@pytest.mark.parametrize(("shape", "centred"), [("gpt2", True), ("llama", False)])
def test_random_directions_are_those_that_output_weights_can_have(shape: str, centred: bool) -> None:
    forward = Forward(tiny_model(shape))
    drawn = random_directions(forward, 50, 0)
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(50, dtype=drawn.dtype))
    assert (drawn.mean(1).abs().max() < 1e-6) == centred


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_neuron_that_steers_a_head_is_found_and_its_decoy_is_not(seed: int) -> None:
    sign = 1 if seed % 2 else -1
    model, rows = plant(seed, sign)
    forward = Forward(model)
    with torch.inference_mode():
        heads = [Heads(forward, layer) for layer in range(2)]
        scores = all_scores(forward, heads, 0)
        first = strongest_pairs(map(scores.of, range(2)), forward.facts.d_mlp, 1)[0]
        assert (first.layer, first.neuron, first.head_layer, first.head) == (0, 7, 1, 2)
        assert np.sign(first.score) == sign
        beside = scores.beside(1, random_directions(forward, 500, seed))
        assert abs(first.score) > np.abs(beside[:, 2]).max()
        assert abs(scores.of(1)[7, 0]) < 0.5 * abs(first.score)  # the transposed head
        where = destinations(len(rows), 24, (0.5, 1.0), 400, seed)
        values = path_ablation(forward, heads, [first], rows, where, 480)[first]
    a, b, c = (np.corrcoef(values[i], values[j])[0, 1] for i, j in ((0, 1), (1, 2), (0, 2)))
    assert sign * a > 0.8
    assert b < -0.6
    assert sign * c < -0.5


def test_planted_neurons_of_models_are_called_and_others_at_most_at_the_rate() -> None:
    others = 0
    for seed in range(20):
        model, _ = plant(seed, 1 if seed % 2 else -1)
        forward = Forward(model)
        with torch.inference_mode():
            scores = all_scores(forward, [Heads(forward, layer) for layer in range(2)], 0)
            table = neuron_table("a", forward.facts, scores, [1.0, 0.5], 0.05)
        row = table.iloc[7]
        assert (row["head_layer"], row["head"], row["layer_factor"]) == (1, 2, 0.5)
        assert row["score"] == scores.of(1)[7, 2]
        assert row["attention_neuron"]
        others += len(called(table) - {(0, 7)})
        assert table["p"].isna().tolist() == [False] * 128 + [True] * 128  # the last layer steers no head
    assert others <= 0.05 * (20 + others)


def random_units(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random directions of a residual stream of 32 numbers as LayerNorm sees them."""
    drawn = rng.standard_normal((count, 32))
    drawn -= drawn.mean(1, keepdims=True)
    found: np.ndarray = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return found


def test_planted_attention_neurons_are_found_and_random_directions_at_most_at_the_rate() -> None:
    """Among heads whose queries differ a lot in size: large scores alone would name the largest head's."""
    facts = Forward(tiny_model("gpt2")).facts
    facts = dataclasses.replace(facts, layers=4, d_mlp=200, d_model=32, heads=6)
    false, found, nulls, large = 0, 0, [], 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        queries = [random_units(rng, 6) for _ in range(4)]
        sizes = [np.exp(1.5 * rng.standard_normal(6)) for _ in range(4)]
        written = [random_units(rng, 200) for _ in range(3)]
        planted = {}
        for number in range(180):
            layer, neuron = number % 3, number // 3
            head_layer, head = int(rng.integers(layer + 1, 4)), int(rng.integers(6))
            direction = (-1) ** number * queries[head_layer][head] + 0.5 * random_units(rng, 1)[0]
            written[layer][neuron] = direction / np.linalg.norm(direction)
            planted[layer, neuron] = (head_layer, head)
        scores = Scores(
            6,
            [torch.from_numpy(part) for part in written],
            [torch.from_numpy((part * size[:, None]).T) for part, size in zip(queries, sizes, strict=True)],
        )
        table = neuron_table("a", facts, scores, [1.0] * 4, 0.05)
        names = called(table)
        false += len(names - set(planted))
        assert set(planted) <= names
        found += len(planted)
        for (layer, neuron), head in planted.items():
            row = table.iloc[200 * layer + neuron]
            assert (row["head_layer"], row["head"]) == head
        rest = table[: 3 * 200].drop(index=[200 * layer + neuron for layer, neuron in planted])
        nulls.append(rest["p"].to_numpy())
        weakest = min(abs(table["score"][200 * layer + neuron]) for layer, neuron in planted)
        large += int((rest["score"].abs() > weakest).sum())
    everything = np.concatenate(nulls)
    assert false <= 0.05 * (false + found)
    assert 0.042 < (everything <= 0.05).mean() < 0.055  # Bonferroni is nearly exact here
    assert large > 20 * 200  # decoys: neurons with larger scores than the weakest planted one


def test_norms_at_bos_and_elsewhere() -> None:
    model, rows = plant(1)
    forward = Forward(model)
    with torch.inference_mode():
        heads = Heads(forward, 1)
        sums = HeadNorms(heads)
        for part in (rows[:15], rows[15:]):
            sums.add(*heads.of(forward.run(part)), 12, 24)
        clean = forward.run(rows)
        block = model.transformer.h[1]
        normed = block.ln_1(clean.residual[1]) - block.ln_1.bias
        for head in range(4):
            at = slice(64 + 8 * head, 72 + 8 * head)
            written = (
                normed @ block.attn.c_attn.weight[:, at] @ block.attn.c_proj.weight[8 * head : 8 * head + 8]
            )
            norm = (written - written.mean(-1, keepdim=True)).norm(dim=-1)
            assert sums.bos[head] == pytest.approx(0, abs=1e-6)
            assert sums.other[head] / sums.others == pytest.approx(float(norm[:, 1:].mean()))


def test_what_does_not_vary_has_no_correlation_whatever_its_mean_is_rounded_to() -> None:
    values = np.full(7, 0.1)
    assert values.mean() != 0.1
    assert np.isnan(attention.correlation(values, np.arange(7.0)))
    assert np.isnan(attention.correlation(np.arange(7.0), values))
    assert attention.correlation(np.arange(7.0), 3 - np.arange(7.0)) == pytest.approx(-1)


def test_pairs_have_the_correlations_that_were_planted() -> None:
    """Three columns with another correlation for each pair of them, and other means."""
    forward = Forward(tiny_model("gpt2", scale_attn_by_inverse_layer_idx=True))
    heads = [Heads(forward, layer) for layer in range(3)]
    first, second, third = np.array([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
    bos, norm = 0.6 * first + 0.8 * second, -0.28 * first + 0.96 * third
    strong, named = Pair(0, 7, 2, 3, -1.5), Pair(1, 5, 2, 0, source="named")
    points = {
        strong: np.stack([5 * first + 9, 0.1 * bos + 0.3, 2 * norm - 4]),
        named: np.stack([np.full(4, 2.0), bos, -bos]),  # a neuron that never varies
    }
    table = pair_table("a", points, heads)
    expected: dict[str, Any] = {
        "model": ["a", "a"],
        "layer": [0, 1],
        "neuron": [7, 5],
        "head_layer": [2, 2],
        "head": [3, 0],
        "source": ["strongest", "named"],
        "score": [-1.5, np.nan],
        "layer_factor": [1 / 3, 1 / 3],
        "destinations": [4, 4],
        "activation_bos": [0.6, np.nan],
        "bos_norm": [-0.28 * 0.6, -1],
        "activation_norm": [-0.28, np.nan],
        "bos_change": [0.3, 0],
        "norm_change": [-4, 0],
    }
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected), check_dtype=False, atol=1e-12)


def test_heads_have_the_ratios_and_the_extremes_that_were_planted() -> None:
    """Sums and scores written by hand; random directions reach further than neurons, or less far."""
    forward = Forward(tiny_model("gpt2", scale_attn_by_inverse_layer_idx=True))
    norms = [HeadNorms(Heads(forward, layer)) for layer in range(3)]
    for sums, bos in zip(norms, ([4.0, 1.0], [0.5, 0.0], [6.0, 8.0]), strict=True):
        sums.bos, sums.other, sums.others = np.array(bos), np.array([60.0, 20.0]), 10
        sums.attention, sums.seen = np.array([2.0, 6.0]), 8
    queries = torch.tensor([[2.0, 0], [0, 10], [0, 0]])  # head 0 sees the first direction, 1 the second
    written = torch.tensor([[[0.6, 0.8, 0], [-0.8, 0, 0.6]], [[0, -0.6, 0.8], [0.96, 0, 0.28]]])
    drawn = torch.tensor([[1.0, 0, 0], [-0.6, 0, 0.8], [0, 0.28, 0.96], [0, -0.1, 0]])
    table = head_table("a", norms, Scores(2, list(written), [queries] * 3), drawn, 2)
    none = [np.nan, np.nan]
    expected: dict[str, Any] = {
        "model": "a",
        "layer": [0, 0, 1, 1, 2, 2],
        "head": [0, 1, 0, 1, 0, 1],
        "bos_norm": [4, 1, 0.5, 0, 6, 8],
        "other_norm": [6, 2, 6, 2, 6, 2],
        "norm_ratio": [1.5, 2, 12, np.inf, 1, 0.25],
        "bos_attention": [0.25, 0.75, 0.25, 0.75, 0.25, 0.75],
        "layer_factor": [1, 1, 1 / 2, 1 / 2, 1 / 3, 1 / 3],
        "score_max": [*none, 1.2, 8, 1.92, 8],
        "score_max_layer": [*none, 0, 0, 1, 0],
        "score_max_neuron": [*none, 0, 0, 1, 0],
        "score_min": [*none, -1.6, 0, -1.6, -6],
        "score_min_layer": [*none, 0, 0, 0, 1],
        "score_min_neuron": [*none, 1, 1, 1, 0],
        "random_max": [*none, 2, 2.8, 2, 2.8],
        "random_min": [*none, -1.2, -1, -1.2, -1],
        "skipped": ["no earlier layer", "no earlier layer", None, None, None, None],
    }
    wanted = pd.DataFrame(expected).astype(table.dtypes)
    pd.testing.assert_frame_equal(table, wanted, rtol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_tables_show_a_planted_neuron_and_a_head_that_writes_nothing_at_bos(sign: int) -> None:
    model, rows = plant(sign + 2, sign)
    forward = Forward(model)
    decoy = Pair(0, 7, 1, 0, source="named")
    with torch.inference_mode():
        heads = [Heads(forward, layer) for layer in range(2)]
        scores = all_scores(forward, heads, 0)
        planted = strongest_pairs(map(scores.of, range(2)), forward.facts.d_mlp, 1)[0]
        where = destinations(len(rows), 24, (0.5, 1.0), 400, 0)
        points = path_ablation(forward, heads, [planted, decoy], rows, where, 480)
        pairs = pair_table("a", points, heads)
        norms = [HeadNorms(own) for own in heads]
        for own, sums in zip(heads, norms, strict=True):
            sums.add(*own.of(forward.run(rows)), 12, 24)
        # The direction that the planted head is turned by most, either way, among others.
        best = scores.queries[1][:, 2] / scores.queries[1][:, 2].norm()
        drawn = torch.cat([random_directions(forward, 9, 0), best[None], -best[None]])
        table = head_table("a", norms, scores, drawn, forward.facts.d_mlp)
    for record, pair in zip(pairs.to_dict("records"), (planted, decoy), strict=True):
        corr = np.corrcoef(points[pair])
        found = [record[name] for name in ("activation_bos", "bos_norm", "activation_norm")]
        assert found == pytest.approx([corr[0, 1], corr[1, 2], corr[0, 2]], abs=1e-9)
        changes = [record["bos_change"], record["norm_change"]]
        assert changes == pytest.approx(points[pair][1:].mean(1).tolist(), abs=1e-12)
    steered = pairs.iloc[0]
    assert sign * steered["activation_bos"] > 0.8
    assert steered["bos_norm"] < -0.6
    assert sign * steered["activation_norm"] < -0.5
    assert (table["norm_ratio"][table["layer"] == 1] > 1e6).all()
    head, end = table.iloc[4 + 2], "max" if sign > 0 else "min"
    assert (head[f"score_{end}_layer"], head[f"score_{end}_neuron"]) == (0, 7)
    limit = float(scores.largest(1)[2])
    assert [head["random_max"], head["random_min"]] == pytest.approx([limit, -limit])
    assert abs(head[f"score_{end}"]) < limit


def test_destinations_are_in_the_range_and_the_same_every_time() -> None:
    found = destinations(10, 12, (0.5, 1.0), 30, seed=3)
    assert len(set(found)) == 30
    assert ((found % 12) >= 6).all()
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(found, destinations(10, 12, (0.5, 1.0), 30, seed=3))
    assert (destinations(2, 12, (0.0, 1.0), 99, seed=0) % 12 > 0).all()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random models a and rotary, and the dump of a."""
    folder = tmp_path_factory.mktemp("attention")
    write_tokenizer(folder / "tokenizer")
    write_rows(folder / "rows")
    write_model(folder / "a")
    (folder / "dump").mkdir()
    ledgers = [folder / name / "ledger.json" for name in ("a", "tokenizer", "rows")]
    dump.main(*ledgers, "a", dump.Settings(tokens=240), Output(folder / "dump" / "ledger.json"))
    return folder


def step(
    made: Path, folder: Path, model: str = "a", activations: str = "dump", **settings: Any
) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("heads.parquet", "neurons.parquet", "pairs.parquet", "points.safetensors", "numbers.json")
    kept = [f"attention_{name}" for name in names[:3]] + ["attention.safetensors", "attention.json"]
    files = [Output(folder / name) for name in kept]
    chosen = Settings.model_validate({"rows": 10, "destinations": 40, "strongest": 6, **settings})
    attention.main(made / model / "ledger.json", made / activations / "ledger.json", chosen, *files)
    return dict(zip(names, files, strict=True))


def test_without_bos_heads_are_measured_at_the_first_token_and_have_no_score(
    made: Path, tmp_path: Path
) -> None:
    write_rows(made / "no bos", bos=None)
    (made / "no bos dump").mkdir()
    ledgers = [made / name / "ledger.json" for name in ("a", "tokenizer", "no bos")]
    whole = dump.Settings(tokens=240)
    dump.main(*ledgers, "a", whole, Output(made / "no bos dump" / "ledger.json"))
    found = step(made, tmp_path, activations="no bos dump")
    heads = pd.read_parquet(found["heads.parquet"])
    assert set(heads["skipped"]) == {"no earlier layer", attention.NO_BOS}
    assert heads["score_max"].isna().all()
    assert json.loads(found["numbers.json"].read_text())["attention_score_max"] is None
    source = Activations(made / "no bos dump" / "ledger.json")
    forward = Forward(load(made / "a" / "ledger.json"))
    rows = source.tokens.reshape(-1, source.n_ctx)[:10].astype(np.int64)
    with torch.inference_mode():
        values = Heads(forward, 1).of(forward.run(rows))[2][:, 0]
        norms = torch.einsum("rhi,hio->rho", values, Heads(forward, 1).output).norm(dim=-1)
    assert norms.std(0).min() > 0
    mean = norms.double().mean(0).numpy()
    np.testing.assert_allclose(heads[heads["layer"] == 1]["bos_norm"], mean, rtol=1e-5)


def test_the_step_writes_the_same_bytes_twice_and_tables_that_agree(made: Path, tmp_path: Path) -> None:
    first, second = (step(made, tmp_path / name, named=[(0, 3, 1, 1)]) for name in "ab")
    for name in first:
        assert first[name].read_bytes() == second[name].read_bytes()
    heads, pairs, neurons = (
        pd.read_parquet(first[f"{name}.parquet"]) for name in ("heads", "pairs", "neurons")
    )
    assert len(neurons) == 128
    assert neurons["score"].notna().tolist() == [True] * 64 + [False] * 64
    numbers = json.loads(first["numbers.json"].read_text())
    assert len(heads) == 4
    assert heads["skipped"].isna().tolist() == [False] * 2 + [True] * 2
    assert numbers["attention_neurons"] == neurons["attention_neuron"].sum()
    assert numbers["attention_score_max"] == heads["score_max"].max()
    assert pairs["source"].tolist() == ["named"] + ["strongest"] * 6
    best = pairs[pairs["source"] == "strongest"]["score"].abs()
    assert best.iloc[0] == max(heads["score_max"].max(), -heads["score_min"].min())
    assert best.is_monotonic_decreasing
    assert (pairs["destinations"] == 40).all()
    points, _ = read_tensors(first["points.safetensors"])
    for pair, (activation, bos, norm) in zip(pairs.to_dict("records"), points["ablated"], strict=True):
        assert np.corrcoef(activation, bos)[0, 1] == pytest.approx(pair["activation_bos"])
        assert (bos.mean(), norm.mean()) == pytest.approx((pair["bos_change"], pair["norm_change"]))
    assert points["scores"].sum(1).tolist() == [64 * 2, 1000 * 2]
    svg, drawn = draw_figure(tmp_path, "attention", first.values())
    assert f"Scores; {numbers['attention_neurons']} neurons beyond chance" in svg
    assert drawn["neurons"] == points["scores"][0].tolist()
    best = pairs.sort_values("score", key=abs, ascending=False, kind="stable")
    best = best.sort_values("source", key=lambda s: s != "named", kind="stable")
    keys = ["layer", "neuron", "head_layer", "head"]
    assert [one["pair"] for one in drawn["pairs"]] == best[keys].head(5).to_numpy().tolist()
    for one in drawn["pairs"]:
        number = pairs[keys].to_numpy().tolist().index(one["pair"])
        shown = [one[name] for name in ("activation", "bos_change", "norm_change")]
        np.testing.assert_array_equal(points["ablated"][number], shown)
    other = pairs.assign(score=pairs["score"] + 1)
    other.to_parquet(first["pairs.parquet"])
    with pytest.raises(UserError, match=r"attention_pairs.parquet: is not the table that belongs to"):
        draw_figure(tmp_path, "attention", first.values())


def test_the_table_of_heads_is_what_plain_weights_say(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0]
    monkeypatch.setattr(attention, "random_directions", lambda *arguments: torch.from_numpy(drawn))
    files = step(made, tmp_path, dtype="float64", positions=(0.25, 0.75), batch_tokens=48)
    rows = Activations(made / "dump" / "ledger.json").tokens.reshape(-1, CONTEXT)[:10]
    model: Any = load(made / "a" / "ledger.json", dtype="float64")
    model.set_attn_implementation("eager")
    shown = {"output_attentions": True, "output_hidden_states": True, "use_cache": False}
    with torch.inference_mode():
        seen = model(torch.from_numpy(rows).long(), **shown)
        alone = model(torch.tensor([[0]]), **shown).hidden_states
    records: list[dict[str, Any]] = []
    weights = {name: value.detach().numpy() for name, value in model.transformer.h.named_parameters()}
    outputs = weights["0.mlp.c_proj.weight"]
    outputs = outputs - outputs.mean(1, keepdims=True)
    outputs /= np.linalg.norm(outputs, axis=1, keepdims=True)
    for layer in range(2):
        gain, bias = weights[f"{layer}.ln_1.weight"], weights[f"{layer}.ln_1.bias"]
        whole, offset = weights[f"{layer}.attn.c_attn.weight"], weights[f"{layer}.attn.c_attn.bias"]
        x, start = (
            (part - part.mean(-1, keepdims=True)) / np.sqrt(part.var(-1, keepdims=True) + 1e-5)
            for part in (seen.hidden_states[layer].numpy(), alone[layer][0, 0].numpy())
        )
        key_of_bos = (start * gain + bias) @ whole[:, 16:32] + offset[16:32]
        for head in range(2):
            at = slice(8 * head, 8 * head + 8)
            written = (x * gain) @ whole[:, 32:][:, at] @ weights[f"{layer}.attn.c_proj.weight"][at]
            norm = np.linalg.norm(written - written.mean(-1, keepdims=True), axis=-1)
            query = gain * (whole[:, :16][:, at] @ key_of_bos[at]) / 8**0.5
            query -= query.mean()
            neurons, random = outputs @ query, drawn @ query
            record: dict[str, Any] = {"model": "a", "layer": layer, "head": head, "bos_norm": norm[0, 0]}
            record |= {"other_norm": norm[:, 1:].mean(), "norm_ratio": norm[:, 1:].mean() / norm[0, 0]}
            record["bos_attention"] = seen.attentions[layer][:, head, 3:9, 0].numpy().mean()
            record["layer_factor"] = 1
            for end, place in (("max", neurons.argmax()), ("min", neurons.argmin())) if layer else ():
                record |= {f"score_{end}": neurons[place], f"score_{end}_layer": 0}
                record[f"score_{end}_neuron"] = place
            record |= {"random_max": random.max(), "random_min": random.min()} if layer else {}
            records.append(record | {"skipped": None if layer else "no earlier layer"})
    found = pd.read_parquet(files["heads.parquet"])
    expected = pd.DataFrame(records)[found.columns].astype(found.dtypes)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)
    assert (found["score_max"][2:] != found["random_max"][2:]).all()


def test_a_smaller_batch_changes_nothing(made: Path, tmp_path: Path) -> None:
    first, second = (step(made, tmp_path / str(n), batch_tokens=n, dtype="float64") for n in (24, 4096))
    for name in ("heads.parquet", "neurons.parquet", "pairs.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(first[name]), pd.read_parquet(second[name]), rtol=1e-9)


def test_a_pair_that_is_none_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="attention.named: found .1, 3, 1, 1.*a later layer"):
        step(made, tmp_path, named=[(1, 3, 1, 1)])


def test_another_model_is_refused(made: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "b", seed=1)
    with pytest.raises(UserError, match="is not the model of"):
        step(made, tmp_path / "out", str(tmp_path / "b"))


def test_rotary_heads_are_skipped_with_the_reason(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt_neox", vocabulary=48, context=12)
    monkeypatch.setattr(attention, "open_model", lambda *arguments: Forward(model))
    files = step(made, tmp_path, named=[(0, 3, 1, 1)])
    heads, pairs = (pd.read_parquet(files[f"{name}.parquet"]) for name in ("heads", "pairs"))
    assert heads["skipped"].str.startswith("rotary").all()
    assert heads["score_max"].isna().all()
    assert len(pairs) == 1
    assert np.isfinite(pairs["activation_bos"]).all()
    assert pd.read_parquet(files["neurons.parquet"])["attention_neuron"].isna().all()
    none = {"attention_score_max": None, "attention_neurons": None}
    assert json.loads(files["numbers.json"].read_text()) == none
    assert "no head has a score" in draw_figure(tmp_path, "attention", files.values())[0]
