"""Where the parts of a model lie, the same names for every family that the workflow reads.

Three families: GPT-2; GPT-NeoX, to which Pythia belongs (attention and MLP side by side, rotary
positions); and Llama with Qwen2, whose MLPs are gated and whose heads may share keys and values. In a
gated MLP a neuron's value is ``act(gate) * up``; its pre-activation here is the gate's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import nn


FAMILIES = ("gpt2", "gpt_neox", "llama", "qwen2")
"""``model_type`` of the models that the workflow can read."""


NAMES = {"gpt2": "GPT-2", "gpt_neox": "GPT-NeoX", "llama": "Llama", "qwen2": "Qwen2"}
"""What people call the families."""


EMBEDDINGS = {
    "gpt2": ("transformer.wte.weight", "wte.weight"),
    "gpt_neox": ("gpt_neox.embed_in.weight", "embed_in.weight"),
    "llama": ("model.embed_tokens.weight", "embed_tokens.weight"),
    "qwen2": ("model.embed_tokens.weight", "embed_tokens.weight"),
}
"""The name of the embedding in files of a language model, and in files of its body alone."""


ROTARY = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
"""Ways to scale rotary positions that the code of the rotary families knows (``rope_type``)."""


def model_class(family: str) -> Any:
    """The class of transformers whose code computes the models of a family."""
    # Named here rather than found by AutoModelForCausalLM, which would open models of families whose parts
    # nobody here knows.
    import transformers

    names = {
        "gpt2": "GPT2LMHeadModel",
        "gpt_neox": "GPTNeoXForCausalLM",
        "llama": "LlamaForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
    }
    return getattr(transformers, names[family])


def config_class(family: str) -> Any:
    """The class of transformers for the configuration of a family, which comes without the models' code."""
    import transformers

    names = {
        "gpt2": "GPT2Config",
        "gpt_neox": "GPTNeoXConfig",
        "llama": "LlamaConfig",
        "qwen2": "Qwen2Config",
    }
    return getattr(transformers, names[family])


def compute_in_float64(model: Any) -> None:
    """Let a model whose weights are float64 compute in float64 throughout.

    transformers takes norms and rotary angles in float32 whatever the dtype (RMSNorm, rotary embedding),
    which leaves logits exact to about 1e-6 only. The rotary frequencies stay those of the family's code.
    """
    from types import MethodType

    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = MethodType(_rms_norm, module)
        elif hasattr(module, "original_inv_freq"):
            module.forward = MethodType(_rotary, module)


def _rms_norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    square = hidden_states.square().mean(-1, keepdim=True)
    return self.weight * (hidden_states * (square + self.variance_epsilon).rsqrt())


def _rotary(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    type(self).forward(self, x, position_ids)  # where frequencies depend on the length, it chooses them
    angles = position_ids[..., None].double() * self.inv_freq.double()
    angles = angles.repeat(1, 1, 2)
    return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling


@dataclasses.dataclass(frozen=True)
class Block:
    """Modules of one transformer block, to read weights from and to hook into."""

    module: nn.Module
    """Returns the residual stream after the block, ``[batch, tokens, d_model]``."""
    attention_norm: nn.Module
    attention: nn.Module
    heads_out: nn.Module
    """Takes all heads' results side by side, ``[batch, tokens, heads * d_head]``."""
    mlp_norm: nn.Module
    mlp: nn.Module
    """Returns what the MLP adds to the residual stream."""
    pre: nn.Module
    """Returns pre-activations, ``[batch, tokens, d_mlp]``."""
    up: nn.Module | None
    """Returns what the activated gate is multiplied by; only in gated MLPs."""
    down: nn.Module
    """Takes the neurons' values (post-activations), ``[batch, tokens, d_mlp]``."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model's parts and sizes."""

    family: str
    blocks: list[Block]
    embedding: nn.Module
    final_norm: nn.Module
    unembedding: nn.Module
    d_model: int
    d_mlp: int
    """Neurons per layer (d_mlp)."""
    heads: int
    key_value_heads: int
    """Fewer than ``heads`` where groups of heads share keys and values."""
    d_head: int
    activation: str
    """Name of the MLPs' activation function, as in transformers."""
    norm: Literal["layer", "rms"]
    parallel: bool
    """Attention and MLP of a block read the same residual stream."""
    rotary: bool
    """Positions rotate queries and keys; otherwise they are embeddings."""

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def gated(self) -> bool:
        """Whether neurons are ``act(gate) * up``."""
        return self.blocks[0].up is not None


def architecture(model: Any) -> Architecture:
    """The parts of a causal language model of one of ``FAMILIES``."""
    family: str = model.config.model_type
    describe = {"gpt2": _gpt2, "gpt_neox": _gpt_neox, "llama": _llama, "qwen2": _llama}[family]
    return describe(model)


def _gpt2(model: Any) -> Architecture:
    config, body = model.config, model.transformer
    blocks = [
        Block(b, b.ln_1, b.attn, b.attn.c_proj, b.ln_2, b.mlp, b.mlp.c_fc, None, b.mlp.c_proj) for b in body.h
    ]
    return Architecture(
        family="gpt2",
        blocks=blocks,
        embedding=body.wte,
        final_norm=body.ln_f,
        unembedding=model.lm_head,
        d_model=config.n_embd,
        d_mlp=config.n_inner or 4 * config.n_embd,
        heads=config.n_head,
        key_value_heads=config.n_head,
        d_head=config.n_embd // config.n_head,
        activation=config.activation_function,
        norm="layer",
        parallel=False,
        rotary=False,
    )


def _gpt_neox(model: Any) -> Architecture:
    config, body = model.config, model.gpt_neox
    blocks = [
        Block(
            b,
            b.input_layernorm,
            b.attention,
            b.attention.dense,
            b.post_attention_layernorm,
            b.mlp,
            b.mlp.dense_h_to_4h,
            None,
            b.mlp.dense_4h_to_h,
        )
        for b in body.layers
    ]
    return Architecture(
        family="gpt_neox",
        blocks=blocks,
        embedding=body.embed_in,
        final_norm=body.final_layer_norm,
        unembedding=model.get_output_embeddings(),
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        heads=config.num_attention_heads,
        key_value_heads=config.num_attention_heads,
        d_head=config.hidden_size // config.num_attention_heads,
        activation=config.hidden_act,
        norm="layer",
        parallel=bool(config.use_parallel_residual),
        rotary=True,
    )


def _llama(model: Any) -> Architecture:
    config, body = model.config, model.model
    blocks = [
        Block(
            b,
            b.input_layernorm,
            b.self_attn,
            b.self_attn.o_proj,
            b.post_attention_layernorm,
            b.mlp,
            b.mlp.gate_proj,
            b.mlp.up_proj,
            b.mlp.down_proj,
        )
        for b in body.layers
    ]
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Architecture(
        family=config.model_type,
        blocks=blocks,
        embedding=body.embed_tokens,
        final_norm=body.norm,
        unembedding=model.lm_head,
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        d_head=size,
        activation=config.hidden_act,
        norm="rms",
        parallel=False,
        rotary=True,
    )


def activation_function(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation function that a model's configuration calls ``name``, from a tensor to a tensor."""
    from torch.nn.functional import gelu

    if name in ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"):
        return lambda x: gelu(x, approximate="tanh")  # one kernel for what are five in transformers
    from transformers.activations import ACT2FN

    function: Callable[[torch.Tensor], torch.Tensor] = ACT2FN[name]
    return function
