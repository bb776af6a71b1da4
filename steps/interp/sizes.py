"""The size of a model, as its ``config.json`` says; opens neither weights nor libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from steps.core.errors import UserError
from steps.core.settings import Settings


class ModelSize(Settings):
    """The size of a model."""

    name: str
    layers: int = Field(ge=1)
    d_mlp: int = Field(ge=1, description="neurons per layer")
    d_model: int = Field(ge=1)
    heads: int = Field(ge=1, description="per layer")
    vocabulary: int = Field(ge=1, description="rows of the embedding")
    gated: bool = False
    read_from: str = Field("", description="the file or setting that says so")

    @property
    def neurons(self) -> int:
        """Of all layers."""
        return self.layers * self.d_mlp

    @property
    def vectors(self) -> int:
        """Of each neuron: one that writes, one or two that read."""
        return 3 if self.gated else 2

    @property
    def embeddings(self) -> float:
        """Parameters of embedding and unembedding."""
        return 2.0 * self.vocabulary * self.d_model

    @property
    def parameters(self) -> float:
        """Of all blocks; neither embeddings nor vectors."""
        return self.layers * (4.0 * self.d_model**2 + self.vectors * self.d_model * self.d_mlp)

    def forward(self, context: int) -> float:
        """FLOPs per token of the blocks in rows of ``context``: attention in full, no unembedding."""
        return 2 * self.parameters + 4.0 * context * self.d_model * self.layers


def local_configuration(path: str | None, hub: str | None, revision: str | None) -> Path | None:
    """The ``config.json`` of a model in a local folder or, downloaded before, in the hub's cache."""
    if path is not None:
        found: Any = str(Path(path).expanduser() / "config.json")
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(str(hub), "config.json", revision=revision)
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def model_size(name: str, config: Path) -> ModelSize:
    """The size of the model that a ``config.json`` describes.

    Raises:
        UserError: it is no JSON, or says no sizes.
    """
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        hidden = values["n_embd"] if "n_embd" in values else values["hidden_size"]
        d_mlp = values.get("n_inner") if "n_embd" in values else values["intermediate_size"]
        return ModelSize(
            name=name,
            layers=values["n_layer"] if "n_layer" in values else values["num_hidden_layers"],
            d_mlp=d_mlp or 4 * hidden,
            d_model=hidden,
            heads=values["n_head"] if "n_head" in values else values["num_attention_heads"],
            vocabulary=values["vocab_size"],
            gated=values.get("model_type") in ("llama", "qwen2"),
            read_from=str(config),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(
            f"{config}: found no sizes of a model in it ({type(error).__name__}: {error}), expected those of"
            " GPT-2, GPT-NeoX or Llama; check the file"
        ) from None
