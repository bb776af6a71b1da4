"""Ways to falsify the records of a finished audit, each of which the verifier must notice and name."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from steps.audit.evidence.verify import SIGNED, START, next_head

if TYPE_CHECKING:
    import numpy as np
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Mutation = Callable[[Path, "np.random.Generator", "Ed25519PrivateKey"], None]


def _lines(folder: Path) -> list[bytes]:
    return (folder / "chain.jsonl").read_bytes().splitlines()


def _write(folder: Path, lines: list[bytes]) -> None:
    (folder / "chain.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def flip_byte(folder: Path, random: np.random.Generator, key: Ed25519PrivateKey) -> None:
    """Change one byte, anywhere."""
    text = bytearray((folder / "chain.jsonl").read_bytes())
    text[random.integers(len(text))] ^= int(random.integers(1, 256))
    (folder / "chain.jsonl").write_bytes(text)


def drop_entry(folder: Path, random: np.random.Generator, key: Ed25519PrivateKey) -> None:
    """Take out one entry that is not the last."""
    lines = _lines(folder)
    del lines[random.integers(len(lines) - 1)]
    _write(folder, lines)


def swap_entries(folder: Path, random: np.random.Generator, key: Ed25519PrivateKey) -> None:
    """Let two entries change places."""
    lines = _lines(folder)
    first, second = random.choice(len(lines), 2, replace=False).tolist()
    lines[first], lines[second] = lines[second], lines[first]
    _write(folder, lines)


def cut_tail(folder: Path, random: np.random.Generator, key: Ed25519PrivateKey) -> None:
    """Take away the end, one entry or more."""
    lines = _lines(folder)
    _write(folder, lines[: random.integers(1, len(lines))])


def rewrite(folder: Path, random: np.random.Generator, key: Ed25519PrivateKey) -> None:
    """Charge more for a call, as a custodian could: all that follows is chained and the end signed again."""
    lines = _lines(folder)
    charged = [
        number for number, line in enumerate(lines) if (entry := json.loads(line))["key"] and entry["meters"]
    ]
    changed = charged[random.integers(len(charged))]
    head, written = START, []
    for number, line in enumerate(lines):
        entry = json.loads(line)
        entry["prev"] = head.hex()
        if number == changed:
            entry["meters"]["calls"] += 1
        written.append(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode())
        head = next_head(head, written[-1])
    _write(folder, written)
    signature = base64.b64encode(key.sign(SIGNED + head)).decode()
    closing = {"entry": written[-1].decode(), "head": head.hex(), "signature": signature}
    (folder / "closing.json").write_text(json.dumps(closing))


MUTATIONS: dict[str, tuple[Mutation, str]] = {
    "flipped byte": (flip_byte, "altered"),
    "dropped entry": (drop_entry, "dropped"),
    "swapped entries": (swap_entries, "swapped"),
    "cut tail": (cut_tail, "cut"),
    "rewritten with the custodian's key": (rewrite, "rewritten"),
}
"""Each with the class that the verifier must find."""
