"""Small helpers of this package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from steps.core.errors import UserError


def growing(megabytes: float, minutes: float) -> dict[str, Any]:
    """Resources that grow with each attempt: a job that was killed for too little gets more."""
    return {
        "mem_mb": lambda wildcards, attempt: round(megabytes * attempt),
        "runtime": lambda wildcards, attempt: round(minutes * attempt),
    }


def declarable(paths: list[Path]) -> list[str]:
    odd = next((path for path in paths if re.search(r"[{}\x00-\x1f\ud800-\udfff]", str(path))), None)
    if odd is not None:
        raise UserError(f"{str(odd)!r}: found braces or control characters in a path; rename the folder")
    return [str(path) for path in paths]
