"""Where models run and in which precision."""

from __future__ import annotations

import functools
import re
import socket
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic

from steps.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

DType = Literal["float32", "float64", "bfloat16", "float16"]
"""Element types that settings may name."""

_KINDS = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla")


def _named(name: str) -> str:
    if not re.fullmatch(rf"({'|'.join(_KINDS)})(:(0|[1-9]\d{{0,3}}))?", name):
        raise ValueError(f"{', '.join(_KINDS)}, or one by number, cuda:1 (GPUs of NVIDIA and AMD are cuda)")
    return name


Device = Annotated[str, pydantic.AfterValidator(_named)]
"""A device that settings may name; whether this machine has it is checked where it is used."""


def torch_device(name: str) -> torch.device:
    """The device of that name, such as ``cpu``, ``cuda`` or ``cuda:1``.

    Where this process sees several GPUs, ``cuda`` is one that no other job of this machine has, and stays
    the same one until the process ends.

    Raises:
        UserError: there is no such device on this machine.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("meta holds no values")
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"device: found {name!r}, expected a device of this machine ({reason}); "
            "use cpu, or install the torch build for your hardware"
        ) from None
    if device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1:
        device = torch.device("cuda", _own_gpu())
        torch.cuda.set_device(device)
    return device


@functools.cache
def _own_gpu() -> int:
    """Number of the GPU that this process holds until it ends."""
    import torch

    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    number, held = _claim([str(gpu.uuid) for gpu in properties])
    if held is not None:
        held.detach()  # open until the process ends
    return number


def _claim(gpus: Sequence[str]) -> tuple[int, socket.socket | None]:
    """Number of the first of ``gpus`` that nobody has, and what holds it for us until it is closed.

    The kernel forgets the address of a socket when its process ends, however it ends: no file is left
    behind. Where all are taken (more jobs at a time than GPUs), the first one is shared.
    """
    for number, gpu in enumerate(gpus):
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(f"\0reprise-gpu-{gpu}")  # an abstract address, of no file
        except OSError:
            held.close()
        else:
            return number, held
    return 0, None


def torch_dtype(name: str) -> torch.dtype:
    """The element type of that name."""
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype
