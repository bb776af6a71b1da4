"""Composition by its definition, and on heads planted so that a transpose would be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.core.runner import Output
from steps.core.tensors import read_tensors
from steps.interp import composition as interp_composition
from steps.interp import weights as interp_weights
from steps.neurons import composition
from tests.language_models.tiny_models import keep, tiny_model


def by_definition(model: Any) -> dict[str, np.ndarray]:
    weights = interp_weights.processed(interp_weights.read(model, torch.float64))
    facts = weights.facts
    found = {
        kind: np.full((facts.layers * facts.d_mlp, facts.layers, facts.heads), np.nan) for kind in "kqvo"
    }
    for a, neurons in enumerate(weights.layers):
        for b, layer in enumerate(weights.layers):
            for head in range(facts.heads):
                w_q, w_k, w_v, w_o = (getattr(layer, f"w_{x}")[head] for x in "qkvo")
                products = {"k": w_k @ w_q.T, "q": w_q @ w_k.T, "v": w_v @ w_o, "o": (w_v @ w_o).T}
                for kind, product in products.items():
                    reach = a < b if kind != "o" else (a > b if facts.parallel else a >= b)
                    if not reach:
                        continue
                    vectors = neurons.w_in.T if kind == "o" else neurons.w_out
                    value = (vectors @ product).norm(dim=1) / vectors.norm(dim=1) / product.norm()
                    rows = slice(a * facts.d_mlp, (a + 1) * facts.d_mlp)
                    found[kind][rows, b, head] = value.numpy()
    return found


@pytest.mark.parametrize("shape", ["gpt2", "gpt_neox", "gpt_neox_sequential", "llama", "llama_tied"])
def test_every_pair_has_the_value_of_the_definition(shape: str) -> None:
    model = tiny_model(shape)
    found = interp_composition.composition(interp_weights.WeightReader(model))
    for kind, expected in by_definition(model).items():
        np.testing.assert_allclose(found[kind], expected, rtol=1e-4, atol=1e-6)  # NaN in the same places
    assert ("o_up" in found) == shape.startswith("llama")
    assert_largest(model, found)


def assert_largest(model: Any, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of the neuron table are those that the whole arrays ask for."""
    reader = interp_weights.WeightReader(model)
    largest = interp_composition.LargestComposition(reader.facts, "cpu")
    for layer in reader.layers():
        largest.add(interp_weights.processed_layer(layer, reader.facts))
    columns = largest.columns()
    assert len(columns) == 3 * len(found)
    for kind, values in found.items():
        flat = np.nan_to_num(values.reshape(len(values), -1), nan=-1)
        none = (flat < 0).all(1)
        layer, head = np.divmod(flat.argmax(1), values.shape[2])
        expected = (np.where(none, np.nan, flat.max(1)), np.where(none, -1, layer), np.where(none, -1, head))
        for name, column in zip(("", "_layer", "_head"), expected, strict=True):
            np.testing.assert_array_equal(columns[f"{kind}_composition{name}"], column, err_msg=kind + name)
    return columns


def unit(generator: torch.Generator, size: int = 16) -> torch.Tensor:
    vector = torch.randn(size, generator=generator)
    vector -= vector.mean()
    return vector / vector.norm()


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_head_is_found_by_the_right_kind_only(seed: int) -> None:
    """Head 1 of layer 1 asks for direction a where its keys offer b, and moves c to d.

    Neurons 0 to 3 of layer 0 write a, b, c, d, those of layer 2 read them, all with noise. The transpose of
    any product would pair them the other way round.
    """
    generator = torch.Generator().manual_seed(seed)
    model = tiny_model("gpt2", seed=seed)
    directions = torch.linalg.qr(torch.stack([unit(generator) for _ in range(4)]).T)[0].T
    directions -= directions.mean(1, keepdim=True)
    head = slice(4, 8)
    with torch.no_grad():
        block = model.transformer.h[1]
        block.ln_1.weight.fill_(1.0)
        model.transformer.h[2].ln_2.weight.fill_(1.0)
        a, b, c, d = directions
        q, k, v = (block.attn.c_attn.weight[:, part * 16 :][:, head] for part in range(3))
        for matrix, direction in ((q, a), (k, b), (v, c)):
            matrix.mul_(0.02)
            matrix[:, 0] += direction
        block.attn.c_proj.weight[head] *= 0.02
        block.attn.c_proj.weight[4] += d
        for number, direction in enumerate(directions):
            noise = 0.02 * torch.randn(16, generator=generator)
            model.transformer.h[0].mlp.c_proj.weight[number] = 3 * direction + noise
            model.transformer.h[2].mlp.c_fc.weight[:, number] = 2 * direction + noise
    found = interp_composition.composition(interp_weights.WeightReader(model))
    columns = assert_largest(model, found)
    for kind, before, winner in (("q", 0, 0), ("k", 0, 1), ("v", 0, 2), ("o", 2, 3)):
        values = found[kind][before * 24 : before * 24 + 24, 1, 1]
        assert values.argmax() == winner, kind
        assert values[winner] > 0.85, kind
        others = np.delete(values[:4], winner)
        assert others.max() < 0.35, kind
        number = 24 * before + winner
        best = [columns[f"{kind}_composition{name}"][number] for name in ("", "_layer", "_head")]
        assert best == [values[winner], 1, 1], kind


def test_the_step_writes_all_kinds(tmp_path: Path) -> None:
    out = Output(tmp_path / "composition.safetensors")
    composition.main(keep(tmp_path / "x", tiny_model("gpt_neox")), composition.Settings(), out)
    arrays, facts = read_tensors(out)
    assert sorted(arrays) == ["k", "o", "q", "v"]
    assert all(values.shape == (72, 3, 2) and values.dtype == np.float32 for values in arrays.values())
    assert facts.pop("versions")["torch"]
    assert facts == {"model": "x", "layers": 3, "d_mlp": 24, "parallel": True}
