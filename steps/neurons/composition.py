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

from pydantic import Field

from steps.core.devices import Device
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.tensors import write_tensors
from steps.interp.composition import composition
from steps.interp.weights import open_reader


class Settings(BaseSettings):
    """How composition is computed."""

    device: Device = Field("cpu", description="where products are computed")
    threads: int = Field(1, ge=1, description="arithmetic threads")


def main(model: Path, settings: Settings, out: Output) -> None:
    """Write the composition of ``model``."""
    reader = open_reader(model)
    facts = {"model": model.parent.name, "layers": reader.facts.layers, "d_mlp": reader.facts.d_mlp}
    facts["parallel"] = reader.facts.parallel
    write_tensors(out, composition(reader, settings.device), facts)


if __name__ == "__main__":
    run(main)
