"""Losses of language models on held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from steps.core.devices import Device, DType
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import ArrayReader, Folder, read_array

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel


TOKENS_AT_ONCE = 4096


LOGITS_AT_ONCE = 1 << 25
"""Bounds the memory of an evaluation where the vocabulary is large."""


class Settings(BaseSettings):
    """On what, where and how models are evaluated."""

    rows: int = Field(
        1000,
        ge=1,
        le=10**9,
        description="held-out rows on which losses are measured; all where there are fewer",
    )
    device: Device = Field("cpu", description="where models run")
    dtype: DType = Field("float32", description="of the models: float32, float64, bfloat16 or float16")
    threads: int = Field(1, ge=1, le=1024, description="arithmetic threads")


class Loss(NamedTuple):
    """Losses in nats."""

    by_row: np.ndarray
    """Sum over the targets of each row, ``float64 [rows]``."""
    targets_per_row: int

    @property
    def mean(self) -> float:
        """Per token."""
        return float(self.by_row.sum() / (len(self.by_row) * self.targets_per_row))


def loss_of(model: PreTrainedModel, rows: np.ndarray) -> Loss:
    """The loss of a model on rows of token ids.

    Args:
        model: in evaluation mode.
        rows: ``int [rows, context]``.
    """
    import numpy as np
    import torch

    count, context = rows.shape
    device = next(model.parameters()).device
    batch = max(1, min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // model.config.vocab_size) // context)
    sums = []
    with torch.inference_mode():
        for start in range(0, count, batch):
            part = torch.from_numpy(rows[start : start + batch]).long().to(device)
            logits = model(part[:, :-1], use_cache=False).logits.float()
            losses = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none"
            )
            sums.append(losses.view(len(part), -1).double().sum(1).cpu().numpy())
    return Loss(np.concatenate(sums), context - 1)


def held_out(rows: Folder, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` held-out rows, which are in random order, and their sources."""
    tokens = ArrayReader(rows, "held_out").read(slice(0, count))
    return tokens, read_array(rows, "held_out_source")[:count]
