"""Models whose neurons have known functions, planted into their weights."""

from __future__ import annotations

from typing import Any

from tests.language_models.tiny_models import tiny_model

D_MODEL, WIDTH, LAYERS, VOCABULARY = 64, 48, 3, 600

PREDICTION = range(5)
SUPPRESSION = range(5, 9)
PARTITION = range(9, 13)
ENTROPY = range(13, 15)
"""Neurons of the last layer."""

CLASS = range(40, 52)
"""Tokens that prediction and suppression neurons are about."""


def planted_model(seed: int) -> Any:
    """A GPT-2 model with planted neurons in its last layer; all others are random directions.

    Noise is added to every planted neuron. Decoys, in layer 1: 0 has a large norm, 1 reads from tokens and
    writes to none of them in particular, 2 and 3 write the same vector but for noise.
    """
    import torch

    model = tiny_model(
        "gpt2_untied", VOCABULARY, seed=seed, n_embd=D_MODEL, n_inner=WIDTH, n_layer=LAYERS, n_head=4
    )
    generator = torch.Generator().manual_seed(1000 + seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(1.0)
        w_u = noise(VOCABULARY, D_MODEL)
        split = noise(D_MODEL)
        split -= split.mean()
        split /= split.norm()
        w_u += 4 * (torch.arange(VOCABULARY) % 2 * 2 - 1)[:, None] * split  # what partitions
        common = noise(D_MODEL)
        common = common - common.mean() - (common @ split) * split
        common /= common.norm()
        w_u -= (w_u @ common)[:, None] * common
        w_u[CLASS.start : CLASS.stop] += 12 * common
        hidden = noise(D_MODEL)
        for direction in (torch.full((D_MODEL,), D_MODEL**-0.5), split, common):
            hidden -= (hidden @ direction) * direction
        hidden /= hidden.norm()
        w_u -= 0.97 * (w_u @ hidden)[:, None] * hidden  # few tokens read it
        model.lm_head.weight.copy_(w_u)
        for block in model.transformer.h:
            block.mlp.c_proj.weight.copy_(noise(WIDTH, D_MODEL) / D_MODEL**0.5)
        last = model.transformer.h[-1].mlp.c_proj.weight
        jitter = 0.15 / D_MODEL**0.5
        for numbers, vector in (
            (PREDICTION, common),
            (SUPPRESSION, -common),
            (PARTITION, split),
            (ENTROPY, 8 * hidden),
        ):
            size = float(vector.norm())
            for number in numbers:
                last[number] = vector + jitter * size * noise(D_MODEL)
        last[ENTROPY.stop - 1] *= -1  # the partner that works against the other
        middle = model.transformer.h[1].mlp.c_proj.weight
        middle[0] *= 10
        middle[3] = middle[2] + 0.3 * noise(D_MODEL) / D_MODEL**0.5
    return model
