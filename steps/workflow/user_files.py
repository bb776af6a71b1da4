"""How rules declare the files of users."""

from __future__ import annotations

import re
from pathlib import Path

from steps.core.digest import file_digest, listing_digest
from steps.core.errors import UserError
from steps.core.text import shown


def plain(path: Path | str) -> bool:
    """Whether Snakemake takes a path as it is: it fills in what stands in braces or angle brackets."""
    return re.search(r"[{}<>\x00-\x1f\ud800-\udfff]", str(path)) is None


MOST_FILES = 10_000
"""Files of a folder that are declared one by one."""


def declared(paths: list[Path]) -> tuple[list[str], list[str]]:
    """How a rule declares the files of a user's folder: inputs, and values of a parameter.

    Files that Snakemake cannot hold become their SHA-256, and more than ``MOST_FILES`` one digest of
    their paths, sizes and times, since Snakemake takes long over very many inputs.
    """
    if len(paths) > MOST_FILES:
        return [], [f"{len(paths)} files {listing_digest(paths)}"]
    others = [f"{shown(path)} {file_digest(path)}" for path in paths if not plain(path)]
    return [str(path) for path in paths if plain(path)], others


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
