"""Where models run and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from steps.core.errors import UserError

if TYPE_CHECKING:
    import torch

DType = Literal["float32", "float64", "bfloat16", "float16"]
"""Element types that settings may name."""


def torch_device(name: str) -> torch.device:
    """The device of that name, such as ``cpu``, ``cuda`` or ``cuda:1``.

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
    return device


def torch_dtype(name: str) -> torch.dtype:
    """The element type of that name."""
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype
