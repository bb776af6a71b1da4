"""How a model's neurons compose with its attention heads, by weights alone (docs/neurons.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steps.core.devices import torch_device
from steps.core.runner import progress
from steps.interp.weights import Layer, ModelConfig, WeightReader, processed_layer, unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch


def triangle(right: torch.Tensor) -> torch.Tensor:
    """What stands in for ``right`` where only the norm of a product with it counts.

    ``x @ right`` and ``x @ triangle(right)`` have the same norm, but the latter has d_head columns.

    Args:
        right: ``[heads, d_head, d_model]``.

    Returns:
        ``[heads, d_head, d_head]``.
    """
    import torch

    return torch.linalg.qr(right.transpose(-1, -2), mode="r")[1].transpose(-1, -2)


def factors(layer: Layer) -> dict[str, torch.Tensor]:
    """For each kind ``[heads, d_model, d_head]``; a neuron's composition is the norm of its product."""
    pairs = {
        "k": (layer.w_k, layer.w_q.transpose(-1, -2)),
        "q": (layer.w_q, layer.w_k.transpose(-1, -2)),
        "v": (layer.w_v, layer.w_o),
        "o": (layer.w_o.transpose(-1, -2), layer.w_v.transpose(-1, -2)),
    }
    found = {}
    for kind, (left, right) in pairs.items():
        factor = left @ triangle(right)
        norm = factor.norm(dim=(-2, -1), keepdim=True)
        found[kind] = factor / norm.masked_fill(
            norm == 0, 1
        )  # a head that does nothing composes with nothing
    return found


def norms(vectors: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Norms ``[neurons, heads]`` of vectors ``[neurons, d_model]`` times each head's factor."""
    heads, d_model, size = factor.shape
    flat = factor.transpose(0, 1).reshape(d_model, heads * size)
    return (vectors @ flat).reshape(len(vectors), heads, size).norm(dim=-1)


class Composition:
    """Composition layer by layer, in the order of the model."""

    def __init__(self, facts: ModelConfig, device: str = "cpu") -> None:
        """Begin before the first layer; products are computed on ``device``."""
        self.facts, self.device = facts, torch_device(device)
        self.kinds = ["k", "q", "v", "o"] + ["o_up"] * facts.gated
        self._heads: list[dict[str, torch.Tensor]] = []
        self._writers: list[torch.Tensor] = []

    def add(self, layer: Layer) -> Iterator[tuple[str, int, int, np.ndarray]]:
        """What the next layer, preprocessed, adds.

        A neuron meets each head once: heads of earlier layers (and of its own) when its layer is read, those
        of later layers when these are.

        Yields:
            kind, layer of the neurons, layer of the heads, and ``float32 [neurons, heads]``.
        """
        number = len(self._heads)
        self._heads.append({kind: factor.to(self.device) for kind, factor in factors(layer).items()})
        readers = {"o": layer.w_in} if layer.w_up is None else {"o": layer.w_in, "o_up": layer.w_up}
        for kind, vectors in readers.items():
            reading = unit(vectors.T).to(self.device)
            for earlier in range(number + (not self.facts.parallel)):
                yield kind, number, earlier, norms(reading, self._heads[earlier]["o"]).cpu().numpy()
        for kind in ("k", "q", "v"):
            factor = self._heads[number].pop(kind)
            for earlier, written in enumerate(self._writers):
                yield kind, earlier, number, norms(written.to(self.device), factor).cpu().numpy()
        self._writers.append(unit(layer.w_out))


class LargestComposition:
    """The largest composition of each neuron of each kind, and with which head; of equal ones the first."""

    def __init__(self, facts: ModelConfig, device: str) -> None:
        """Begin before the first layer."""
        import numpy as np

        self._whole = Composition(facts, device)
        self._d_mlp = facts.d_mlp
        count = facts.layers * facts.d_mlp
        self._best = {kind: np.full(count, np.nan, np.float32) for kind in self._whole.kinds}
        self._head = {kind: np.full((2, count), -1, np.int32) for kind in self._whole.kinds}

    def add(self, layer: Layer) -> None:
        """Take in the next layer, preprocessed."""
        import numpy as np

        for kind, neurons, head_layer, values in self._whole.add(layer):
            rows = slice(neurons * self._d_mlp, (neurons + 1) * self._d_mlp)
            head = values.argmax(1)
            largest = values[np.arange(len(values)), head]
            better = ~(largest <= self._best[kind][rows])  # also where there was none
            self._best[kind][rows][better] = largest[better]
            self._head[kind][0, rows][better] = head_layer
            self._head[kind][1, rows][better] = head[better]

    def columns(self) -> dict[str, np.ndarray]:
        """``KIND_composition`` (NaN where there is no such head), its ``_layer`` and ``_head`` (-1)."""
        found: dict[str, np.ndarray] = {}
        for kind, values in self._best.items():
            name = f"{kind}_composition"
            found |= {name: values, f"{name}_layer": self._head[kind][0], f"{name}_head": self._head[kind][1]}
        return found


def composition(reader: WeightReader, device: str = "cpu") -> dict[str, np.ndarray]:
    """All arrays of the module's docstring."""
    import numpy as np

    facts, whole = reader.facts, Composition(reader.facts, device)
    shape = (facts.layers, facts.d_mlp, facts.layers, facts.heads)
    arrays = {kind: np.full(shape, np.nan, np.float32) for kind in whole.kinds}
    for raw in progress(reader.layers(), facts.layers, "layers of composition"):
        for kind, neurons, heads, values in whole.add(processed_layer(raw, facts)):
            arrays[kind][neurons, :, heads] = values
    return {kind: values.reshape(-1, facts.layers, facts.heads) for kind, values in arrays.items()}
