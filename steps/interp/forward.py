"""One forward pass that is kept, and what follows from changing it: for the steps that intervene.

A neuron of block ``l`` writes ``value * w_out`` into the residual stream after its block, also where
attention and MLP lie side by side. So a changed value needs no new pass: ``(new - old) * w_out`` is added to
the kept residual stream and only the later blocks are run again, none for the last block's neurons.
Works for every family of ``steps.interp.architectures``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from steps.core.devices import Device
from steps.core.settings import Settings
from steps.interp.architectures import Architecture, architecture
from steps.interp.weights import WeightReader, processed_ends

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch


class ModelSettings(Settings):
    """How a step runs a model; those that do build their settings on these."""

    dtype: Literal["float32", "float64"] = Field("float32", description="of the model: float32 or float64")
    device: Device = Field("cpu", description="where the model runs")
    batch_tokens: int = Field(4096, ge=1, description="tokens per forward pass, rounded down to whole rows")
    threads: int = Field(1, ge=1, description="arithmetic threads")


@dataclasses.dataclass
class CleanRun:
    """What is kept of one pass over rows of tokens."""

    residual: list[torch.Tensor]
    """Before each block and, last, before the final norm: ``[rows, context, d_model]``."""
    pre: dict[int, torch.Tensor]
    """Pre-activations (gated MLPs: of the gate) of the layers asked for: ``[rows, context, d_mlp]``."""
    up: dict[int, torch.Tensor]
    """What activated gates are multiplied by; empty where MLPs are not gated."""
    post: dict[int, torch.Tensor]
    """The neurons' values (post-activations)."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    """What each block was called with besides the residual stream."""


class Forward:
    """A model that keeps a forward pass and can be run again from any block of it."""

    def __init__(self, model: Any) -> None:
        """Listen to ``model``, a causal language model in evaluation mode."""
        self.model = model
        self.parts: Architecture = architecture(model)
        self.reader = WeightReader(model)
        self.facts = self.reader.facts
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._written: dict[int, torch.Tensor] = {}
        self._clean: CleanRun | None = None
        self._layers: frozenset[int] = frozenset()
        for number, block in enumerate(self.parts.blocks):
            block.module.register_forward_pre_hook(self._enter, with_kwargs=True)
            block.pre.register_forward_hook(self._keep("pre", number))
            if block.up is not None:
                block.up.register_forward_hook(self._keep("up", number))
            block.down.register_forward_pre_hook(self._keep_input(number))
        self.parts.final_norm.register_forward_pre_hook(self._leave)

    def _enter(self, module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._clean is not None:
            named = dict(named)
            residual = named.pop("hidden_states") if not inputs else inputs[0]
            self._clean.residual.append(residual)
            self._clean.calls.append((inputs[1:], named))

    def _leave(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if self._clean is not None:
            self._clean.residual.append(inputs[0])

    def _keep(self, name: str, layer: int) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            if self._clean is not None and layer in self._layers:
                getattr(self._clean, name)[layer] = output

        return hook

    def _keep_input(self, layer: int) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if self._clean is not None and layer in self._layers:
                self._clean.post[layer] = inputs[0]

        return hook

    def run(self, rows: np.ndarray, layers: set[int] | None = None) -> CleanRun:
        """One pass over ``rows`` (int ``[rows, context]``), keeping the neurons of ``layers`` too."""
        import torch

        tokens = torch.from_numpy(rows).long().to(self.device)
        self._clean, self._layers = CleanRun([], {}, {}, {}, []), frozenset(layers or ())
        try:
            self.model.base_model(tokens, use_cache=False)  # without the unembedding
            return self._clean
        finally:
            self._clean = None

    def run_from_layer(self, clean: CleanRun, layer: int, residual: torch.Tensor) -> torch.Tensor:
        """The residual stream before the final norm, where after block ``layer`` it is ``residual``."""
        for block, (inputs, named) in zip(
            self.parts.blocks[layer + 1 :], clean.calls[layer + 1 :], strict=True
        ):
            residual = block.module(residual, *inputs, **named)
        return residual

    def written(self, layer: int, neurons: list[int]) -> torch.Tensor:
        """What neurons of a layer write per unit of their value (``w_out``, as stored): ``[n, d_model]``."""
        if layer not in self._written:
            self._written[layer] = self.reader.layer(layer).w_out  # a view
        return self._written[layer][neurons]


class Readout:
    """The final norm and the unembedding, as ``centred residual @ weight / scale + bias``.

    Logits are those of the model minus their mean over the vocabulary. Changes by ``delta * w_out`` are
    changes of rank one: nothing is multiplied out again for them.
    """

    def __init__(self, forward: Forward) -> None:
        """Fold the final norm's gain and bias into the unembedding."""
        self.facts = forward.facts
        ends = processed_ends(forward.reader.ends(), self.facts)
        self.weight, self.bias = ends.w_u.contiguous(), ends.b_u

    def centre(self, residual: torch.Tensor) -> torch.Tensor:
        """The residual stream as the final norm sees it: LayerNorm takes its mean away."""
        return residual - residual.mean(-1, keepdim=True) if self.facts.norm == "layer" else residual

    def scale(self, residual: torch.Tensor) -> torch.Tensor:
        """What the final norm divides by, ``[..., 1]``: root of the variance plus epsilon."""
        return (self.centre(residual).square().mean(-1, keepdim=True) + self.facts.norm_eps).sqrt()

    def directions(self, residual: torch.Tensor) -> torch.Tensor:
        """Logits before the division and the bias, ``[..., vocabulary]``; linear in the residual stream."""
        return self.centre(residual) @ self.weight

    def measure(
        self, directions: torch.Tensor, scale: torch.Tensor, target: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What is recorded of each token's prediction; see ``MEASURES``.

        Args:
            directions: ``[tokens, vocabulary]``, see :meth:`directions`.
            scale: ``[tokens, 1]``.
            target: ``int64 [tokens]``, the true next tokens.
        """
        log_p = (directions / scale).add_(self.bias).log_softmax(-1)
        true = log_p.gather(-1, target[:, None])
        rank = (log_p > true).sum(-1).to(log_p.dtype)
        return {
            "scale": scale[:, 0],
            "entropy": -(log_p.exp().mul_(log_p)).sum(-1),
            "loss": -true[:, 0],
            "rank": rank,
            "reciprocal_rank": 1 / (rank + 1),
        }


MEASURES = ("scale", "entropy", "loss", "rank", "reciprocal_rank")
"""Of each token: the final norm's scale, entropy and loss (nats), the 0-based rank of the true next token
(how many tokens have a larger logit) and 1 / (rank + 1)."""


def row_batches(rows: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Rows in batches of at most ``batch_tokens`` tokens, one row at least."""
    step = max(1, batch_tokens // rows.shape[1])
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
