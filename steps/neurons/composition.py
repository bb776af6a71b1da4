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
left out. Memory: four times d_model squared numbers per layer, and the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.devices import torch_device
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.tensors import write_tensors
from steps.neurons.transformer import Layer, Reader, open_reader, processed_layer
from steps.neurons.weights import unit

if TYPE_CHECKING:
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


def composition(reader: Reader, device: str = "cpu") -> dict[str, np.ndarray]:
    """All arrays of the module's docstring."""
    import numpy as np

    facts, where = reader.facts, torch_device(device)
    kinds = ["k", "q", "v", "o"] + ["o_up"] * facts.gated
    shape = (facts.layers * facts.width, facts.layers, facts.heads)
    arrays = {kind: np.full(shape, np.nan, np.float32) for kind in kinds}
    heads: list[dict[str, torch.Tensor]] = []
    writers: list[torch.Tensor] = []
    # A neuron meets each head once: heads of earlier layers (and of its own) when its layer is read, those
    # of later layers when these are.
    for number, raw in enumerate(progress(reader.layers(), facts.layers, "layers of composition")):
        layer = processed_layer(raw, facts)
        heads.append({kind: factor.to(where) for kind, factor in factors(layer).items()})
        rows = slice(number * facts.width, (number + 1) * facts.width)
        readers = {"o": unit(layer.w_in.T)}
        if layer.w_up is not None:
            readers["o_up"] = unit(layer.w_up.T)
        for kind, vectors in readers.items():
            for earlier in range(number + (not facts.parallel)):
                found = norms(vectors.to(where), heads[earlier]["o"])
                arrays[kind][rows, earlier] = found.cpu().numpy()
        for earlier, written in enumerate(writers):
            before = slice(earlier * facts.width, (earlier + 1) * facts.width)
            for kind in ("k", "q", "v"):
                found = norms(written.to(where), heads[number][kind])
                arrays[kind][before, number] = found.cpu().numpy()
        for kind in ("k", "q", "v"):
            del heads[number][kind]
        writers.append(unit(layer.w_out))
    return arrays


def main(model: Path, settings: Settings, out: Output) -> None:
    """Write the composition of ``model``."""
    reader = open_reader(model)
    facts = {"model": model.parent.name, "layers": reader.facts.layers, "width": reader.facts.width}
    facts["parallel"] = reader.facts.parallel
    write_tensors(out, composition(reader, settings.device), facts)


if __name__ == "__main__":
    run(main)
