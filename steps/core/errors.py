"""The one exception for mistakes that the user can fix."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path


class UserError(Exception):
    """One line: the file or key, what was found, what was expected, what to do.

    The runner prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(map(_seen, message)))


def _seen(character: str) -> str:
    """A visible character as it is, any other as its escape: terminals would obey some."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def require_space(folder: Path, need: int, remedy: str) -> None:
    """Refuse work whose output would not fit.

    Args:
        folder: where the output goes; need not exist yet.
        need: bytes to be written.
        remedy: what the user can change to need less.

    Raises:
        UserError: less than ``need`` plus one percent is free.
    """
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if need * 1.01 > free:
        raise UserError(
            f"{folder}: needs about {size(need)}, found {size(free)} free; free some space or {remedy}"
        )


def size(count: float) -> str:
    """A number of bytes for people: ``1.5 GB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def disk_is_full(error: BaseException) -> bool:
    """Whether an exception, or one that it came from, says that a disk or quota is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(seen):  # safetensors and pyarrow pass on the text only
            return True
        seen = seen.__cause__ or seen.__context__
    return False
