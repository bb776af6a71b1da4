"""How strongly each neuron composes with each attention head, from weights alone (authors' code).

Reads one model. Writes a safetensors file with ``k``, ``q``, ``v``, ``o`` (and, where the model is gated,
``o_up`` for w_up), each ``float32 [neurons, layers, heads]``. With unit neuron vectors, row vectors, and each
product over its Frobenius norm:

=====  ================================  ======================================================
array  value                             the neuron
=====  ================================  ======================================================
``k``  norm of ``w_out W_K W_Q^T``       changes what the head's keys offer
``q``  norm of ``w_out W_Q W_K^T``       changes what the head's queries look for
``v``  norm of ``w_out W_V W_O``         is moved by the head
``o``  norm of ``w_in (W_V W_O)^T``      reads what the head moves
=====  ================================  ======================================================

NaN where the one cannot reach the other: ``k``, ``q`` and ``v`` need a neuron before the head's layer, ``o``
one in the head's layer or after it, strictly after it where blocks are parallel. Rotations by position are
left out. Memory: four times d_model squared numbers per layer, and the result. The largest of each neuron
are columns of ``neurons.weights``, and so of the neuron table.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.devices import torch_device
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.tensors import write_tensors
from steps.neurons.transformer import Facts, Layer, Reader, open_reader, processed_layer, unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch


class Settings(BaseSettings):
    """How composition is computed."""

    device: str = Field("cpu", description="where products are computed")
    threads: int = Field(1, ge=1, description="arithmetic threads")


def triangle(right: torch.Tensor) -> torch.Tensor:
    """What stands in for ``right`` where only the norm of a product with it counts.

    ``x @ right`` and ``x @ triangle(right)`` have the same norm, but the latter has head_size columns.

    Args:
        right: ``[heads, head_size, d_model]``.

    Returns:
        ``[heads, head_size, head_size]``.
    """
    import torch

    return torch.linalg.qr(right.transpose(-1, -2), mode="r")[1].transpose(-1, -2)


def factors(layer: Layer) -> dict[str, torch.Tensor]:
    """For each kind ``[heads, d_model, head_size]``; a neuron's composition is the norm of its product."""
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

    def __init__(self, facts: Facts, device: str = "cpu") -> None:
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


class Largest:
    """The largest composition of each neuron of each kind, and with which head; of equal ones the first."""

    def __init__(self, facts: Facts, device: str) -> None:
        """Begin before the first layer."""
        import numpy as np

        self._whole = Composition(facts, device)
        self._width = facts.width
        count = facts.layers * facts.width
        self._best = {kind: np.full(count, np.nan, np.float32) for kind in self._whole.kinds}
        self._head = {kind: np.full((2, count), -1, np.int32) for kind in self._whole.kinds}

    def add(self, layer: Layer) -> None:
        """Take in the next layer, preprocessed."""
        import numpy as np

        for kind, neurons, head_layer, values in self._whole.add(layer):
            rows = slice(neurons * self._width, (neurons + 1) * self._width)
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


def composition(reader: Reader, device: str = "cpu") -> dict[str, np.ndarray]:
    """All arrays of the module's docstring."""
    import numpy as np

    facts, whole = reader.facts, Composition(reader.facts, device)
    shape = (facts.layers, facts.width, facts.layers, facts.heads)
    arrays = {kind: np.full(shape, np.nan, np.float32) for kind in whole.kinds}
    for raw in progress(reader.layers(), facts.layers, "layers of composition"):
        for kind, neurons, heads, values in whole.add(processed_layer(raw, facts)):
            arrays[kind][neurons, :, heads] = values
    return {kind: values.reshape(-1, facts.layers, facts.heads) for kind, values in arrays.items()}


def main(model: Path, settings: Settings, out: Output) -> None:
    """Write the composition of ``model``."""
    reader = open_reader(model)
    facts = {"model": model.parent.name, "layers": reader.facts.layers, "width": reader.facts.width}
    facts["parallel"] = reader.facts.parallel
    write_tensors(out, composition(reader, settings.device), facts)


if __name__ == "__main__":
    run(main)
