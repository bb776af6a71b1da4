"""Devices that are not there are one line; jobs at a time have a GPU each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from steps.core import devices
from steps.core.devices import Device, torch_device
from steps.core.errors import UserError
from steps.core.settings import Settings, validate

ROOT = Path(__file__).resolve().parents[2]


def test_the_cpu_is_there() -> None:
    assert torch_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["meta", "\ud800", "cuda:99", "nonsense", "", "cpu:x"])
def test_a_device_that_is_of_no_use_is_one_line(name: str) -> None:
    with pytest.raises(
        UserError, match="^device: found .*, expected a device of this machine .*; use cpu"
    ) as e:
        torch_device(name)
    str(e.value).encode()


class Step(Settings):
    device: Device = "cpu"


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "cuda", "cuda:1", "mps", "xpu:12"])
def test_settings_take_what_torch_knows(name: str) -> None:
    assert validate(Step, {"device": name}, "here").device == name
    assert torch.device(name).type == name.split(":")[0]


@pytest.mark.parametrize(
    "name", ["gpu", "CUDA", "cuda:", "cuda:01", "cuda:-1", "cuda:x", "meta", "", "cpu\n"]
)
def test_settings_refuse_other_names_and_say_what_a_gpu_is_called(name: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(Step, {"device": name}, "here")
    assert str(caught.value).startswith("here: device: found ")
    assert ", expected: cpu, cuda, mps," in str(caught.value)
    assert str(caught.value).endswith("cuda:1 (GPUs of NVIDIA and AMD are cuda)")


JOB = """
import sys
from steps.core.devices import _claim
number, held = _claim(sys.argv[1:])
print(number, flush=True)
sys.stdin.read()
"""


def test_jobs_at_a_time_have_a_gpu_each_until_they_end(tmp_path: Path) -> None:
    names = [f"{tmp_path}-first", f"{tmp_path}-second"]  # of no other test's run
    jobs: list[subprocess.Popen[str]] = []

    def started() -> int:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        jobs.append(subprocess.Popen([sys.executable, "-c", JOB, *names], cwd=ROOT, text=True, **pipes))
        return int(jobs[-1].stdout.readline())

    try:
        assert [started(), started()] == [0, 1]
        assert started() == 0  # more jobs than GPUs: shared
        jobs[1].kill()
        jobs[1].wait()
        assert started() == 1
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def test_a_process_keeps_its_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = []
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"{tmp_path}-{number}")
    )
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    _, other = devices._claim([f"{tmp_path}-0"])
    assert other is not None
    devices._own_gpu.cache_clear()
    try:
        assert [torch_device("cuda"), torch_device("cuda")] == [torch.device("cuda:1")] * 2
        assert torch_device("cuda:0") == torch.device("cuda:0")  # named: as told
    finally:
        devices._own_gpu.cache_clear()
        other.close()
    assert chosen == [torch.device("cuda:1")] * 2
