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


def plain(path: Path | str) -> bool:
    """Whether Snakemake takes a path as it is: it fills in what stands in braces or angle brackets."""
    return re.search(r"[{}<>\x00-\x1f\ud800-\udfff]", str(path)) is None


def declarable(paths: list[Path]) -> list[str]:
    """Paths of the user's, to be declared as input.

    Raises:
        UserError: Snakemake cannot hold one.
    """
    for path in paths:
        if not plain(path):
            raise UserError(
                f"{str(path)!r}: found braces, angle brackets or control characters in a path; rename it"
            )
    return [str(path) for path in paths]
