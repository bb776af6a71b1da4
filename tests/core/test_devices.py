"""Devices that are not there are one line."""

from __future__ import annotations

import pytest

from steps.core.devices import torch_device
from steps.core.errors import UserError


def test_the_cpu_is_there() -> None:
    assert torch_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["meta", "\ud800", "cuda:99", "nonsense", "", "cpu:x"])
def test_a_device_that_is_of_no_use_is_one_line(name: str) -> None:
    with pytest.raises(
        UserError, match="^device: found .*, expected a device of this machine .*; use cpu"
    ) as e:
        torch_device(name)
    str(e.value).encode()
