"""Pre-activations of every MLP layer of a model, in one forward pass."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError
from steps.core.stores import Folder
from steps.interp.loading import weights_fingerprint

if TYPE_CHECKING:
    import numpy as np
    import torch


class _EnoughLayers(Exception):  # noqa: N818 (no error)
    """Ends a forward pass whose later layers nobody asked for."""


class PreActivations:
    """A model that turns rows of tokens into pre-activations, rounded as they are kept."""

    def __init__(
        self, ledger: Path, device: str, compute_dtype: str, dtype: str, batch_tokens: int = 4096
    ) -> None:
        """Load the model of a ``language_model`` ledger and hook into its MLP layers."""
        from steps.interp.loading import load

        model = load(ledger, device=device, dtype=compute_dtype)
        self.fingerprint = weights_fingerprint(Folder(ledger, "language_model"))
        self._prepare(model, dtype, batch_tokens, str(ledger))

    def _prepare(self, model: Any, dtype: str, batch_tokens: int, name: str) -> None:
        import torch

        from steps.interp.architectures import architecture

        parts = architecture(model)
        self.model = model.base_model  # without the unembedding
        self.layers = parts.layers
        self.d_mlp = parts.d_mlp
        self.activation = parts.activation
        self.names = ("pre", "up") if parts.gated else ("pre",)
        self.dtype = dtype
        self._name = name
        self.device = next(model.parameters()).device
        self._batch_tokens = batch_tokens
        self._out: list[torch.Tensor] = []
        self._at = slice(0, 0)
        self._wanted = self.layers
        self._largest = torch.zeros((len(self.names), self.layers), device=self.device)
        for layer, block in enumerate(parts.blocks):
            for number, module in enumerate((block.pre, block.up)):
                if module is not None:
                    module.register_forward_hook(self._keep(number, layer))
            block.down.register_forward_pre_hook(self._end(layer))

    @classmethod
    def of(cls, model: Any, dtype: str = "float16", batch_tokens: int = 4096) -> PreActivations:
        """The same for a model in memory."""
        self = cls.__new__(cls)
        self._prepare(model, dtype, batch_tokens, type(model).__name__)
        return self

    def _keep(self, number: int, layer: int) -> Any:
        import torch

        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            low, high = output.aminmax()
            here = torch.maximum(-low, high).float()
            self._largest[number, layer] = torch.maximum(self._largest[number, layer], here)
            self._out[number][layer, self._at] = output.reshape(-1, self.d_mlp)

        return hook

    def _end(self, layer: int) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            if layer + 1 == self._wanted < self.layers:
                raise _EnoughLayers

        return hook

    def __call__(self, rows: np.ndarray, layers: int | None = None) -> list[torch.Tensor]:
        """What is kept of ``rows`` (``int [rows, context]``): ``[layers, rows * context, d_mlp]`` each.

        On the model's device. In the order of ``names``. Of the first ``layers`` (all by default), after
        which the model stops.

        Raises:
            UserError: a value is beyond what is kept, or not a number.
        """
        import torch

        context = rows.shape[1]
        self._wanted = self.layers if layers is None else layers
        shape, dtype = (self._wanted, rows.size, self.d_mlp), getattr(torch, self.dtype)
        self._out = [torch.empty(shape, dtype=dtype, device=self.device) for _ in self.names]
        self._largest.zero_()
        batch = max(1, self._batch_tokens // context)
        ids = torch.from_numpy(rows).long().to(self.device)
        with torch.inference_mode():
            for start in range(0, len(rows), batch):
                part = ids[start : start + batch]
                self._at = slice(start * context, start * context + part.numel())
                with contextlib.suppress(_EnoughLayers):
                    self.model(part, use_cache=False)
        self._require_finite()
        out, self._out = self._out, []
        return out

    def _require_finite(self) -> None:
        limit = 65504.0 if self.dtype == "float16" else 3.4e38
        for name, largest in zip(self.names, self._largest.tolist(), strict=True):
            for layer, value in enumerate(largest):
                if not value <= limit:
                    what = "pre-activation" if name == "pre" else "factor of the gate"
                    remedy = (
                        "set neurons.dump.dtype to float32"
                        if value < float("inf")
                        else "its weights are damaged or overflow; use another model"
                    )
                    raise UserError(
                        f"{self._name}: a {what} of {value:g} in layer {layer} is beyond {self.dtype};"
                        f" {remedy}"
                    )
