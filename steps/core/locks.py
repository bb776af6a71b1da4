"""Locks on what a job writes, so that no other job writes it at the same time.

A lock is the kernel's (``flock``) on a file ``.NAME.lock`` beside what is written; it ends with the
process that holds it, however that ends, and a lock file that a killed job left behind locks nothing.
The file says who has it, and is removed with the lock.

Between the nodes of a cluster it works where the file system passes locks on: NFS 4, and NFS 3 with its
lock daemon (Linux sends a ``flock`` there as a lock on a range of bytes, which the server keeps and, with
NFS 4, forgets soon after a node fell silent), Lustre mounted with ``flock``, CephFS, GPFS, BeeGFS with
``tuneUseGlobalFileLocks``. On Lustre mounted with ``localflock`` it works within a node only. Where there
are no locks at all, the log says so and the work continues.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

logger = logging.getLogger("reprise")

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems answer that cannot lock."""

_LONGEST_PAUSE = 5.0  # seconds between looks at a lock that somebody else has
_SAID_EVERY = 600.0  # seconds between lines that say so


@dataclass
class _Held:
    file: int | None
    """Descriptor of the lock file, which is the lock; none where the file system has no locks."""
    process: int
    times: int = 1


_held: dict[Path, _Held] = {}


@contextlib.contextmanager
def held(*paths: Path) -> Iterator[None]:
    """Hold the locks of files, or of folders by a file in them, in the body.

    While another process has one of them, this waits, and says in the log for whom. A process may take a
    lock that it has already; it is released when the last body ends.

    Args:
        paths: what will be written, by its final name; the folders are made where they are missing.
    """
    with contextlib.ExitStack() as stack:
        for path in sorted({path.parent.resolve() / path.name for path in paths}):  # all in one order
            _take(path)
            stack.callback(_leave, path, os.getpid())
        yield


def _take(path: Path) -> None:
    if path in _held and _held[path].process == os.getpid():
        _held[path].times += 1
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        _held[path] = _Held(_locked(path), os.getpid())


def _leave(path: Path, process: int) -> None:
    if process != os.getpid():
        return  # a copy of the process that has it
    _held[path].times -= 1
    if _held[path].times == 0:
        file = _held.pop(path).file
        if file is not None:
            with contextlib.suppress(OSError):
                if _is_still(file, _lock_file(path)):
                    os.unlink(_lock_file(path))  # before it is unlocked: later it may be somebody else's
            os.close(file)


def _locked(path: Path) -> int | None:
    """The open and locked lock file of ``path``."""
    lock = _lock_file(path)
    pause, said = 0.05, -_SAID_EVERY
    while True:
        with contextlib.ExitStack() as opened:
            file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            opened.callback(os.close, file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _owner(file)
            except OSError as error:
                if error.errno == errno.ESTALE:
                    continue
                if error.errno not in _NO_LOCKS:
                    raise
                told = "%s: its file system has no locks (%s); start no second job that writes it"
                logger.warning(told, path, error.strerror)
                os.unlink(lock)
                return None
            else:
                if not _is_still(file, lock):
                    continue  # its owner removed it while we opened it
                with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
                    os.ftruncate(file, 0)
                    os.write(file, f"{_who()}\n".encode())
                opened.pop_all()
                return file
        if time.monotonic() - said >= _SAID_EVERY:
            told = "%s: waiting for another job that writes it: %s; to continue, end that one, or delete %s"
            logger.info(f"{told} where its machine is gone", path, owner, lock.name)
            said = time.monotonic()
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name.removeprefix('.')}.lock")


def _is_still(file: int, path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return False
        raise


def _who() -> str:
    """This process, for those who wait for it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    step = spec.name if spec else Path(sys.argv[0]).name
    job = f", SLURM job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return f"{step} on {socket.gethostname()}, process {os.getpid()}{job}, since {since}"


def _owner(file: int) -> str:
    text = os.pread(file, 400, 0).decode("utf-8", "replace").split("\n")[0]
    return "".join(filter(str.isprintable, text)) or "a process that is just starting"
