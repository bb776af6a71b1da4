"""What decides how much work a study is, what one job of it takes, and what reading activations costs."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pydantic import Field

from steps.core.settings import Settings as BaseSettings
from steps.interp.sizes import ModelSize

ITEM = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of a number."""

OPENED = 8.0
"""Bytes per token of opened activations: id, mask, and either of them once more while it is read."""

MANY_SOURCES = 32
"""How many sources of text are assumed."""

STARTED = 1000.0
"""Megabytes of a job that has loaded its libraries and nothing else, with some room."""

COLUMNS = 2000.0
"""Bytes of a row of a table of neurons while the table is put together."""

TOP_TOKEN = 200.0
"""Bytes of a row of a table of neurons' tokens while the tables of all models are put together."""

TOKEN_FEATURES = 207
"""Of ``explanations.features``."""

KINDS = ("forward", "within", "products", "rotations", "weights")
"""Of FLOPs."""


class Study(BaseSettings):
    """The chapter's section of the configuration, and what it takes from other sections."""

    section: dict[str, Any] = Field(description="of this chapter")
    models: list[ModelSize] = Field(min_length=1, description="that are compared, the reference first")
    pairs: list[tuple[int, int]] = Field(description="which of them are correlated")
    n_ctx: int = Field(ge=1, description="tokens per row")
    checkpoints: int = Field(0, ge=0, description="steps of training that are kept, the last one included")

    @functools.cached_property
    def settings(self) -> Any:
        """The section with a name for each key: ``study.settings.dump.tokens``."""
        return json.loads(json.dumps(self.section), object_hook=lambda values: SimpleNamespace(**values))

    @property
    def tokens(self) -> int:
        """Tokens whose activations are compared."""
        return int(self.settings.dump.tokens)

    @property
    def keeps_activations(self) -> bool:
        """Whether they are dumped once, instead of computed by every job that reads them."""
        return bool(self.settings.dump.source == "dump")

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        return min(int(self.settings.dump.block_tokens), self.tokens)

    @property
    def neurons(self) -> int:
        """Of all models."""
        return sum(model.neurons for model in self.models)

    @property
    def largest(self) -> ModelSize:
        """The model with the most neurons."""
        return max(self.models, key=lambda model: model.neurons)


@dataclasses.dataclass
class Job:
    """What one job takes."""

    held: float = 0.0
    """Bytes of memory beyond what every job needs."""
    forward: float = 0.0
    """FLOPs of forward passes."""
    within: float = 0.0
    """FLOPs of products within layers."""
    products: float = 0.0
    """FLOPs of products of pairs."""
    rotations: float = 0.0
    """FLOPs of rotations."""
    weights: float = 0.0
    """FLOPs of products of weights."""
    host: float = 0.0
    """Seconds of a core of the host, whatever the device, for what is no product."""
    read: float = 0.0
    """Bytes from disk."""
    written: float = 0.0
    """Bytes that stay."""
    temporary: float = 0.0
    """Bytes that are written and deleted once they are merged."""
    on_host: bool = False
    """Whether what takes memory lies in that of the host, whatever the device."""

    @property
    def flops(self) -> float:
        """Of all kinds."""
        return sum(getattr(self, kind) for kind in KINDS)

    @property
    def megabytes(self) -> float:
        """Of memory."""
        return STARTED + self.held / 1e6

    def add(self, cost: dict[str, float]) -> Job:
        """Itself, with a cost of reading activations on top."""
        self.forward += cost.get("forward", 0.0)
        self.read += cost.get("read", 0.0)
        return self


@dataclasses.dataclass(frozen=True)
class Formula:
    """What the jobs of a rule take."""

    jobs: Callable[[Study], list[Job]]
    on_request: bool = False
    """Whether the rule is no part of the chapter's target."""


def stored_bytes(study: Study, model: ModelSize, tokens: float) -> float:
    """Of a model's kept values, before compression."""
    return tokens * model.neurons * ITEM[study.settings.dump.dtype] * (2 if model.gated else 1)


def block_bytes(study: Study, model: ModelSize) -> float:
    """Of a block of post-activations."""
    return max(4.0, ITEM[study.settings.precision]) * study.block_tokens * model.neurons


def loaded_bytes(study: Study, model: ModelSize) -> float:
    """Of a model at work: its parameters, and again while they are converted; what a batch needs."""
    item = ITEM[study.settings.dump.compute_dtype]
    batch = 4096.0 * (8 * model.d_model + 3 * model.d_mlp) * item
    return (item + 4) * (model.parameters + model.embeddings) + batch


def computed_bytes(study: Study, model: ModelSize) -> float:
    """Of the model and of a block of what it computes, where no activations are kept."""
    if study.keeps_activations:
        return 0.0
    return loaded_bytes(study, model) + stored_bytes(study, model, study.block_tokens)


def reading_bytes(study: Study, model: ModelSize) -> float:
    """Held by whoever reads all of a model's activations: a block, its parts; what computes it."""
    return 2 * block_bytes(study, model) + computed_bytes(study, model)


def opened_bytes(study: Study, models: int = 1) -> float:
    """Of the activations of models that are open."""
    return OPENED * study.tokens * models


def reading(study: Study, tokens: float, *models: ModelSize) -> dict[str, float]:
    """What reading ``tokens`` of models costs: bytes, or forward passes."""
    if study.keeps_activations:
        return {"read": sum(stored_bytes(study, model, tokens) for model in models)}
    return {"forward": sum(tokens * model.forward(study.n_ctx) for model in models)}


def reading_layers(study: Study, tokens: float, model: ModelSize, layers: range) -> dict[str, float]:
    """What reading some layers costs: their bytes, or forward passes that stop after the last."""
    share = (len(layers) if study.keeps_activations else layers.stop) / model.layers
    return {kind: share * cost for kind, cost in reading(study, tokens, model).items()}


def neuron_table_bytes(study: Study) -> float:
    """Of what reads or makes the table of all neurons, of many columns, and a table of its own."""
    return 2 * COLUMNS * study.neurons


def embedding_bytes(model: ModelSize) -> float:
    """Of embedding and unembedding, as read and preprocessed, in float32."""
    return 4.0 * 5 * model.vocabulary * model.d_model


def layer_bytes(model: ModelSize) -> float:
    """Of a layer's weights, as read and preprocessed, in float32."""
    return 4.0 * 4 * model.parameters / model.layers
