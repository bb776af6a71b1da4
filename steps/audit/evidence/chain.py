"""The custodian's log: a hash chain of entries, each written before the answer that it is about leaves.

``verify`` says what lines, heads and receipts are. A write reaches the kernel at once (no buffer of ours), so
that a killed gateway loses no entry that somebody has a receipt for. What a power cut may lose is what was
written since the last :meth:`Chain.sync`; the auditor's receipts show it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from steps.audit.evidence.appending import write_whole
from steps.audit.evidence.verify import SIGNED, START, chain_class, next_head
from steps.core.errors import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LARGEST = 2**53
"""Integers below it are the same in every reader of JSON."""


class Receipt(NamedTuple):
    """What the auditor keeps of an entry."""

    entry: str
    head: str
    signature: str

    def plain(self) -> dict[str, str]:
        """As JSON."""
        return self._asdict()


class Chain:
    """A log that is being written, by one process at a time."""

    def __init__(self, path: Path, key: Ed25519PrivateKey, patience: float = 0.0) -> None:
        """Open the log, or begin it, and read what is there.

        A line that a full disk cut off is taken away: nobody has a receipt for it.

        Args:
            path: the file.
            key: the custodian's.
            patience: seconds to wait for another process that writes it; one that was orphaned is ending.

        Raises:
            UserError: what is there is no whole chain, or another process writes it.
        """
        self._key = key
        self.entries: list[dict[str, Any]] = []
        self._lines: list[bytes] = []
        self._heads: list[bytes] = []
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock(path, time.monotonic() + patience)
            self._take_over(path)
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self, path: Path, until: float) -> None:
        """Keep others off until this process ends, however it does."""
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= until:
                    problem = "another gateway writes this chain; end that one first"
                    raise UserError(f"{path}: {problem}") from None
            time.sleep(0.05)

    def _take_over(self, path: Path) -> None:
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole:
            name, self._lines, self._heads = chain_class(whole)
            if name != "verified":
                raise UserError(f"{path}: a chain that is {name}; move this folder away and start again")
            self.entries = [json.loads(line) for line in self._lines]
        if len(whole) < len(text):
            os.ftruncate(self._file, len(whole))

    @property
    def head(self) -> bytes:
        """The head after the last entry."""
        return self._heads[-1] if self._heads else START

    def append(self, **fields: Any) -> Receipt:
        """Write an entry; texts, integers, lists and objects of these.

        Args:
            fields: see ``docs/audit.md``; the version, number, time and head before it are added.
        """
        entry = {
            "v": 1,
            "seq": len(self._lines),
            "t": time.time_ns() // 1_000_000,
            "prev": self.head.hex(),
            **fields,
        }
        _require_plain(entry)
        line = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
        write_whole(self._file, line + b"\n")
        self.entries.append(entry)
        self._lines.append(line)
        self._heads.append(next_head(self.head, line))
        return self.receipt(entry["seq"])

    def receipt(self, seq: int) -> Receipt:
        """The receipt of an entry; the same one every time."""
        head = self._heads[seq]
        signature = base64.b64encode(self._key.sign(SIGNED + head)).decode()
        return Receipt(self._lines[seq].decode(), head.hex(), signature)

    def sync(self) -> None:
        """Let what is written survive a power cut."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _require_plain(value: Any) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _require_plain(name)
            _require_plain(item)
    elif isinstance(value, list):
        for item in value:
            _require_plain(item)
    elif isinstance(value, bool) or not (
        isinstance(value, str) or (isinstance(value, int) and abs(value) < LARGEST)
    ):
        raise TypeError(f"{value!r}: neither text nor an integer below 2 ** 53")
