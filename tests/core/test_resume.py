"""A loop over arrays, interrupted anywhere and started again, ends with the same bits."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.core.resume import Resumable

TOTAL = 9


class Killed(Exception):  # noqa: N818
    """Stands for a kill."""


def work(
    state: Path, stop: int | None = None, made_from: Any = "x", save_seconds: float = 0.0
) -> tuple[np.ndarray, list[dict[str, Any]], int]:
    """A walk whose steps depend on all that came before; also the number of steps done here."""
    values, flags = np.zeros(5, np.float32), np.zeros((2, 2), bool)
    job = Resumable(state, made_from, {"values": values, "flags": flags}, save_seconds)
    here = 0
    for step in job.steps(TOTAL, "steps"):
        if step == stop:
            raise Killed
        values += np.random.default_rng(step).random(5, np.float32) * (1 + flags.sum())
        flags.flat[step % 4] = True
        job.curve.append({"step": step, "mean": float(values.mean())})
        here += 1
    job.finish()
    return values, job.curve, here


@pytest.fixture
def expected(tmp_path: Path) -> tuple[np.ndarray, list[dict[str, Any]]]:
    values, curve, _ = work(tmp_path / "undisturbed")
    return values, curve


@pytest.mark.parametrize("stop", range(TOTAL))
def test_killed_at_any_step(tmp_path: Path, stop: int, expected: Any) -> None:
    with pytest.raises(Killed):
        work(tmp_path / "state", stop)
    values, curve, here = work(tmp_path / "state")
    assert (values.tobytes(), curve) == (expected[0].tobytes(), expected[1])
    assert here == TOTAL - stop
    assert list(tmp_path.glob("state*")) == []


def test_states_of_something_else_and_damaged_ones_are_not_used(
    tmp_path: Path, expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    for spoil, says in ((None, "other settings"), (-1, "damaged"), (10**9, "damaged")):
        with pytest.raises(Killed):
            work(state, 5, made_from="y" if spoil is None else "x")
        if spoil is not None:
            data = bytearray(state.read_bytes())
            state.write_bytes(data[: len(data) // 2] if spoil > 0 else data[:-1] + bytes([data[-1] ^ 1]))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            values, curve, here = work(state)
        assert (values.tobytes(), curve, here) == (expected[0].tobytes(), expected[1], TOTAL)
        assert says in caplog.text


def test_a_quick_job_writes_no_state(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        work(tmp_path / "state", 8, save_seconds=3600)
    assert not (tmp_path / "state").exists()


def test_a_state_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        (tmp_path / "state.part").write_bytes(b"x")
        raise OSError("no space")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="no space"):
        work(tmp_path / "state")
    assert list(tmp_path.glob("state*")) == []


def test_torch_is_not_needed(tmp_path: Path) -> None:
    code = (
        "import numpy as np, pathlib, sys\nfrom steps.core.resume import Resumable\n"
        f"for state in (pathlib.Path({str(tmp_path / 's')!r}),) * 2:\n"
        " job = Resumable(state, 1, {'a': np.zeros(2)}, 0)\n"
        " for step in job.steps(2, 'x'): pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
