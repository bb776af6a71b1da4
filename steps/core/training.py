"""The one training loop: killed at any moment and started again, it ends with the same bits.

A chapter writes its step as the body of a ``for``::

    training = Training(folder / ".training.safetensors", made_from, {"model": model}, {"adam": optimizer})
    for step in training.steps(total, seed, "steps of seed-1"):
        set_rate(optimizer, rate * cosine(step, total, warmup))
        ...
        training.curve.append({"step": step + 1, "loss": loss.item()})
    ...                      # write what was trained
    training.finish()

What makes it exact:

- random numbers of a step depend on the seed and the step's number alone: torch's generators are
  reseeded before each step, so none of their state needs to be kept. A step draws its batch, noise
  and dropout from torch, or from a generator that it seeds from the step's number;
- rates and other settings of an optimizer are set from the step's number in each step;
- everything else that changes is handed over and kept: the parameters and persistent buffers of
  modules, the tensors in optimizers, further tensors (a replay buffer), the curve;
- the state is written to a temporary file and renamed, at times that have no influence on the result.

The state is one safetensors file; its metadata is JSON: step, curve, the fingerprint of what decides
the result, and a hash over all of it.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.digest import seed as derive
from steps.core.errors import UserError
from steps.core.resume import Loop

if TYPE_CHECKING:
    import numpy as np
    import torch


logger = logging.getLogger("reprise")


class Training(Loop):
    """A training whose state outlives the process."""

    again = "training starts again"
    framework = "pt"

    def __init__(
        self,
        state: Path,
        made_from: Any,
        modules: Mapping[str, torch.nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        tensors: Mapping[str, torch.Tensor] | None = None,
        save_seconds: float = 30.0,
    ) -> None:
        """Start, or go on where the state in the file ends, once no other process trains from it.

        Args:
            state: the file of the state; removed by :meth:`finish`.
            made_from: everything that decides the result, as JSON; a state made from something else
                is not used. Another total number of steps is something else where rates depend on it.
            modules: by name, as they are before the first step.
            optimizers: by name, likewise.
            tensors: further tensors that steps change in place.
            save_seconds: time between writings of the state; 0 writes it after every step.
        """
        self._modules = modules
        self._optimizers = optimizers
        self._tensors = tensors or {}
        super().__init__(state, made_from, save_seconds)

    def steps(self, total: int, seed: int, label: str) -> Iterator[int]:
        """The numbers of the steps that remain, from 0 to ``total`` - 1 in a training never killed.

        Args:
            total: steps of the whole training.
            seed: of this training; random numbers of each step derive from it.
            label: what progress lines say is being done (``steps of seed-1``).
        """
        import torch

        for step in self._remaining(total, label):
            torch.manual_seed(derive(seed, "training", step))
            yield step
        if self._saved != self.step:
            self._save()

    def _values(self) -> dict[str, torch.Tensor]:
        """Everything that steps change, by name, apart from optimizers; shared tensors once."""
        values = {f"tensors/{name}": tensor for name, tensor in self._tensors.items()}
        seen = set()
        for module_name, module in self._modules.items():
            for name, tensor in module.state_dict(keep_vars=True).items():
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    values[f"modules/{module_name}/{name}"] = tensor
        return values

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        values = self._values()
        numbers: dict[str, Any] = {}
        for name, optimizer in self._optimizers.items():
            for index, entries in optimizer.state_dict()["state"].items():
                for key, value in entries.items():
                    where = values if isinstance(value, torch.Tensor) else numbers
                    where[f"optimizers/{name}/{index}/{key}"] = value
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in values.items()}
        return kept, {"numbers": numbers}

    def _restore(self, kept: dict[str, Any], about: dict[str, Any]) -> None:
        import torch

        kept = {name: tensor.clone() for name, tensor in kept.items()}
        with torch.no_grad():
            for name, tensor in self._values().items():
                tensor.copy_(kept.pop(name))
        for name, optimizer in self._optimizers.items():
            entries: dict[int, dict[str, Any]] = {}
            for full, value in [*kept.items(), *about["numbers"].items()]:
                kind, owner, rest = full.split("/", 2)
                if (kind, owner) == ("optimizers", name):
                    index, key = rest.split("/", 1)
                    entries.setdefault(int(index), {})[key] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": entries, "param_groups": groups})

    def _bytes(self, value: torch.Tensor) -> Any:
        import torch

        return value.reshape(-1).view(torch.uint8).numpy().data

    def _writer(self) -> Callable[..., None]:
        from safetensors.torch import save_file

        return save_file


def cosine(step: int, total: int, warmup: int, floor: float = 0.1) -> float:
    """The share of the peak rate in a step: linear warm-up, then half a cosine down to ``floor``.

    Args:
        step: its number, from 0.
        total: steps of the whole training.
        warmup: steps until the peak.
        floor: share of the peak after the last step.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def decay_groups(parameters: Iterable[torch.nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer, of which matrices decay (by ``decay``) and vectors do not."""
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def batch_of(step: int, rows: int, batch: int, seed: int, name: str) -> np.ndarray:
    """The numbers of the rows of a step: the next ``batch`` of an endless row of permutations.

    Args:
        step: its number, from 0.
        rows: how many there are.
        batch: rows per step.
        seed: of this training.
        name: of the workflow's step that trains (``language_models.train``).
    """
    import numpy as np

    wanted = np.arange(step * batch, (step + 1) * batch)
    epochs, places = np.divmod(wanted, rows)
    numbers = [_order(seed, name, int(epoch), rows)[places[epochs == epoch]] for epoch in np.unique(epochs)]
    return np.concatenate(numbers)


@functools.lru_cache(maxsize=2)
def _order(seed: int, name: str, epoch: int, rows: int) -> np.ndarray:
    import numpy as np

    return np.random.default_rng(derive(seed, name, "order", epoch)).permutation(rows)


def spaced(total: int, count: int, spacing: str) -> list[int]:
    """Up to ``count`` numbers of steps between 1 and ``total`` - 1, evenly spaced or (``log``) ever wider."""
    if spacing == "log":
        steps = {round(total ** (k / count)) for k in range(count)}
    else:
        steps = {round(total * (k + 1) / (count + 1)) for k in range(count)}
    return sorted(step for step in steps if 1 <= step < total)


def require_finite(loss: float, kind: str, step: int, total: int, remedy: str) -> None:
    """Stop a training that diverged.

    Args:
        loss: the loss.
        kind: which one (``training``).
        step: number of steps done.
        total: steps of the whole training.
        remedy: what the user can change.

    Raises:
        UserError: the loss is infinite or no number.
    """
    if not math.isfinite(loss):
        raise UserError(
            f"step {step} of {total}: found a {kind} loss of {loss}, expected a number: the training"
            f" diverged; {remedy}"
        )


def prepare(threads: int) -> None:
    """Set up torch for training: threads, kernels that give the same bits twice, memory.

    The C library otherwise gives the memory of every large tensor back to the system and takes it
    again, page by page, in each step (measured: 5 % of the time on one thread).

    Args:
        threads: arithmetic threads.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # names in <malloc.h>
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, (1 << 31) - 1)
