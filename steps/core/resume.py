"""A loop over NumPy arrays that was killed at any moment and ends with the same bits, without torch.

The contract of ``core.training.Training``, for jobs that importing torch would double::

    job = Resumable(folder / ".learning.safetensors", made_from, {"values": values})
    for step in job.steps(total, "sweeps of seed-1"):
        generator = np.random.default_rng(seed(..., step))
        values += ...                     # in place
        job.curve.append({"step": step + 1})
    ...                                   # write what was made
    job.finish()

Random numbers of a step derive from the step's number, so that no generator's state is kept. What steps
change are the arrays, in place, and the curve. The state is one safetensors file, written aside and renamed,
at times without influence on the result; its metadata is JSON: step, curve, the fingerprint of what decides
the result, and a hash over all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.digest import fingerprint
from steps.core.locks import held
from steps.core.runner import progress

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("reprise")


class Resumable:
    """A loop whose state outlives the process."""

    def __init__(
        self, state: Path, made_from: Any, arrays: Mapping[str, np.ndarray], save_seconds: float = 30.0
    ) -> None:
        """Start, or go on where the state in the file ends, once no other process works from it.

        Args:
            state: the file of the state; removed by :meth:`finish`.
            made_from: everything that decides the result, as JSON; a state made from something else is
                not used.
            arrays: by name, as they are before the first step; steps change them in place.
            save_seconds: time between writings of the state; 0 writes it after every step.
        """
        self.curve: list[dict[str, Any]] = []
        self.step = 0
        """Number of steps done, which is also the number of the next one."""
        self._path = state
        self._partial = state.with_name(f"{state.name}.part")
        self._fingerprint = fingerprint(made_from)
        self._arrays = arrays
        self._save_seconds = save_seconds
        lock = contextlib.ExitStack()
        lock.enter_context(held(state))
        self._unlock = weakref.finalize(self, lock.close)  # by finish(), or where that is not reached
        if state.exists():
            self._resume()

    def steps(self, total: int, label: str) -> Iterator[int]:
        """The numbers of the steps that remain, from 0 to ``total`` - 1 in a job never killed.

        Args:
            total: steps of the whole job.
            label: what progress lines say is being done (``sweeps of seed-1``).
        """
        saved, last = self.step, time.monotonic()
        for step in progress(range(self.step, total), total - self.step, label):
            yield step
            self.step = step + 1
            if time.monotonic() - last >= self._save_seconds:
                self._save()
                saved, last = self.step, time.monotonic()
        if saved != self.step and time.monotonic() - last >= self._save_seconds:
            self._save()

    def finish(self) -> None:
        """Remove the state; to be called once the results are written."""
        self._path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)
        self._unlock()

    def _save(self) -> None:
        import numpy as np
        from safetensors.numpy import save_file

        about = json.dumps({"fingerprint": self._fingerprint, "step": self.step, "curve": self.curve})
        digest = _digest(self._arrays, about)
        whole = {name: np.ascontiguousarray(values) for name, values in self._arrays.items()}
        try:
            save_file(whole, self._partial, metadata={"about": about, "digest": digest})
            os.replace(self._partial, self._path)
        except BaseException:
            self._partial.unlink(missing_ok=True)
            raise

    def _resume(self) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path, framework="numpy") as file:
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
            about = json.loads(metadata["about"])
            whole = metadata["digest"] == _digest(kept, metadata["about"])
        except (SafetensorError, KeyError, ValueError):
            whole = False
        if not whole:
            logger.warning("%s: damaged; starting again from the beginning", self._path)
            return
        if about["fingerprint"] != self._fingerprint:
            logger.info("%s: made with other settings, data, code or libraries; starting again", self._path)
            return
        for name, array in self._arrays.items():
            array[...] = kept[name]
        self.step, self.curve = about["step"], about["curve"]
        logger.info("resuming after step %d", self.step)


def _digest(arrays: Mapping[str, np.ndarray], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {list(array.shape)}".encode())
        digest.update(array.reshape(-1).view("uint8").data)
    return digest.hexdigest()
