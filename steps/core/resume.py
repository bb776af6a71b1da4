"""A loop that was killed at any moment and ends with the same bits, without torch.

Over NumPy arrays, for jobs that importing torch would double; ``core.training.Training`` is one, too::

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.digest import fingerprint
from steps.core.locks import held
from steps.core.runner import progress

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("reprise")


class Loop:
    """What all loops share whose state outlives the process: its file, when it is written, and steps."""

    again = "starting again"
    """What the log says of a state that is of no use."""

    framework = "numpy"
    """Of whose kind the values in the file are, as safetensors calls it."""

    def __init__(self, state: Path, made_from: Any, save_seconds: float) -> None:
        """Start, or go on where the state in the file ends, once no other process works from it.

        Args:
            state: the file of the state; removed by :meth:`finish`.
            made_from: everything that decides the result, as JSON; a state made from something else is
                not used.
            save_seconds: time between writings of the state; 0 writes it after every step.
        """
        self.curve: list[dict[str, Any]] = []
        self.step = 0
        """Number of steps done, which is also the number of the next one."""
        self._path = state
        self._partial = state.with_name(f"{state.name}.part")
        self._fingerprint = fingerprint(made_from)
        self._save_seconds = save_seconds
        lock = contextlib.ExitStack()
        lock.enter_context(held(state))
        self._unlock = weakref.finalize(self, lock.close)  # by finish(), or where that is not reached
        if state.exists():
            self._resume()
        self._saved = self.step

    def _remaining(self, total: int, label: str) -> Iterator[int]:
        """The numbers of the steps that remain; the state is written between them."""
        last = time.monotonic()
        for step in progress(range(self.step, total), total - self.step, label):
            yield step
            self.step = step + 1
            if time.monotonic() - last >= self._save_seconds:
                self._save()
                last = time.monotonic()

    def finish(self) -> None:
        """Remove the state; to be called once the results are written."""
        self._path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)
        self._unlock()

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What steps change, by name: values for the file, and what JSON holds beside step and curve."""
        raise NotImplementedError

    def _restore(self, kept: dict[str, Any], about: dict[str, Any]) -> None:
        """Put back what :meth:`_state` gave."""
        raise NotImplementedError

    def _bytes(self, value: Any) -> Any:
        """A value's bytes, as a buffer."""
        raise NotImplementedError

    def _writer(self) -> Callable[..., None]:
        """The ``save_file`` of safetensors for such values."""
        raise NotImplementedError

    def _save(self) -> None:
        values, further = self._state()
        about = json.dumps(
            {"fingerprint": self._fingerprint, "step": self.step, "curve": self.curve, **further}
        )
        metadata = {"about": about, "digest": self._digest(values, about)}
        try:
            self._writer()(values, self._partial, metadata=metadata)
            os.replace(self._partial, self._path)
        except BaseException:
            self._partial.unlink(missing_ok=True)
            raise
        self._saved = self.step

    def _resume(self) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path, framework=self.framework) as file:
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
            about = json.loads(metadata["about"])
            whole = metadata["digest"] == self._digest(kept, metadata["about"])
        except (SafetensorError, KeyError, ValueError):
            whole = False
        if not whole:
            logger.warning("%s: damaged; %s from the beginning", self._path, self.again)
            return
        if about["fingerprint"] != self._fingerprint:
            said = "%s: made with other settings, data, code or libraries; %s"
            logger.info(said, self._path, self.again)
            return
        self._restore(kept, about)
        self.step, self.curve = about["step"], about["curve"]
        logger.info("resuming after step %d", self.step)

    def _digest(self, values: Mapping[str, Any], about: str) -> str:
        digest = hashlib.sha256(about.encode())
        for name in sorted(values):
            value = values[name]
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(self._bytes(value))
        return digest.hexdigest()


class Resumable(Loop):
    """A loop over NumPy arrays."""

    def __init__(
        self, state: Path, made_from: Any, arrays: Mapping[str, np.ndarray], save_seconds: float = 30.0
    ) -> None:
        """As :class:`Loop`; ``arrays`` by name, as they are before the first step, which change in place."""
        self._arrays = arrays
        super().__init__(state, made_from, save_seconds)

    def steps(self, total: int, label: str) -> Iterator[int]:
        """The numbers of the steps that remain, from 0 to ``total`` - 1 in a job never killed.

        Args:
            total: steps of the whole job.
            label: what progress lines say is being done (``sweeps of seed-1``).
        """
        return self._remaining(total, label)

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        import numpy as np

        return {name: np.ascontiguousarray(values) for name, values in self._arrays.items()}, {}

    def _restore(self, kept: dict[str, Any], about: dict[str, Any]) -> None:
        for name, array in self._arrays.items():
            array[...] = kept[name]

    def _bytes(self, value: np.ndarray) -> Any:
        return value.reshape(-1).view("uint8").data

    def _writer(self) -> Callable[..., None]:
        from safetensors.numpy import save_file

        return save_file
