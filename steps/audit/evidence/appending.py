"""Lines of a file that is only added to, written whole or not at all."""

from __future__ import annotations

import errno
import os


def write_whole(file: int, line: bytes) -> None:
    """Add a line to a file that is open for appending and locked, or leave the file as it was.

    Raises:
        OSError: the disk is full, or the like.
    """
    before = os.fstat(file).st_size
    written = os.write(file, line)
    if written != len(line):  # the next line must not be glued to what is there of this one
        os.ftruncate(file, before)
        raise OSError(errno.ENOSPC, f"{written} of {len(line)} bytes could be written; free some disk space")
