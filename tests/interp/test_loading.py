"""Models are opened whole, in the dtype asked for, and compute what GPT-2 is defined to compute."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.core.errors import UserError
from steps.core.stores import Ledger
from steps.interp import loading
from tests.language_models.conftest import small_model


def kept(folder: Path, model: Any) -> Path:
    """Write a model as a job does and return its ledger."""
    ledger = Ledger(folder / "ledger.json", "language_model", {"test": 1})
    loading.save(model, ledger)
    loading.save(model, ledger, "checkpoints/step-000001")
    ledger.finish({"tokenizer": "x", "source": {}})
    return folder / "ledger.json"


def by_hand(model: Any, ids: torch.Tensor, scale_by_layer: bool) -> torch.Tensor:
    """GPT-2's logits with plain operations, in the dtype of its weights."""
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    heads = model.config.n_head
    rows, length = ids.shape

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + model.config.layer_norm_epsilon).sqrt()
        return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][:length]
    for layer in range(model.config.n_layer):
        name = f"transformer.h.{layer}"
        parts = linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn").chunk(3, -1)
        q, k, v = (part.view(rows, length, heads, -1).transpose(1, 2) for part in parts)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if scale_by_layer:
            scores = scores / (layer + 1)
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        mixed = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(rows, length, -1)
        x = x + linear(mixed, f"{name}.attn.c_proj")
        inner = linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
        inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + linear(inner, f"{name}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ weights["lm_head.weight"].T


@pytest.mark.parametrize("scale_by_layer", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh"])
def test_the_forward_pass_is_that_of_hand_written_attention(
    tmp_path: Path, scale_by_layer: bool, dtype: str, tolerance: float, activation: str
) -> None:
    made = small_model(
        n_layer=3, scale_attn_by_inverse_layer_idx=scale_by_layer, activation_function=activation
    )
    model = loading.load(kept(tmp_path, made), dtype=dtype)
    ids = torch.randint(0, 300, (3, 16), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = model(ids).logits
    expected = by_hand(model, ids, scale_by_layer)
    other = by_hand(model, ids, not scale_by_layer)
    assert model.config._attn_implementation == "sdpa"
    assert (logits - expected).abs().max() < tolerance * expected.abs().max()
    assert (logits - other).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_come_in_the_dtype_asked_for(tmp_path: Path, stored: torch.dtype) -> None:
    made = small_model().to(stored)
    ledger = kept(tmp_path, made)
    model = loading.load(ledger)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    for name, tensor in made.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.float()), name
    assert loading.config(ledger).n_layer == 2


def test_a_checkpoint_opens_like_the_model(tmp_path: Path) -> None:
    made = small_model()
    model = loading.load(kept(tmp_path, made), checkpoint="checkpoints/step-000001")
    assert torch.equal(model.transformer.wte.weight, made.transformer.wte.weight)


def test_an_altered_or_missing_file_is_named(tmp_path: Path) -> None:
    ledger = kept(tmp_path, small_model())
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"model\.safetensors"):
        loading.load(ledger)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: missing"):
        loading.load(ledger)


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    ledger = kept(tmp_path, small_model())
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(UserError, match=f"device: found '{device}'"):
            loading.load(ledger, device=device)
