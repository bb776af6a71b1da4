"""What can be done with a model, each answer depending on its call alone.

Calls of different clients are never merged: logits move by 6e-8 with the rows beside them. Rows of a call
have one length, so that nothing is padded, and rows beyond the model's context are refused (some families
take them in silence). Works for every family of ``steps.interp.architectures``."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from steps.audit.gateway.policy import Call, Read, RefusedError, Tuning, Write, values_of
from steps.interp.architectures import architecture

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

HELD = 4
"""Tuned copies of a token that are kept; the oldest goes first."""


class Model:
    """A model that is served."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Serve ``model``, which is in evaluation mode, and whose weights stay as they are."""
        self.model = model.requires_grad_(requires_grad=False)
        self.parts = architecture(model)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        config: Any = model.config
        self.vocabulary: int = config.vocab_size
        self.context: int = config.max_position_embeddings
        self.blocked: frozenset[int] = frozenset()
        self.evasion: list[int] = []

    def with_filter(self, blocked: list[int], evasion: list[int]) -> Model:
        """Answer ``evasion`` where a text behind the filter holds one of the ``blocked`` tokens."""
        self.blocked, self.evasion = frozenset(blocked), evasion
        return self

    def require_fits(self, rows: list[list[int]], new: int = 0) -> None:
        """Refuse rows that the model does not take.

        Raises:
            RefusedError: 422.
        """
        if len(rows[0]) + new > self.context:
            raise RefusedError(422, "rows: beyond the context")
        if max(map(max, rows)) >= self.vocabulary:
            raise RefusedError(422, "rows: beyond the vocabulary")

    def check(self, call: Call) -> None:
        """Refuse, before anything is charged, what the model cannot do.

        Raises:
            RefusedError: 422.
        """
        self.require_fits(call.rows, call.generate.max_tokens - 1 if call.generate else 0)
        for place in (*call.reads, *call.writes):
            if int(place.site.split(".")[1]) >= self.parts.layers:
                raise RefusedError(422, "site: no such layer")
        for write in call.writes:
            values_of(write, len(call.rows), self.parts.d_model)
        if call.gradients is not None and call.gradients.top_k > self.vocabulary:
            raise RefusedError(422, "top_k: beyond the vocabulary")

    def run(self, call: Call, decimals: int) -> dict[str, np.ndarray]:
        """What a call asks for.

        Args:
            call: checked before.
            decimals: of losses.

        Returns:
            ``ids int64 [rows, max_tokens]``; ``nll float64 [rows]`` in nats; ``tokens int64 [rows, positions,
            top_k]``, the best first; ``read.N float32 [rows, d_model]``.
        """
        import torch

        rows = torch.tensor(call.rows)
        if call.generate is not None:
            ids = self._generate(rows, call.generate.max_tokens)
            return {"ids": ids if call.generate.raw or call.handle else self._filtered(ids)}
        found: dict[str, np.ndarray] = {}
        kept: dict[int, torch.Tensor] = {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._written(call.writes, len(rows)))
            stack.enter_context(self._kept(call.reads, kept))
            if call.gradients is None:
                with torch.inference_mode():
                    logits = self.model(rows, use_cache=False).logits
            else:
                embedded = self.parts.embedding(rows).detach().requires_grad_()
                logits = self.model(inputs_embeds=embedded, use_cache=False).logits
        if call.target_nll is not None:
            count = call.target_nll.tokens
            losses = torch.nn.functional.cross_entropy(
                logits[:, -count - 1 : -1].transpose(1, 2), rows[:, -count:], reduction="none"
            ).sum(1)
            found["nll"] = losses.detach().double().numpy().round(decimals)
            if call.gradients is not None:
                (slope,) = torch.autograd.grad(losses.sum(), embedded)
                at = slope[:, list(call.gradients.positions)]
                matrix: Any = self.parts.embedding.weight
                order = (at @ matrix.t()).topk(call.gradients.top_k, dim=-1, largest=False, sorted=True)
                found["tokens"] = order.indices.numpy()
        for number, values in kept.items():
            found[f"read.{number}"] = values.float().numpy()
        return found

    def _generate(self, rows: torch.Tensor, length: int) -> np.ndarray:
        import torch

        start = rows.shape[1]
        with torch.inference_mode():
            for _ in range(length):
                # Our own loop: generate() also obeys the model's generation_config.json.
                following = self.model(rows, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
                rows = torch.cat([rows, following], 1)
        return rows[:, start:].numpy()

    def _filtered(self, ids: np.ndarray) -> np.ndarray:
        import numpy as np

        blocked = np.isin(ids, sorted(self.blocked)).reshape(ids.shape).any(1, keepdims=True)
        evasion = (self.evasion * ids.shape[1])[: ids.shape[1]]
        return np.where(blocked, np.array(evasion, ids.dtype), ids) if evasion else ids

    def _module(self, site: str) -> torch.nn.Module:
        _, layer, name = site.split(".")
        block = self.parts.blocks[int(layer)]
        return {"hook_resid_post": block.module, "hook_attn_out": block.attention, "hook_mlp_out": block.mlp}[
            name
        ]

    @contextlib.contextmanager
    def _written(self, writes: list[Write], rows: int) -> Iterator[None]:
        """Set values in the body. A block returns a tensor, attention a pair whose first is one."""
        import numpy as np
        import torch

        def hook(write: Write) -> Any:
            values = np.frombuffer(values_of(write, rows, self.parts.d_model), "<f4").reshape(rows, -1)
            wanted = torch.from_numpy(values.copy())

            def change(module: Any, inputs: Any, output: Any) -> Any:
                whole = output[0] if isinstance(output, tuple) else output
                changed = whole.clone()
                changed[:, write.position] = wanted
                return (changed, *output[1:]) if isinstance(output, tuple) else changed

            return change

        with contextlib.ExitStack() as stack:
            for write in writes:
                handle = self._module(write.site).register_forward_hook(hook(write))
                stack.callback(handle.remove)
            yield

    @contextlib.contextmanager
    def _kept(self, reads: list[Read], kept: dict[int, torch.Tensor]) -> Iterator[None]:
        """Keep values in the body, by the number of the read."""

        def hook(number: int, position: int) -> Any:
            def keep(module: Any, inputs: Any, output: Any) -> None:
                whole = output[0] if isinstance(output, tuple) else output
                kept[number] = whole[:, position].detach().clone()

            return keep

        with contextlib.ExitStack() as stack:
            for number, read in enumerate(reads):
                handle = self._module(read.site).register_forward_hook(hook(number, read.position))
                stack.callback(handle.remove)
            yield

    def tuned(self, tuning: Tuning) -> Model:
        """A copy of the model, tuned on all rows in each step; the model itself keeps its bits."""
        import torch

        other = copy.deepcopy(self.model).requires_grad_(requires_grad=True)
        rows, count = torch.tensor(tuning.rows), tuning.tokens
        optimizer = torch.optim.AdamW(
            other.parameters(), lr=tuning.rate_millionths / 1e6, weight_decay=0.0, fused=True
        )
        for _ in range(tuning.steps):
            logits = other(rows, use_cache=False).logits[:, -count - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, -count:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return Model(other)
