"""Inputs of known shape: activations as a dump holds them, models with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steps.core.runner import Output
from steps.core.stores import Ledger, write_array
from steps.interp import loading
from steps.neurons import dump, moments

if TYPE_CHECKING:
    import torch
    from transformers import GPT2LMHeadModel

VOCABULARY = 512
NEW_LINE = 7
"""An id that is excluded from correlations, as the new line is, beside BOS (0)."""


class Normal:
    """Stands in for a model: pre-activations are normal, with mean -0.8 and standard deviation 0.7."""

    def __init__(self, layers: int, d_mlp: int, seed: int) -> None:
        self.layers = layers
        self.d_mlp = d_mlp
        self.dtype = "float16"
        self.names = ("pre",)
        self._generator = np.random.default_rng(seed)

    def __call__(self, rows: np.ndarray) -> list[torch.Tensor]:
        import torch

        pre = np.empty((self.layers, rows.size, self.d_mlp), self.dtype)
        for layer in pre:
            layer[...] = 0.7 * self._generator.standard_normal(layer.shape, dtype=np.float32) - 0.8
        return [torch.from_numpy(pre)]


def rows(tokens: int, context: int) -> np.ndarray:
    """Random rows ``int32 [tokens / context, context]`` that begin with BOS."""
    made = np.random.default_rng(0).integers(1, VOCABULARY, (tokens // context, context), dtype=np.int32)
    made[:, 0] = 0
    return made


def activations(
    folder: Path, layers: int, d_mlp: int, tokens: int, seed: int, block_tokens: int = 4096
) -> Path:
    """Write activations as ``neurons.dump`` does, with its default codec; returns the ledger."""
    context = 64
    made = rows(tokens, context)
    keep = ~np.isin(made.reshape(-1), [0, NEW_LINE])
    ledger = Ledger(
        folder / "ledger.json",
        "activations",
        {"model": seed, "tokens": [tokens, context], "exclude": [0, NEW_LINE]},
    )
    write_array(ledger, "tokens", made.reshape(-1), ("token",))
    write_array(ledger, "keep", keep.astype("uint8"), ("token",))
    block_rows = max(1, block_tokens // context)
    codec = dump.Settings().codec
    dump.write_blocks(ledger, Normal(layers, d_mlp, seed), made, block_rows, codec)
    ledger.finish(
        {
            "model": f"seed-{seed}",
            "source": "dump",
            "layers": layers,
            "d_mlp": d_mlp,
            "n_ctx": context,
            "bos": 0,
            "block_tokens": block_rows * context,
            "dtype": "float16",
            "compute_dtype": "float32",
            "batch_tokens": 4096,
            "device": "cpu",
            "activation": "gelu_new",
            "gated": False,
            "weights": [],
            "kept": int(keep.sum()),
            "model_ledger": "",
        }
    )
    return folder / "ledger.json"


def computed_activations(
    folder: Path, shape: dict[str, int], tokens: int, block_tokens: int, seed: int, device: str
) -> Path:
    """Activations that a model of random weights recomputes on ``device``; returns their ledger."""
    from steps.core.stores import Folder
    from steps.interp.loading import save

    weights = Ledger(folder / "model" / "ledger.json", "language_model", {"seed": seed})
    save(model(**shape, seed=seed), weights)
    weights.finish({})
    made = rows(tokens, shape["n_ctx"])
    fingerprint = loading.weights_fingerprint(Folder(folder / "model" / "ledger.json", "language_model"))
    made_from = {"model": fingerprint, "tokens": tokens, "exclude": [0]}
    ledger = Ledger(folder / "activations" / "ledger.json", "activations", made_from)
    keep = made.reshape(-1) > 0
    write_array(ledger, "tokens", made.reshape(-1), ("token",))
    write_array(ledger, "keep", keep.astype("uint8"), ("token",))
    ledger.finish(
        {
            "model": f"seed-{seed}",
            "source": "model",
            "layers": shape["layers"],
            "d_mlp": 4 * shape["d_model"],
            "n_ctx": shape["n_ctx"],
            "bos": 0,
            "block_tokens": block_tokens,
            "dtype": "float16",
            "compute_dtype": "bfloat16",
            "batch_tokens": block_tokens,
            "device": device,
            "activation": "gelu_new",
            "gated": False,
            "weights": [],
            "kept": int(keep.sum()),
            "model_ledger": "../model/ledger.json",
        }
    )
    return folder / "activations" / "ledger.json"


def write_moments(ledger: Path) -> Path:
    """Run ``neurons.moments`` on all tokens; returns its file, beside the ledger."""
    out = ledger.parent / "moments.safetensors"
    moments.main(ledger, 1, 0, moments.Settings(), Output(out))
    return out


def model(layers: int, d_model: int, heads: int, n_ctx: int, seed: int = 0) -> GPT2LMHeadModel:
    """A GPT-2 with random weights, ready for evaluation."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    shape = {"n_layer": layers, "n_embd": d_model, "n_head": heads, "n_positions": n_ctx}
    config = GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **shape)
    config._attn_implementation = "sdpa"
    return GPT2LMHeadModel(config).eval()
