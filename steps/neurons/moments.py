"""What one model's neurons do by themselves over a range of tokens, as sums that merge by addition.

Reads activations. Writes one safetensors file per token range (docs/neurons.md):

===================  =======================  =======================================================
array                shape, dtype             sums over the range
===================  =======================  =======================================================
``count``            [2], int64               kept tokens, all tokens
``pilot``            [neurons], float64       shift of post-activations (the same in every range)
``total``            [neurons], float64       shifted post-activations of kept tokens
``square``           [neurons], float64       their squares
``second``           [layers, d_mlp, d_mlp]   products of shifted post-activations within a layer
``pre_pilot``        [neurons], float64       shift of pre-activations (the same in every range)
``pre_powers``       [4, neurons], float64    powers 1 to 4 of shifted pre-activations, all tokens
``positive``         [neurons], int64         tokens with a pre-activation above 0, of all tokens
``top_value``        [neurons, examples]      largest post-activations of kept tokens, float32
``top_token_index``  [neurons, examples]      where they are (index into the tokens), int64
===================  =======================  =======================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.devices import Device
from steps.core.digest import code_digest
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.tensors import write_tensors
from steps.neurons.activations.store import Activations, PostActivations, Precision
from steps.neurons.correlations.moments import SingleNeurons, SingleNeuronsOnDevice, WithinLayers
from steps.neurons.correlations.products import range_blocks

if TYPE_CHECKING:
    pass


class Settings(BaseSettings):
    """How statistics are formed."""

    precision: Precision = Field("float32", description="of products; totals are float64 in either case")
    examples: int = Field(20, ge=1, le=10_000, description="top examples kept per neuron")
    device: Device = Field("cpu", description="where sums are formed")
    threads: int = Field(1, ge=1, description="arithmetic threads")


def main(activations: Path, ranges: int, index: int, settings: Settings, out: Output) -> None:
    """Sum over token range ``index`` of ``ranges``."""
    import numpy as np

    source = Activations(activations)
    blocks = range_blocks(source.blocks, ranges, index)
    post = PostActivations(source, settings.precision, device=settings.device)
    within = WithinLayers(source.layers, source.d_mlp, post.device)
    kind = SingleNeurons if post.device.type == "cpu" else SingleNeuronsOnDevice
    single = kind(source, settings.examples, post.device)
    for k in progress(blocks, len(blocks), f"{source.name}: blocks summed"):
        single.begin(k)
        within.add(post.block(k, single.add))
    within.finish()
    arrays = {
        "count": np.array([within.count, single.count]),
        "pilot": post.pilot,
        "total": within.total.numpy(),
        "square": within.second.diagonal(dim1=1, dim2=2).reshape(-1).numpy(),
        "second": within.second.numpy(),
        "pre_pilot": single.pilot.cpu().numpy(),
        "pre_powers": single.powers.cpu().numpy(),
        "positive": single.positive.cpu().numpy(),
        **single.top(),
    }
    facts = {
        "kind": "moments",
        "activations": source.store.fingerprint,
        "blocks": [blocks.start, blocks.stop],
        "precision": settings.precision,
        "code": code_digest("neurons.moments"),
    }
    write_tensors(out, arrays, facts)


if __name__ == "__main__":
    run(main)
