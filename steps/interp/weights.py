"""The weights of a model of any family as uniform tensors, and their preprocessing (paper, appendix).

Row vectors everywhere: ``y = x @ W + b``. Heads stand on their own axis; where groups of heads share keys
and values, these are repeated for each head. Every function is pure: it returns new weights. In the order
of the paper: :func:`fold` norms into what they feed, centre what reads the residual stream
(:func:`centre_reading`), what writes to it (:func:`centre_writing`) and the unembedding
(:func:`centre_unembedding`), and :func:`fold_value_biases`. An RMSNorm does not remove the mean, so with it
nothing that reads or writes is centred. Logits stay the same up to a constant per position.

The final norm feeds the unembedding, so :func:`centre_reading` takes from it the mean over d_model, too, as
the authors' library does; the all-ones direction is then in its null space.

:class:`WeightReader` gives one layer at a time, so that a large model need not be in memory as a whole.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from steps.core.devices import torch_dtype
from steps.core.stores import Folder
from steps.interp.architectures import Architecture, Block, architecture
from steps.interp.loading import skeleton

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import torch
    from torch import nn

    Get = Callable[[nn.Module, str], torch.Tensor | None]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What a forward pass needs to know besides weights."""

    family: str
    layers: int
    d_model: int
    d_mlp: int
    """Neurons per layer."""
    heads: int
    d_head: int
    vocabulary: int
    activation: str
    """Name of the MLPs' activation function, as in transformers."""
    norm: Literal["layer", "rms"]
    norm_eps: float
    parallel: bool
    """Attention and MLP of a block read the same residual stream."""
    gated: bool
    rotary: bool
    rotary_frequencies: torch.Tensor | None
    """``float32 [rotary dimensions / 2]``, radians per position; a head's first dimensions are rotated."""
    rotary_scale: float
    """Factor on cosine and sine (1 but for some ways of stretching the context)."""
    scale_attention: bool
    """Whether scores are divided by the root of the head size."""
    scale_attention_by_layer: bool
    """Whether scores are also divided by the number of the layer, counted from 1."""
    windows: tuple[int | None, ...]
    """Of each layer: how many tokens its heads see, their own the last; None: all up to their own."""

    def attention_scale(self, layer: int) -> float:
        """What the scores ``q @ k`` of a layer are multiplied by."""
        scale = self.d_head**-0.5 if self.scale_attention else 1.0
        return scale / (layer + 1) if self.scale_attention_by_layer else scale


