"""Tiny models with random weights of every architecture, in memory or saved as a job saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.core.stores import Ledger
from steps.interp import loading

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2_scaled": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2_untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt_neox": ("gpt_neox", {"use_parallel_residual": True}),
    "gpt_neox_sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "gpt_neox_tied": ("gpt_neox", {"tie_word_embeddings": True}),
    "llama": ("llama", {"num_key_value_heads": 2}),
    "llama_ungrouped": ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
    "llama_tied": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True, "head_dim": 8}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
}
"""Family and configuration of every architecture that loads: tied and untied, parallel and sequential,
grouped heads, heads of another size than d_model / heads, biases."""


def tiny_model(
    shape: str = "gpt2", vocabulary: int = 300, context: int = 16, seed: int = 0, **config: Any
) -> Any:
    """A float32 model of ``SHAPES``: 3 blocks, d_model 16, 24 neurons each, 4 heads (GPT-NeoX 2).

    All weights are random and large enough for every part to matter, gains and biases too.

    Args:
        shape: key of ``SHAPES``.
        vocabulary: rows of the embedding.
        context: tokens that the model takes.
        seed: of the weights.
        config: changes of the configuration, under the family's own names.
    """
    import torch
    import transformers

    family, changes = SHAPES[shape]
    common = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        sizes: dict[str, Any] = {
            "n_positions": context,
            "n_embd": 16,
            "n_layer": 3,
            "n_head": 4,
            "n_inner": 24,
        }
        sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    else:
        sizes = {"max_position_embeddings": context, "hidden_size": 16, "num_hidden_layers": 3}
        sizes |= {"num_attention_heads": 4, "intermediate_size": 24}
    if family == "gpt_neox":  # heads large enough to be turned in part
        rotary = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
        sizes |= {"num_attention_heads": 2, "rope_parameters": rotary}
    made_of = {
        "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config),
        "gpt_neox": (transformers.GPTNeoXForCausalLM, transformers.GPTNeoXConfig),
        "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig),
        "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config),
    }
    model_class, config_class = made_of[family]
    made = model_class(config_class(**{**common, **sizes, **changes, **config})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            if "norm" in name.split(".")[-2] or "ln_" in name:
                parameter.add_(float(name.endswith("weight")))
    return made


def keep(folder: Path, model: Any, tokenizer: str = "x") -> Path:
    """Write a model, and itself again as a checkpoint, as a job does and return its ledger.

    Args:
        folder: where to.
        model: the model.
        tokenizer: fingerprint of its tokenizer.
    """
    loading.quiet()
    ledger = Ledger(folder / "ledger.json", "language_model", {"test": 1})
    loading.save(model, ledger)
    loading.save(model, ledger, "checkpoints/step-000001")
    ledger.finish({"tokenizer": tokenizer, "source": {}, "training_tokens": None})
    return folder / "ledger.json"
