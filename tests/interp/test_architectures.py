"""Models of every family compute what the family is defined to compute, and their parts are where we say."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steps.interp import architectures, loading
from tests.language_models.tiny_models import SHAPES, keep, tiny_model

Weights = dict[str, torch.Tensor]

IDS = torch.randint(0, 300, (3, 16), generator=torch.Generator().manual_seed(1))


def layer_norm(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def rms_norm(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]


def linear(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()))


def turned(x: torch.Tensor, size: int, base: float = 10_000.0, factor: float = 1.0) -> torch.Tensor:
    """Turn the first ``size`` numbers of each head by angles that grow with the position.

    Numbers half of ``size`` apart are the two parts of a complex number. The frequencies are float32 in
    every implementation, so they are rounded here too.
    """
    frequencies = (1.0 / base ** (torch.arange(0, size, 2).float() / size) / factor).double()
    angles = torch.arange(x.shape[-2]).double()[:, None] * frequencies
    half = size // 2
    z = torch.complex(x[..., :half], x[..., half:size]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((z.real, z.imag, x[..., size:]), -1)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention; ``[rows, heads, tokens, head size]`` each, results side by side."""
    length = q.shape[-2]
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
    return (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)


def neox_by_hand(weights: Weights, ids: torch.Tensor, parallel: bool = True, size: int = 4) -> torch.Tensor:
    """GPT-NeoX with two heads; ``size`` numbers of each are turned."""
    x = weights["gpt_neox.embed_in.weight"][ids]
    for layer in range(3):
        name = f"gpt_neox.layers.{layer}"
        inner = layer_norm(x, weights, f"{name}.input_layernorm")
        # Stored head by head: queries, keys and values of the first, then of the second.
        heads = linear(inner, weights, f"{name}.attention.query_key_value").unflatten(-1, (2, 3, 8))
        q, k, v = heads.permute(3, 0, 2, 1, 4)
        mixed = linear(attend(turned(q, size), turned(k, size), v), weights, f"{name}.attention.dense")
        read = x if parallel else x + mixed
        pre = linear(
            layer_norm(read, weights, f"{name}.post_attention_layernorm"),
            weights,
            f"{name}.mlp.dense_h_to_4h",
        )
        gelu = pre * (1 + torch.erf(pre / math.sqrt(2))) / 2
        x = x + mixed + linear(gelu, weights, f"{name}.mlp.dense_4h_to_h")
    x = layer_norm(x, weights, "gpt_neox.final_layer_norm")
    return x @ weights.get("embed_out.weight", weights["gpt_neox.embed_in.weight"]).T


def llama_by_hand(
    weights: Weights, ids: torch.Tensor, shared: int, size: int = 4, interleave: bool = True, **rotary: float
) -> torch.Tensor:
    """Llama and Qwen2 with four heads.

    Args:
        weights: the weights.
        ids: tokens.
        shared: heads with keys and values of their own.
        size: of a head.
        interleave: neighbours share keys and values.
        rotary: base and factor of the rotary positions.
    """
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(3):
        name = f"model.layers.{layer}"
        inner = rms_norm(x, weights, f"{name}.input_layernorm")
        q, k, v = (
            linear(inner, weights, f"{name}.self_attn.{part}_proj").unflatten(-1, (-1, size)).transpose(1, 2)
            for part in "qkv"
        )
        group = [head * shared // 4 if interleave else head % shared for head in range(4)]
        q, k = turned(q, size, **rotary), turned(k, size, **rotary)
        x = x + linear(attend(q, k[:, group], v[:, group]), weights, f"{name}.self_attn.o_proj")
        inner = rms_norm(x, weights, f"{name}.post_attention_layernorm")
        gate, up = (linear(inner, weights, f"{name}.mlp.{part}_proj") for part in ("gate", "up"))
        x = x + linear(gate / (1 + torch.exp(-gate)) * up, weights, f"{name}.mlp.down_proj")
    x = rms_norm(x, weights, "model.norm")
    return x @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).T


