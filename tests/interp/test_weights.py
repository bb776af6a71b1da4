"""Uniform weights compute what the models compute, and preprocessing does not change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steps.interp import weights as interp_weights
from steps.interp.architectures import compute_in_float64
from steps.interp.weights import Weights
from tests.language_models.tiny_models import SHAPES, keep, tiny_model

TOKENS = torch.randint(300, (3, 16), generator=torch.Generator().manual_seed(5))
LAYER_NORM = [shape for shape in SHAPES if shape.startswith("gpt")]


def off_by_a_constant(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of logits, but for a constant per position."""
    difference = a - b
    return float((difference - difference.mean(-1, keepdim=True)).abs().max())


def model_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}


WINDOWS_OF_OTHERS = {"layer_types": ["sliding_attention"] * 3, "sliding_window": 4}
SCALES_OF_OTHERS = {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False}
POSITIONS_OF_OTHERS = {
    "rotary_pct": 0.5,
    "rotary_emb_base": 77.0,
    "n_inner": 8,
    "use_parallel_residual": False,
}
FOREIGN_KEYS = [
    *((shape, WINDOWS_OF_OTHERS) for shape in ("gpt2", "gpt_neox", "llama")),
    *((shape, SCALES_OF_OTHERS) for shape in ("gpt_neox", "llama", "qwen2")),
    *((shape, POSITIONS_OF_OTHERS) for shape in ("llama", "qwen2")),
    ("gpt2", {"scale_attn_weights": False}),
    ("gpt_neox", {"head_dim": 4}),
]
"""Keys of a configuration that another family reads, and two that are the family's own."""


@pytest.mark.parametrize(
    ("shape", "config"), [*((shape, {}) for shape in SHAPES), ("qwen2", WINDOW), *FOREIGN_KEYS]
)
def test_logits_are_the_models_own(shape: str, config: dict[str, Any]) -> None:
    model = tiny_model(shape, **config).double()
    compute_in_float64(model)
    own = model_logits(model)
    found = interp_weights.logits(interp_weights.read(model), TOKENS)
    assert float((found - own).abs().max()) <= 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_on_disk_are_read_as_those_in_memory(shape: str, tmp_path: Path) -> None:
    model = tiny_model(shape)
    reader = interp_weights.open_reader(keep(tmp_path, model), "float64", "checkpoints/step-000001")
    expected = interp_weights.read(model, torch.float64)
    assert {**vars(reader.facts), "rotary_frequencies": 0} == {
        **vars(expected.facts),
        "rotary_frequencies": 0,
    }
    for found, part in zip((reader.ends(), *reader.layers()), (expected.ends, *expected.layers), strict=True):
        for name, tensor in vars(part).items():
            torch.testing.assert_close(getattr(found, name), tensor, rtol=0, atol=0)
    again = interp_weights.Weights(reader.facts, reader.ends(), tuple(reader.layers()))
    torch.testing.assert_close(
        interp_weights.logits(again, TOKENS), interp_weights.logits(expected, TOKENS), rtol=0, atol=0
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_part_of_the_preprocessing_leaves_the_logits(
    shape: str, dtype: torch.dtype, tolerance: float
) -> None:
    weights = interp_weights.read(tiny_model(shape), dtype)
    before = interp_weights.logits(weights, TOKENS)
    limit = tolerance * (float(before.abs().max()) if dtype == torch.float32 else 1)
    step: Any
    for step in (
        interp_weights.fold,
        interp_weights.centre_reading,
        interp_weights.centre_writing,
        interp_weights.centre_unembedding,
        interp_weights.fold_value_biases,
    ):
        weights = step(weights)
        assert off_by_a_constant(interp_weights.logits(weights, TOKENS), before) <= limit, step.__name__
    same = interp_weights.processed(interp_weights.read(tiny_model(shape), dtype))
    torch.testing.assert_close(
        interp_weights.logits(same, TOKENS), interp_weights.logits(weights, TOKENS), rtol=0, atol=0
    )


def written(weights: Weights) -> list[torch.Tensor]:
    ends = [weights.ends.w_e, weights.ends.w_u.T] + [weights.ends.w_pos] * (weights.ends.w_pos is not None)
    return ends + [
        getattr(layer, name) for layer in weights.layers for name in ("w_o", "b_o", "w_out", "b_out")
    ]


@pytest.mark.parametrize("shape", LAYER_NORM)
def test_with_a_layer_norm_what_reads_and_writes_has_mean_0(shape: str) -> None:
    raw = interp_weights.read(tiny_model(shape), torch.float64)
    weights = interp_weights.processed(raw)
    assert max(float(part.mean(-1).abs().max()) for part in written(weights)) < 1e-12
    assert min(float(part.mean(-1).abs().max()) for part in written(raw)) > 1e-3
    for layer in weights.layers:
        for name in ("w_q", "w_k", "w_v", "w_in"):
            assert float(getattr(layer, name).mean(-2).abs().max()) < 1e-12
    products = weights.layers[0].w_out @ weights.ends.w_u
    assert float(products.mean(-1).abs().max()) < 1e-12
    assert float(weights.ends.b_u.mean().abs()) < 1e-12


@pytest.mark.parametrize("shape", ["llama", "qwen2"])
def test_with_an_rms_norm_only_the_gain_is_folded(shape: str) -> None:
    raw = interp_weights.read(tiny_model(shape), torch.float64)
    weights = interp_weights.processed(raw)
    for before, after in zip(raw.layers, weights.layers, strict=True):
        torch.testing.assert_close(after.w_in, before.mlp_gain[:, None] * before.w_in)
        assert before.w_up is not None
        torch.testing.assert_close(after.w_up, before.mlp_gain[:, None] * before.w_up)
        torch.testing.assert_close(after.w_out, before.w_out)
    torch.testing.assert_close(weights.ends.w_e, raw.ends.w_e)


@pytest.mark.parametrize("shape", ["gpt2", "gpt_neox_tied", "llama_tied", "qwen2"])
def test_tied_embeddings_do_not_take_the_final_gain(shape: str) -> None:
    model = tiny_model(shape).double()
    raw = interp_weights.read(model)
    assert raw.ends.w_u.data_ptr() != raw.ends.w_e.data_ptr()
    embedded = raw.ends.w_e.clone()
    folded = interp_weights.fold(raw)
    torch.testing.assert_close(folded.ends.w_e, embedded, rtol=0, atol=0)
    torch.testing.assert_close(folded.ends.w_u, (embedded * raw.ends.final_gain).T)


def test_grouped_heads_repeat_keys_and_values() -> None:
    model = tiny_model("llama")
    layer = interp_weights.read(model).layers[0]
    keys = model.model.layers[0].self_attn.k_proj.weight.detach()
    assert layer.w_k.shape == (4, 16, 4)
    for head in range(4):
        group = head // 2
        torch.testing.assert_close(layer.w_k[head], keys[4 * group : 4 * group + 4].T, rtol=0, atol=0)


def test_reading_changes_no_model() -> None:
    model = tiny_model("gpt2")
    before = model_logits(model)
    interp_weights.processed(interp_weights.read(model))
    torch.testing.assert_close(model_logits(model), before, rtol=0, atol=0)
