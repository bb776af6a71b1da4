"""Peaks and memory of hardware that the planner knows, as vendors give them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What a vendor's data sheet says: dense products, without sparsity."""

    what: str
    peak: dict[str, float]
    """FLOP/s by the type of the factors."""
    memory: float
    """Gigabytes."""


HARDWARE = {
    "cpu_core": Hardware(
        "one core at 3 GHz with two 256-bit multiply-add units (AMD Zen 3, Intel AVX2) and 4 GB",
        {"float64": 48e9, "float32": 96e9, "float16": 96e9, "bfloat16": 96e9},
        4.0,
    ),
    "v100": Hardware(
        "NVIDIA V100 SXM2 32 GB; bfloat16, which it lacks, as float32",
        {"float64": 7.8e12, "float32": 15.7e12, "float16": 125e12, "bfloat16": 15.7e12},
        32.0,
    ),
    "a100": Hardware(
        "NVIDIA A100 SXM 80 GB; float32 without TF32",
        {"float64": 9.7e12, "float32": 19.5e12, "float16": 312e12, "bfloat16": 312e12},
        80.0,
    ),
    "h100": Hardware(
        "NVIDIA H100 SXM 80 GB; float32 without TF32",
        {"float64": 34e12, "float32": 67e12, "float16": 989e12, "bfloat16": 989e12},
        80.0,
    ),
}