@dataclasses.dataclass(frozen=True)
class Layer:
    """One block. Biases that a model lacks are zeros, gains likewise ones."""

    attention_gain: torch.Tensor
    """Of the norm before attention, ``[d_model]``."""
    attention_bias: torch.Tensor
    w_q: torch.Tensor
    """``[heads, d_model, d_head]``"""
    b_q: torch.Tensor
    """``[heads, d_head]``"""
    w_k: torch.Tensor
    b_k: torch.Tensor
    w_v: torch.Tensor
    b_v: torch.Tensor
    w_o: torch.Tensor
    """``[heads, d_head, d_model]``"""
    b_o: torch.Tensor
    """``[d_model]``"""
    mlp_gain: torch.Tensor
    """Of the norm before the MLP, ``[d_model]``."""
    mlp_bias: torch.Tensor
    w_in: torch.Tensor
    """``[d_model, d_mlp]``; in a gated MLP the gate's"""
    b_in: torch.Tensor
    """``[d_mlp]``"""
    w_up: torch.Tensor | None
    """``[d_model, d_mlp]``, only in gated MLPs"""
    b_up: torch.Tensor | None
    w_out: torch.Tensor
    """``[d_mlp, d_model]``"""
    b_out: torch.Tensor
    """``[d_model]``"""


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """What comes before the first block and after the last."""

    w_e: torch.Tensor
    """Embedding, ``[vocabulary, d_model]``."""
    w_pos: torch.Tensor | None
    """``[positions, d_model]``; none where positions rotate queries and keys."""
    final_gain: torch.Tensor
    final_bias: torch.Tensor
    w_u: torch.Tensor
    """Unembedding, ``[d_model, vocabulary]``; a copy where it is tied to the embedding."""
    b_u: torch.Tensor
    """``[vocabulary]``"""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A whole model."""

    facts: ModelConfig
    ends: Embeddings
    layers: tuple[Layer, ...]


class WeightReader:
    """Reads a model's weights as uniform tensors, one layer at a time."""

    def __init__(self, model: Any, get: Get | None = None, dtype: torch.dtype | None = None) -> None:
        """Prepare reading ``model``.

        Args:
            model: a causal language model; its parameters may lie on the meta device where ``get``
                finds them elsewhere.
            get: gives the parameters; by default they are the modules' own.
            dtype: what they are converted to; by default their own.
        """
        self._position = model.transformer.wpe if model.config.model_type == "gpt2" else None
        self._architecture = architecture(model)
        self._get = get or _own
        self._dtype = dtype
        self.facts = _facts(model, self._architecture)

    def layer(self, number: int) -> Layer:
        """The weights of a block."""
        return self._layer(self._architecture.blocks[number])

    def layers(self) -> Iterator[Layer]:
        """The weights of every block, one after the other."""
        return (self.layer(number) for number in range(self.facts.layers))

    def ends(self) -> Embeddings:
        """The weights outside the blocks."""
        parts = self._architecture
        facts = self.facts
        w_e = self._weight(parts.embedding)
        gain, bias = self._norm(parts.final_norm)
        w_u = self._weight(parts.unembedding).T
        return Embeddings(
            w_e=w_e,
            w_pos=None if self._position is None else self._weight(self._position),
            final_gain=gain,
            final_bias=bias,
            w_u=w_u.clone() if w_u.data_ptr() == w_e.data_ptr() else w_u,
            b_u=self._bias(parts.unembedding, facts.vocabulary),
        )

    def _layer(self, block: Block) -> Layer:
        facts = self.facts
        attention_gain, attention_bias = self._norm(block.attention_norm)
        mlp_gain, mlp_bias = self._norm(block.mlp_norm)
        q, k, v = self._heads_in(block.attention)
        heads_out = self._matrix(block.heads_out)
        return Layer(
            attention_gain=attention_gain,
            attention_bias=attention_bias,
            w_q=q[0],
            b_q=q[1],
            w_k=k[0],
            b_k=k[1],
            w_v=v[0],
            b_v=v[1],
            w_o=heads_out.reshape(facts.heads, facts.d_head, facts.d_model),
            b_o=self._bias(block.heads_out, facts.d_model),
            mlp_gain=mlp_gain,
            mlp_bias=mlp_bias,
            w_in=self._matrix(block.pre),
            b_in=self._bias(block.pre, facts.d_mlp),
            w_up=None if block.up is None else self._matrix(block.up),
            b_up=None if block.up is None else self._bias(block.up, facts.d_mlp),
            w_out=self._matrix(block.down),
            b_out=self._bias(block.down, facts.d_model),
        )

    def _heads_in(self, attention: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weights ``[heads, d_model, d_head]`` and biases of queries, keys and values."""
        heads, size, d_model = self.facts.heads, self.facts.d_head, self.facts.d_model
        if self.facts.family == "gpt2":
            # All heads' queries, then all keys, then all values, each head by head.
            matrix = self._matrix(attention.c_attn).reshape(d_model, 3, heads, size)
            bias = self._bias(attention.c_attn, 3 * heads * size).reshape(3, heads, size)
            return [(matrix[:, part].transpose(0, 1), bias[part]) for part in range(3)]
        if self.facts.family == "gpt_neox":
            # Head by head, each with its query, key and value.
            matrix = self._matrix(attention.query_key_value).reshape(d_model, heads, 3, size)
            bias = self._bias(attention.query_key_value, 3 * heads * size).reshape(heads, 3, size)
            return [(matrix[:, :, part].transpose(0, 1), bias[:, part]) for part in range(3)]
        parts = []
        for module in (attention.q_proj, attention.k_proj, attention.v_proj):
            matrix = self._matrix(module)
            own = matrix.shape[1] // size
            matrix = matrix.reshape(d_model, own, size).transpose(0, 1)
            bias = self._bias(module, own * size).reshape(own, size)
            parts.append((matrix.repeat_interleave(heads // own, 0), bias.repeat_interleave(heads // own, 0)))
        return parts

    def _weight(self, module: nn.Module) -> torch.Tensor:
        tensor = self._get(module, "weight")
        assert tensor is not None
        return tensor if self._dtype is None else tensor.to(self._dtype)

    def _matrix(self, module: nn.Module) -> torch.Tensor:
        """The matrix of a linear module as ``[in, out]``, as GPT-2's ``Conv1D`` keeps it."""
        weight = self._weight(module)
        return weight if type(module).__name__ == "Conv1D" else weight.T

    def _bias(self, module: nn.Module, size: int) -> torch.Tensor:
        import torch

        bias = self._get(module, "bias")
        if bias is None:
            weight = self._get(module, "weight")
            assert weight is not None
            return torch.zeros(size, dtype=self._dtype or weight.dtype, device=weight.device)
        return bias if self._dtype is None else bias.to(self._dtype)

    def _norm(self, module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        return self._weight(module), self._bias(module, self.facts.d_model)


def _own(module: nn.Module, name: str) -> torch.Tensor | None:
    tensor: torch.Tensor | None = getattr(module, name, None)
    return None if tensor is None else tensor.detach()


def _facts(model: Any, parts: Architecture) -> ModelConfig:
    config = model.config
    norm = parts.final_norm
    rotary = _rotary(model) if parts.rotary else None
    return ModelConfig(
        family=parts.family,
        layers=parts.layers,
        d_model=parts.d_model,
        d_mlp=parts.d_mlp,
        heads=parts.heads,
        d_head=parts.d_head,
        vocabulary=config.vocab_size,
        activation=parts.activation,
        norm=parts.norm,
        norm_eps=float(getattr(norm, "eps", getattr(norm, "variance_epsilon", 0.0))),
        parallel=parts.parallel,
        gated=parts.gated,
        rotary=parts.rotary,
        rotary_frequencies=None if rotary is None else rotary.inv_freq.detach().float().cpu(),
        rotary_scale=1.0 if rotary is None else float(rotary.attention_scaling),
        # A configuration keeps keys that the family's code never reads: GPT-2 alone knows the first two, and
        # only Qwen2's attention has windows, whatever ``layer_types`` says of the others.
        scale_attention=parts.family != "gpt2" or bool(config.scale_attn_weights),
        scale_attention_by_layer=parts.family == "gpt2" and bool(config.scale_attn_by_inverse_layer_idx),
        windows=tuple(getattr(block.attention, "sliding_window", None) for block in parts.blocks),
    )


def _rotary(model: Any) -> Any:
    """The module that turns queries and keys, with its numbers in memory."""
    import torch

    found = model.base_model.rotary_emb
    if not found.inv_freq.is_meta:
        return found
    with torch.device("cpu"):
        return type(found)(config=model.config)


def read(model: Any, dtype: torch.dtype | None = None) -> Weights:
    """All weights of a model, in its own dtype by default; tensors may be views of its parameters."""
    reader = WeightReader(model, dtype=dtype)
    return Weights(reader.facts, reader.ends(), tuple(reader.layers()))


def open_reader(ledger: Path, dtype: str = "float32", checkpoint: str | None = None) -> WeightReader:
    """Open a model's weights on disk, to read them layer by layer; nothing else is held in memory.

    Args:
        ledger: the model's ledger (``data/models/STUDY/MODEL/ledger.json``).
        dtype: what the weights are converted to.
        checkpoint: such as ``checkpoints/step-000100``; the finished model by default.

    Raises:
        UserError: a file is missing or differs from its hash, or the model is of an unknown family.
    """
    from safetensors import safe_open

    model = skeleton(ledger, checkpoint)
    names = {module: name for name, module in model.named_modules()}
    unembedding = model.get_output_embeddings()
    weights = f"{checkpoint}/model.safetensors" if checkpoint else "model.safetensors"
    file = safe_open(Folder(ledger, "language_model").check(weights), framework="pt")
    kept = set(file.keys())

    def get(module: nn.Module, name: str) -> torch.Tensor | None:
        full = f"{names[module]}.{name}"
        if full in kept:
            tensor: torch.Tensor = file.get_tensor(full)
            return tensor
        if module is unembedding and name == "weight":
            if model.config.tie_word_embeddings:
                return get(model.get_input_embeddings(), name)  # only the embedding is kept
            # transformers keeps GPT-NeoX's under the name that other families use.
            full = next((other for other in ("lm_head.weight", "embed_out.weight") if other in kept), full)
        if name == "weight":
            return file.get_tensor(full)
        return None

    return WeightReader(model, get, torch_dtype(dtype))


def fold_layer(layer: Layer) -> Layer:
    """Put the gains and biases of a block's norms into what they feed."""
    import torch

    changed: dict[str, Any] = {}
    for name in ("q", "k", "v"):
        w, b = getattr(layer, f"w_{name}"), getattr(layer, f"b_{name}")
        changed[f"w_{name}"] = layer.attention_gain[:, None] * w
        changed[f"b_{name}"] = b + layer.attention_bias @ w
    changed |= {
        "w_in": layer.mlp_gain[:, None] * layer.w_in,
        "b_in": layer.b_in + layer.mlp_bias @ layer.w_in,
    }
    if layer.w_up is not None and layer.b_up is not None:
        changed |= {
            "w_up": layer.mlp_gain[:, None] * layer.w_up,
            "b_up": layer.b_up + layer.mlp_bias @ layer.w_up,
        }
    for name in ("attention", "mlp"):
        changed[f"{name}_gain"] = torch.ones_like(layer.mlp_gain)
        changed[f"{name}_bias"] = torch.zeros_like(layer.mlp_bias)
    return dataclasses.replace(layer, **changed)


def fold_ends(ends: Embeddings) -> Embeddings:
    """Put the final norm's gain and bias into the unembedding, which so gets a bias."""
    import torch

    return dataclasses.replace(
        ends,
        w_u=ends.final_gain[:, None] * ends.w_u,
        b_u=ends.b_u + ends.final_bias @ ends.w_u,
        final_gain=torch.ones_like(ends.final_gain),
        final_bias=torch.zeros_like(ends.final_bias),
    )


def centre_layer_reading(layer: Layer) -> Layer:
    """Take from each unit that reads the residual stream the mean over d_model of its weights."""
    names = ["w_q", "w_k", "w_v", "w_in"] + ["w_up"] * (layer.w_up is not None)
    return dataclasses.replace(layer, **{name: _centred(getattr(layer, name), -2) for name in names})


def centre_layer_writing(layer: Layer) -> Layer:
    """Take from each vector that a block writes its mean over d_model."""
    names = ("w_o", "b_o", "w_out", "b_out")
    return dataclasses.replace(layer, **{name: _centred(getattr(layer, name), -1) for name in names})


def centre_ends_reading(ends: Embeddings) -> Embeddings:
    """Take from each token's unembedding the mean over d_model, which the final norm removed."""
    return dataclasses.replace(ends, w_u=_centred(ends.w_u, -2))


def centre_ends_writing(ends: Embeddings) -> Embeddings:
    """Take from each embedding, of tokens and positions, its mean over d_model."""
    w_pos = None if ends.w_pos is None else _centred(ends.w_pos, -1)
    return dataclasses.replace(ends, w_e=_centred(ends.w_e, -1), w_pos=w_pos)


def centre_ends_unembedding(ends: Embeddings) -> Embeddings:
    """Take from the unembedding its mean over the vocabulary, which softmax does not notice."""
    return dataclasses.replace(ends, w_u=_centred(ends.w_u, -1), b_u=_centred(ends.b_u, -1))


def fold_layer_value_biases(layer: Layer) -> Layer:
    """Put value biases, which reach the output whatever is attended to, into the output's bias."""
    import torch

    moved = torch.einsum("hs,hsd->d", layer.b_v, layer.w_o)
    return dataclasses.replace(layer, b_o=layer.b_o + moved, b_v=torch.zeros_like(layer.b_v))


def _centred(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    return tensor - tensor.mean(axis, keepdim=True)


def processed_layer(layer: Layer, facts: ModelConfig) -> Layer:
    """A block after all preprocessing."""
    layer = fold_layer(layer)
    if facts.norm == "layer":
        layer = centre_layer_writing(centre_layer_reading(layer))
    return fold_layer_value_biases(layer)


def processed_ends(ends: Embeddings, facts: ModelConfig) -> Embeddings:
    """Embedding and unembedding after all preprocessing."""
    ends = fold_ends(ends)
    if facts.norm == "layer":
        ends = centre_ends_writing(centre_ends_reading(ends))
    return centre_ends_unembedding(ends)


def fold(weights: Weights) -> Weights:
    """Fold every norm into what it feeds."""
    return Weights(weights.facts, fold_ends(weights.ends), tuple(map(fold_layer, weights.layers)))


def centre_reading(weights: Weights) -> Weights:
    """Centre what reads the residual stream; only after folding, and only where norms remove the mean."""
    if weights.facts.norm != "layer":
        return weights
    ends = centre_ends_reading(weights.ends)
    return Weights(weights.facts, ends, tuple(map(centre_layer_reading, weights.layers)))


def centre_writing(weights: Weights) -> Weights:
    """Centre what writes to the residual stream; only where norms remove the mean."""
    if weights.facts.norm != "layer":
        return weights
    ends = centre_ends_writing(weights.ends)
    return Weights(weights.facts, ends, tuple(map(centre_layer_writing, weights.layers)))


def centre_unembedding(weights: Weights) -> Weights:
    """Centre the unembedding over the vocabulary."""
    return dataclasses.replace(weights, ends=centre_ends_unembedding(weights.ends))


def fold_value_biases(weights: Weights) -> Weights:
    """Fold value biases into those of the attention outputs."""
    return dataclasses.replace(weights, layers=tuple(map(fold_layer_value_biases, weights.layers)))


def processed(weights: Weights) -> Weights:
    """All of the preprocessing, in the paper's order."""
    for step in (fold, centre_reading, centre_writing, centre_unembedding, fold_value_biases):
        weights = step(weights)
    return weights


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Rows of norm 1; rows of zeros stay."""
    norm = vectors.norm(dim=-1, keepdim=True)
    return vectors / norm.masked_fill(norm == 0, 1)


def normalise(x: torch.Tensor, facts: ModelConfig) -> torch.Tensor:
    """A norm without gain and bias."""
    if facts.norm == "layer":
        x = x - x.mean(-1, keepdim=True)
    return x * (x.square().mean(-1, keepdim=True) + facts.norm_eps).rsqrt()


def rotary(x: torch.Tensor, facts: ModelConfig) -> torch.Tensor:
    """Queries or keys ``[..., tokens, d_head]`` rotated by their positions, if positions are rotary."""
    import torch

    frequencies = facts.rotary_frequencies
    if frequencies is None:
        return x
    # Angles in float32 at least, as in transformers.
    kind = torch.promote_types(x.dtype, torch.float32)
    positions = torch.arange(x.shape[-2], dtype=kind, device=x.device)
    angles = positions[:, None] * frequencies.to(x.device, kind)
    cos, sin = (f(angles).to(x.dtype) * facts.rotary_scale for f in (torch.cos, torch.sin))
    half = frequencies.shape[0]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)


def attend(scores: torch.Tensor, position: torch.Tensor, window: int | None) -> torch.Tensor:
    """Attention of destinations to the tokens up to their own, or to the last ``window`` of these.

    Args:
        scores: ``[..., destinations, context]``.
        position: of the destinations, ``int64 [destinations]``.
        window: of the layer, see :class:`ModelConfig`.
    """
    import torch

    back = position[:, None] - torch.arange(scores.shape[-1], device=scores.device)
    hidden = (back < 0) if window is None else (back < 0) | (back >= window)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def attention(layer: Layer, number: int, x: torch.Tensor, facts: ModelConfig) -> torch.Tensor:
    """What the attention of block ``number`` adds to the residual stream ``x [rows, tokens, d_model]``."""
    import torch

    normed = normalise(x, facts) * layer.attention_gain + layer.attention_bias
    q, k, v = (
        torch.einsum("rtd,hds->rhts", normed, w) + b[:, None]
        for w, b in ((layer.w_q, layer.b_q), (layer.w_k, layer.b_k), (layer.w_v, layer.b_v))
    )
    scores = rotary(q, facts) @ rotary(k, facts).transpose(-1, -2) * facts.attention_scale(number)
    pattern = attend(scores, torch.arange(x.shape[-2], device=x.device), facts.windows[number])
    return torch.einsum("rhts,hsd->rtd", pattern @ v, layer.w_o) + layer.b_o


def mlp(layer: Layer, x: torch.Tensor, facts: ModelConfig) -> torch.Tensor:
    """What the MLP of a block adds to the residual stream that it reads."""
    from steps.interp.architectures import activation_function

    normed = normalise(x, facts) * layer.mlp_gain + layer.mlp_bias
    post = activation_function(facts.activation)(normed @ layer.w_in + layer.b_in)
    if layer.w_up is not None and layer.b_up is not None:
        post = post * (normed @ layer.w_up + layer.b_up)
    return post @ layer.w_out + layer.b_out


def logits(weights: Weights, tokens: torch.Tensor) -> torch.Tensor:
    """Logits ``[rows, tokens, vocabulary]`` of token ids ``[rows, tokens]``, from these weights alone."""
    facts, ends = weights.facts, weights.ends
    x = ends.w_e[tokens]
    if ends.w_pos is not None:
        x = x + ends.w_pos[: tokens.shape[1]]
    for number, layer in enumerate(weights.layers):
        attended = attention(layer, number, x, facts)
        x = x + attended + mlp(layer, x if facts.parallel else x + attended, facts)
    return (normalise(x, facts) * ends.final_gain + ends.final_bias) @ ends.w_u + ends.b_u


BLOCK_VALUES = 2**25
"""How many products (neurons times tokens, or times neurons) are in memory at once."""