ByHand = Callable[[Weights, torch.Tensor], torch.Tensor]

LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}

CASES: dict[str, tuple[str, dict[str, Any], ByHand, ByHand]] = {
    "parallel": ("gpt_neox", {}, neox_by_hand, lambda w, i: neox_by_hand(w, i, parallel=False)),
    "sequential": (
        "gpt_neox_sequential",
        {},
        lambda w, i: neox_by_hand(w, i, parallel=False),
        lambda w, i: neox_by_hand(w, i, parallel=False, size=8),
    ),
    "tied": ("gpt_neox_tied", {}, neox_by_hand, lambda w, i: neox_by_hand(w, i, size=2)),
    "turned whole": (
        "gpt_neox",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}},
        lambda w, i: neox_by_hand(w, i, size=8),
        neox_by_hand,
    ),
    "grouped": (
        "llama",
        {},
        lambda w, i: llama_by_hand(w, i, 2),
        lambda w, i: llama_by_hand(w, i, 2, interleave=False),
    ),
    "ungrouped with biases": (
        "llama_ungrouped",
        {},
        lambda w, i: llama_by_hand(w, i, 4),
        lambda w, i: llama_by_hand({n: t for n, t in w.items() if "bias" not in n}, i, 4),
    ),
    "one group of large heads": (
        "llama_tied",
        {},
        lambda w, i: llama_by_hand(w, i, 1, size=8),
        lambda w, i: llama_by_hand(w, i, 1, size=8, base=1e5),
    ),
    "scaled positions": (
        "llama",
        {"rope_parameters": LINEAR},
        lambda w, i: llama_by_hand(w, i, 2, base=500.0, factor=2.0),
        lambda w, i: llama_by_hand(w, i, 2, base=500.0),
    ),
    "qwen2": (
        "qwen2",
        {},
        lambda w, i: llama_by_hand(w, i, 2),
        lambda w, i: llama_by_hand({n: t for n, t in w.items() if "bias" not in n}, i, 2),
    ),
}
"""Shape of the tiny model, changes to it, what it computes, and a mistake one could make."""


