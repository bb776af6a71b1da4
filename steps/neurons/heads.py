"""Attention heads of any family, from their parts: queries, keys, values, and what reaches the stream.

Values are taken without their constant part (the value bias and what the norm's bias adds), which reaches
the residual stream at every token alike, since attention sums to 1 (dossier section 1, folded value
biases); so the norm of a head's output says what the head moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steps.neurons.forward import Forward, centre, matrix

if TYPE_CHECKING:
    import numpy as np
    import torch

    from steps.neurons.forward import Clean


class Heads:
    """The heads of one layer.

    Attributes:
        count: number of query heads.
        query_weight: ``[d_model, heads, head_size]``, applied to what the norm returns.
        query_bias: ``[heads, head_size]``.
        output: ``[heads, head_size, head_size]``; a value times it has the norm of what the head writes
            into the residual stream, of which LayerNorm models do not see the mean.
        scaling: what products of queries and keys are multiplied by.
        layer_factor: the part of it that depends on the layer (GPT-2 with
            ``scale_attn_by_inverse_layer_idx``); 1 otherwise.
    """

    def __init__(self, forward: Forward, layer: int) -> None:
        """The heads of layer ``layer``."""
        import torch

        self.parts, self.layer = forward.parts, layer
        self.block = forward.parts.blocks[layer]
        self.count, self.size = self.parts.heads, self.parts.head_size
        d_model = self.parts.d_model
        identity = torch.eye(d_model, dtype=forward.dtype, device=forward.device)
        self.query_bias = self._project(identity[:1] * 0)[0][0]
        self.query_weight = self._project(identity)[0] - self.query_bias
        gain_free = getattr(self.block.attention_norm, "bias", None)
        constant = identity[0] * 0 if gain_free is None else gain_free
        self._value_constant = self._project(constant[None])[2][0]
        written = matrix(self.block.heads_out).unflatten(0, (self.count, self.size))
        # The triangle of a QR decomposition keeps norms and is small.
        self.output = torch.linalg.qr(centre(self.parts, written).transpose(-1, -2)).R.transpose(-1, -2)
        self.scaling = float(self.block.attention.scaling)  # type: ignore[arg-type]
        by_layer = bool(getattr(forward.model.config, "scale_attn_by_inverse_layer_idx", False))
        self.layer_factor = 1 / (layer + 1) if by_layer else 1.0

    def _project(self, normed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values ``[..., heads, head_size]``; heads of a group have the same keys."""
        attention, size = self.block.attention, self.size
        if self.parts.family == "gpt2":
            parts = attention.c_attn(normed).unflatten(-1, (3, self.count, size)).unbind(-3)  # type: ignore[operator]
            return parts[0], parts[1], parts[2]
        if self.parts.family == "gpt_neox":
            parts = attention.query_key_value(normed).unflatten(-1, (self.count, 3, size)).unbind(-2)  # type: ignore[operator]
            return parts[0], parts[1], parts[2]
        group = self.count // self.parts.key_value_heads
        query = attention.q_proj(normed).unflatten(-1, (self.count, size))  # type: ignore[operator]
        key, value = (
            project(normed).unflatten(-1, (self.parts.key_value_heads, size)).repeat_interleave(group, -2)  # type: ignore[operator]
            for project in (attention.k_proj, attention.v_proj)
        )
        return query, key, value

    def of(self, clean: Clean) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys (both turned by their positions) and values without their constant part.

        All ``[rows, context, heads, head_size]``.
        """
        query, key, value = self._project(self.block.attention_norm(clean.residual[self.layer]))
        turn = self.turn(clean)
        if turn is not None:
            cos, sin = (part[:, :, None] for part in turn)
            query, key = turned(query, cos, sin), turned(key, cos, sin)
        return query, key, value - self._value_constant

    def turn(self, clean: Clean) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Cosines and sines ``[1 or rows, context, turned]`` of rotary positions, or None."""
        found: tuple[torch.Tensor, torch.Tensor] | None = clean.calls[self.layer][1].get(
            "position_embeddings"
        )
        return found

    def directions(self, vectors: torch.Tensor) -> torch.Tensor:
        """What vectors ``[n, d_model]`` of the residual stream add to each query: ``[n, heads, head_size]``.

        The norm's gain is applied and its centring, not its division (dossier section 1).
        """
        gain: torch.Tensor = self.block.attention_norm.weight  # type: ignore[assignment]
        seen = centre(self.parts, vectors) * gain
        return (seen @ self.query_weight.flatten(1)).unflatten(-1, (self.count, self.size))


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions applied to the first coordinates of ``x``, as many as ``cos`` has."""
    import torch

    head, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    a, b = head.chunk(2, -1)
    return torch.cat([head * cos + torch.cat([-b, a], -1) * sin, rest], -1)


def attend(scores: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Attention of destinations to the tokens up to their own.

    Args:
        scores: ``[..., destinations, context]``.
        position: of the destinations, ``int64 [destinations]``.
    """
    import torch

    later = torch.arange(scores.shape[-1], device=scores.device) > position[:, None]
    return scores.masked_fill(later, -torch.inf).softmax(-1)


