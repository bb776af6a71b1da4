"""Resources that rules ask for."""

from __future__ import annotations

from typing import Any


def growing(megabytes: float, minutes: float, gpu: bool = False) -> dict[str, Any]:
    """Resources that grow with each attempt: a job that was killed for too little gets more."""
    return {
        "mem_mb": lambda wildcards, attempt: round(megabytes * attempt),
        "runtime": lambda wildcards, attempt: round(minutes * attempt),
    } | ({"gpu": 1} if gpu else {})