@pytest.mark.parametrize("case", CASES)
def test_the_forward_pass_is_that_of_a_hand_written_model(tmp_path: Path, case: str) -> None:
    shape, changes, by_hand, mistaken = CASES[case]
    ledger = keep(tmp_path, tiny_model(shape, **changes))
    weights = {name: tensor.double() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    expected = by_hand(weights, IDS)
    for dtype, tolerance in (("float64", 1e-9), ("float32", 1e-4)):
        model = loading.load(ledger, dtype=dtype)
        assert model.config._attn_implementation == "sdpa"
        with torch.inference_mode():
            logits = model(IDS).logits
        assert logits.dtype == getattr(torch, dtype)
        assert (logits - expected).abs().max() < tolerance
    assert (mistaken(weights, IDS) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_saved_and_opened_again_a_model_keeps_its_bits(
    tmp_path: Path, shape: str, stored: torch.dtype
) -> None:
    made = tiny_model(shape).to(stored)
    first = keep(tmp_path / "first", made)
    opened = loading.load(first, dtype=str(stored).removeprefix("torch."))
    checkpoint = loading.load(first, checkpoint="checkpoints/step-000001")
    for name, tensor in made.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name
        assert torch.equal(checkpoint.state_dict()[name], tensor.float()), name
    parts = architectures.architecture(opened)
    tied = shape in ("gpt2", "gpt2_scaled", "gpt_neox_tied", "llama_tied", "qwen2")
    assert (parts.embedding.weight is parts.unembedding.weight) is tied
    assert loading.config(first).tie_word_embeddings is tied
    second = keep(tmp_path / "second", opened)
    for name in ("config.json", "model.safetensors"):
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_parts_are_where_they_are_said_to_be(shape: str) -> None:
    """From what passes through the named modules, every block's output can be put together."""
    model = tiny_model(shape)
    parts = architectures.architecture(model)
    seen: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(module: Any, given: Any, result: Any) -> None:
        seen[module] = ((*given, None)[0], result[0] if isinstance(result, tuple) else result)

    named = [parts.embedding, parts.final_norm, parts.unembedding]
    for block in parts.blocks:
        named += [part for part in vars(block).values() if part is not None]
    for module in named:
        module.register_forward_hook(watch)
    with torch.inference_mode():
        logits = model(IDS).logits
    assert torch.equal(seen[parts.unembedding][1], logits)
    assert seen[parts.embedding][1].shape == (3, 16, parts.d_model)
    assert (parts.layers, parts.d_mlp, parts.d_model) == (3, 24, 16)
    activation = {"gelu_new": "gelu", "silu": "silu", "gelu": "gelu"}[parts.activation]
    extra = {"approximate": "tanh"} if parts.activation == "gelu_new" else {}
    act = getattr(torch.nn.functional, activation)
    for block in parts.blocks:
        before, after = seen[block.attention_norm][0], seen[block.module][1]
        attended, added = seen[block.heads_out][1], seen[block.mlp][1]
        torch.testing.assert_close(after, before + attended + added)
        torch.testing.assert_close(seen[block.mlp_norm][0], before + attended * (not parts.parallel))
        value = act(seen[block.pre][1], **extra)
        if parts.gated:
            value = value * seen[block.up][1]
        torch.testing.assert_close(seen[block.down][0], value)
        assert seen[block.down][0].shape == (3, 16, parts.d_mlp)
        assert seen[block.heads_out][0].shape == (3, 16, parts.heads * parts.d_head)
    assert torch.equal(seen[parts.final_norm][0], seen[parts.blocks[-1].module][1])


@pytest.mark.parametrize("kind", architectures.ROTARY)
@pytest.mark.parametrize("shape", ["gpt_neox", "llama", "qwen2"])
def test_every_known_scaling_of_positions_opens_alike_in_both_dtypes(
    tmp_path: Path, kind: str, shape: str
) -> None:
    size = {"gpt_neox": 4, "llama": 4, "qwen2": 4}[shape]
    rotary: dict[str, Any] = {"rope_type": kind, "rope_theta": 100.0}
    if shape == "gpt_neox":
        rotary |= {"partial_rotary_factor": 0.5}
    if kind != "default":
        rotary |= {"factor": 2.0}
    if kind in ("yarn", "longrope", "llama3"):
        rotary |= {"original_max_position_embeddings": 8}
    if kind == "longrope":
        rotary |= {"short_factor": [1.0] * (size // 2), "long_factor": [3.0, 2.0]}
    if kind == "llama3":
        rotary |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    ledger = keep(tmp_path, tiny_model(shape, rope_parameters=rotary))
    with torch.inference_mode():
        short, long = (
            [loading.load(ledger, dtype=dtype)(IDS[:, :length]).logits for dtype in ("float32", "float64")]
            for length in (4, 16)
        )
    for single, double in (short, long):
        assert (single - double).abs().max() < 1e-4


def test_positions_of_old_pythia_configurations_are_understood() -> None:
    old = {"rotary_pct": 0.5, "rotary_emb_base": 20_000, "model_type": "gpt_neox"}
    config = architectures.config_class("gpt_neox").from_dict(old)
    for again in (config, architectures.config_class("gpt_neox").from_dict(config.to_dict())):
        assert again.rope_parameters["partial_rotary_factor"] == 0.5
        assert again.rope_parameters["rope_theta"] == 20_000


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("shape", ["gpt_neox", "llama"])
def test_rotary_frequencies_are_never_rounded_to_the_dtype_of_the_weights(
    tmp_path: Path, shape: str, dtype: str
) -> None:
    model = loading.load(keep(tmp_path, tiny_model(shape)), dtype=dtype)
    frequencies = next(buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq"))
    assert torch.equal(frequencies.float(), torch.tensor([1.0, 0.01]))