class HeadNorms:
    """Sums over batches of what each head of a layer writes and how much it attends to BOS."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self.bos: np.ndarray
        self.other: np.ndarray | float = 0.0
        self.attention: np.ndarray | float = 0.0
        self.others = self.seen = 0

    def add(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        low: int,
        high: int,
    ) -> None:
        """Add a batch, as :meth:`Heads.of` gives it; attention is that of positions ``low`` to ``high``."""
        import torch

        norms = torch.einsum("rthi,hio->rtho", value, self.heads.output).norm(dim=-1).double().cpu()
        self.bos = norms[0, 0].numpy()
        self.other = self.other + norms[:, 1:].sum((0, 1)).numpy()
        self.others += norms[:, 1:].shape[:2].numel()
        scores = torch.einsum("rdhi,rshi->rhds", query[:, low:high], key) * self.heads.scaling
        to_bos = attend(scores, torch.arange(low, high, device=key.device))[..., 0]
        self.attention = self.attention + to_bos.double().sum((0, 2)).cpu().numpy()
        self.seen += to_bos.shape[0] * to_bos.shape[2]


def bos_keys(forward: Forward, heads: list[Heads], bos: int) -> list[torch.Tensor]:
    """Each layer's keys ``[heads, head_size]`` at position 0 of an input of BOS only."""
    import numpy as np

    clean = forward.run(np.array([[bos]]))
    return [layer.of(clean)[1][0, 0] for layer in heads]


def unit_directions(forward: Forward, layer: int) -> torch.Tensor:
    """``w_out`` of all neurons of a layer, centred as norms see them, of unit norm: ``[width, d_model]``."""
    written = centre(forward.parts, forward.written(layer, list(range(forward.parts.width))))
    return written / written.norm(dim=-1, keepdim=True).clamp_min(1e-30)


def random_directions(forward: Forward, count: int, seed: int) -> torch.Tensor:
    """Gaussian directions of unit norm ``[count, d_model]``."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn((count, forward.parts.d_model), generator=generator, dtype=torch.float64)
    drawn = drawn / drawn.norm(dim=-1, keepdim=True)
    return drawn.to(forward.device, forward.dtype)


def head_scores(heads: Heads, key: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Heuristic scores ``[n, heads]`` of directions ``[n, d_model]`` of unit norm.

    Args:
        heads: of the later layer.
        key: the heads' keys at BOS, ``[heads, head_size]``.
        directions: see :func:`unit_directions`.
    """
    import torch

    # The keys first: [d_model, heads] is small, and what is left is one product.
    read = heads.directions(torch.eye(directions.shape[1], dtype=key.dtype, device=key.device))
    return directions @ ((read * key).sum(-1) / heads.size**0.5)


def all_scores(forward: Forward, heads: list[Heads], keys: list[torch.Tensor]) -> list[np.ndarray]:
    """Scores ``float32 [neurons of earlier layers, heads]`` of each layer's heads, neurons layer by layer."""
    import numpy as np

    count = forward.parts.heads
    earlier: list[torch.Tensor] = []
    found = []
    for layer, (own, key) in enumerate(zip(heads, keys, strict=True)):
        parts = [head_scores(own, key, directions).float().cpu().numpy() for directions in earlier]
        found.append(np.concatenate(parts) if parts else np.empty((0, count), np.float32))
        if layer + 1 < len(heads):
            earlier.append(unit_directions(forward, layer))
    return found
