"""Attention heads of any family, from their parts: queries, keys, values, and what reaches the stream.

Weights are the preprocessed ones (``steps.interp.weights``). So values come without their constant
part, the value bias and what the norm's bias adds: it reaches the residual stream at every token alike, as
attention sums to 1, and the norm of a head's output says what the head moves.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from steps.interp.forward import Forward
from steps.interp.weights import attend, normalise, processed_layer, unit

if TYPE_CHECKING:
    import numpy as np
    import torch

    from steps.interp.forward import CleanRun


class Heads:
    """The heads of one layer.

    Attributes:
        count: number of query heads.
        weights: of the layer, preprocessed.
        output: ``[heads, d_head, d_head]``; a value times it has the norm of what the head writes
            into the residual stream, of which LayerNorm models do not see the mean.
        scaling: what products of queries and keys are multiplied by.
        layer_factor: the part of it that depends on the layer (GPT-2 with
            ``scale_attn_by_inverse_layer_idx``); 1 otherwise.
    """

    def __init__(self, forward: Forward, layer: int) -> None:
        """The heads of layer ``layer``."""
        import torch

        self.facts, self.layer = forward.facts, layer
        self.count, self.size = self.facts.heads, self.facts.d_head
        self.weights = processed_layer(forward.reader.layer(layer), self.facts)
        # The triangle of a QR decomposition keeps norms and is small.
        self.output = torch.linalg.qr(self.weights.w_o.transpose(-1, -2)).R.transpose(-1, -2)
        self.scaling = self.facts.attention_scale(layer)
        self.layer_factor = 1 / (layer + 1) if self.facts.scale_attention_by_layer else 1.0

    def of(self, clean: CleanRun) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys (both rotated by their positions) and values without their constant part.

        All ``[rows, context, heads, d_head]``.
        """
        import torch

        own = self.weights
        normed = normalise(clean.residual[self.layer], self.facts)
        query, key, value = (
            torch.einsum("rtd,hds->rths", normed, w) + b
            for w, b in ((own.w_q, own.b_q), (own.w_k, own.b_k), (own.w_v, own.b_v))
        )
        rotary = self.rotary(clean)
        if rotary is not None:
            cos, sin = (part[:, :, None] for part in rotary)
            query, key = rotated(query, cos, sin), rotated(key, cos, sin)
        return query, key, value

    def rotary(self, clean: CleanRun) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Cosines and sines ``[1 or rows, context, rotated]`` of rotary positions, or None."""
        found: tuple[torch.Tensor, torch.Tensor] | None = clean.calls[self.layer][1].get(
            "position_embeddings"
        )
        return found

    def attend(self, scores: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Attention of destinations; see :func:`steps.interp.weights.attend`."""
        return attend(scores, position, self.facts.windows[self.layer])

    def query(self, residual: torch.Tensor, head: int) -> torch.Tensor:
        """Queries of one head ``[..., d_head]`` that read ``residual``, not rotated."""
        return normalise(residual, self.facts) @ self.weights.w_q[head] + self.weights.b_q[head]


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions applied to the first coordinates of ``x``, as many as ``cos`` has."""
    import torch

    head, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    a, b = head.chunk(2, -1)
    return torch.cat([head * cos + torch.cat([-b, a], -1) * sin, rest], -1)


class HeadNorms:
    """Sums over batches of what each head of a layer writes and how much it attends to the first token.

    That is BOS, the same in every row, or where rows have none, whatever they begin with.
    """

    def __init__(self, heads: Heads, bos: bool = True) -> None:
        """Begin before the first batch; ``bos``: whether rows begin with it."""
        self.heads = heads
        self.bos: np.ndarray
        self._bos = bos
        self._first: np.ndarray | float = 0.0
        self._rows = 0
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
        import numpy as np
        import torch

        norms = torch.einsum("rthi,hio->rtho", value, self.heads.output).norm(dim=-1).double().cpu()
        if self._bos:
            self.bos = norms[0, 0].numpy()
        else:
            self._first, self._rows = self._first + norms[:, 0].sum(0).numpy(), self._rows + len(norms)
            self.bos = np.asarray(self._first / self._rows)
        self.other = self.other + norms[:, 1:].sum((0, 1)).numpy()
        self.others += norms[:, 1:].shape[:2].numel()
        scores = torch.einsum("rdhi,rshi->rhds", query[:, low:high], key) * self.heads.scaling
        to_bos = self.heads.attend(scores, torch.arange(low, high, device=key.device))[..., 0]
        self.attention = self.attention + to_bos.double().sum((0, 2)).cpu().numpy()
        self.seen += to_bos.shape[0] * to_bos.shape[2]


def bos_keys(forward: Forward, heads: list[Heads], bos: int) -> list[torch.Tensor]:
    """Each layer's keys ``[heads, d_head]`` at position 0 of an input of BOS only."""
    import numpy as np

    clean = forward.run(np.array([[bos]]))
    return [layer.of(clean)[1][0, 0] for layer in heads]


def random_directions(forward: Forward, count: int, seed: int) -> torch.Tensor:
    """Gaussian directions of unit norm ``[count, d_model]``, without a mean where norms take it away."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn((count, forward.facts.d_model), generator=generator, dtype=torch.float64)
    if forward.facts.norm == "layer":
        drawn -= drawn.mean(1, keepdim=True)  # as output weights are
    return unit(drawn).to(forward.device, forward.dtype)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Heuristic scores of all neurons and the heads of later layers, computed one layer of heads at a time.

    Attributes:
        heads: heads of a layer.
        written: of each layer that has a later one, ``w_out`` of all neurons as norms see it, of unit norm:
            ``[d_mlp, d_model]``; empty where heads have no score.
        queries: of each layer, what a direction times it gives the scores of the heads: ``[d_model, heads]``.
    """

    heads: int
    written: list[torch.Tensor]
    queries: list[torch.Tensor]

    def of(self, layer: int) -> np.ndarray:
        """Scores ``float32 [neurons of earlier layers, heads]`` of a layer's heads; neurons in order."""
        import numpy as np

        parts = [(written @ self.queries[layer]).float().cpu().numpy() for written in self.written[:layer]]
        return np.concatenate(parts) if parts else np.empty((0, self.heads), np.float32)

    def beside(self, layer: int, directions: torch.Tensor) -> np.ndarray:
        """Scores ``float32 [n, heads]`` of directions ``[n, d_model]`` of unit norm."""
        found: np.ndarray = (directions @ self.queries[layer]).float().cpu().numpy()
        return found

    def largest(self, layer: int) -> np.ndarray:
        """The largest score ``float64 [heads]`` that a direction can have: that along the query."""
        found: np.ndarray = self.queries[layer].double().norm(dim=0).cpu().numpy()
        return found


def all_scores(forward: Forward, heads: list[Heads], bos: int | None) -> Scores:
    """The scores of a model; without any where positions rotate queries, or rows have no BOS."""
    import torch

    facts = forward.facts
    if facts.rotary or bos is None:
        return Scores(facts.heads, [], [])
    # The keys first: [d_model, heads] is small, and what is left is one product.
    queries = [
        torch.einsum("hds,hs->dh", own.weights.w_q, key) / own.size**0.5
        for own, key in zip(heads, bos_keys(forward, heads, bos), strict=True)
    ]
    written = [
        unit(processed_layer(forward.reader.layer(layer), facts).w_out) for layer in range(facts.layers - 1)
    ]
    return Scores(facts.heads, written, queries)
