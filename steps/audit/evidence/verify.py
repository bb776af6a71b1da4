"""Check the records of one audit: ``python -I verify.py FOLDER``.

This file needs Python and ``cryptography`` alone. The folder holds what both sides kept:

``chain.jsonl``     the custodian's log, one entry a line: JSON in ASCII, sorted keys, integers only
``closing.json``    the receipt of its last entry
``receipts.jsonl``  the auditor's file: first ``{"public_key"}``, then for every call
                    ``{"key", "request_sha256"}`` before it was sent and after it
                    ``{"key", "receipt": {"entry", "head", "signature"}, "status", "response"}``

What is hashed is the stored line itself: ``head_n = SHA256(0x02 || head_{n-1} || line_n)`` with 32 zero
bytes before the first entry, and each entry names its number (``seq``) and the head before it (``prev``). A
receipt is an entry's text, its head, and the custodian's Ed25519 signature of the head. The chain alone
shows nothing against who wrote it; the receipts in the auditor's hands do.

The exit code names what was found:

0   verified: the chain is whole, and every receipt and call of the auditor is in it
2   unreadable: a file is missing or no record of an audit
3   altered: a line is not what its successor was chained to
4   dropped: an entry in the middle is missing
5   swapped: all entries are there, in another order
6   cut: the end is missing
7   rewritten: the chain is consistent, yet not the one that receipts were given for
8   forged: a receipt that the public key did not sign
9   unmatched: a call or an entry without a receipt, or one that does not match its receipt

An entry about a caller needs a receipt, or the custodian could charge for calls that nobody made. The
exceptions are refusals that cost nothing and whose call has no key to keep a receipt by (``KEYLESS``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

CODES = {
    "verified": 0,
    "unreadable": 2,
    "altered": 3,
    "dropped": 4,
    "swapped": 5,
    "cut": 6,
    "rewritten": 7,
    "forged": 8,
    "unmatched": 9,
}
"""The exit code of each class."""

START = bytes(32)
"""The head before the first entry."""

KEYLESS = ("422 key", "422 key: used for another request", "409 handle: tune it again")
"""Reasons of refusals that are logged without a receipt."""

TEXTS = ("op", "actor", "jti", "key", "decision", "reason", "req_sha256", "resp_sha256", "handle")
"""Fields that every entry has, besides ``seq``, ``prev``, ``scopes_used`` and ``meters``."""

SIGNED = b"reprise audit receipt\0"
"""Stands before a head that is signed, so that the signature is of no use elsewhere."""


class Verdict(NamedTuple):
    """What was found."""

    name: str
    """One of ``CODES``."""
    detail: str
    entries: tuple[dict[str, Any], ...] = ()
    """The chain's entries, where it is verified."""


def next_head(head: bytes, line: bytes) -> bytes:
    """The head after a line (without its line break)."""
    return hashlib.sha256(b"\x02" + head + line).digest()


def chain_class(text: bytes) -> tuple[str, list[bytes], list[bytes]]:
    """Whether a chain is consistent in itself; its lines, and the head after each.

    A line is linked to the next where the head after it, by its own ``prev``, is the next one's ``prev``.
    """
    lines = text.split(b"\n")
    if lines.pop() != b"" or not lines:
        return "altered", [], []
    entries = [_entry(line) for line in lines]
    if None in entries:
        return "altered", [], []
    whole = [entry for entry in entries if entry is not None]
    numbers = [entry["seq"] for entry in whole]
    if numbers == [*range(len(lines))]:
        heads, head = [], START
        for line, entry in zip(lines, whole, strict=True):
            if entry["prev"] != head.hex():
                return "altered", [], []
            head = next_head(head, line)
            heads.append(head)
        return "verified", lines, heads
    if sorted(numbers) == [*range(len(lines))]:
        ordered = [line for _, line in sorted(zip(numbers, lines, strict=True))]
        rest = chain_class(b"\n".join(ordered) + b"\n")[0]
        return ("swapped" if rest == "verified" else "altered"), [], []
    before, after = -1, START.hex()
    for line, entry in zip(lines, whole, strict=True):
        linked, gap = entry["prev"] == after, entry["seq"] - before - 1
        if gap < 0 or linked != (gap == 0):
            return "altered", [], []
        before, after = entry["seq"], next_head(bytes.fromhex(entry["prev"]), line).hex()
    return "dropped", [], []


def _entry(line: bytes) -> dict[str, Any] | None:
    """The entry in a line; None where it is none, or lacks a field that is read later."""
    try:
        entry = json.loads(line)
        bytes.fromhex(entry["prev"])
        whole = (
            all(type(entry[name]) is str for name in TEXTS)
            and all(type(scope) is str for scope in entry["scopes_used"])
            and all(type(count) is int and count >= 0 for count in entry["meters"].values())
            and type(entry["seq"]) is int
            and entry["seq"] >= 0
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return entry if whole else None


def check(folder: Path) -> Verdict:
    """Check the records in a folder; see the module's docstring."""
    try:
        text = (folder / "chain.jsonl").read_bytes()
        closing = _object((folder / "closing.json").read_bytes())
        first, *notes = [_object(line) for line in (folder / "receipts.jsonl").read_bytes().splitlines()]
        key = bytes.fromhex(first["public_key"])
        answered = [note for note in notes if "receipt" in note]
        receipts = [closing, *(note["receipt"] for note in answered)]
        given = [_entry(receipt["entry"].encode()) for receipt in receipts]
        calls = [(note["key"], base64.b64decode(note["response"], validate=True)) for note in answered]
        sent = {note["key"]: note["request_sha256"] for note in notes if "request_sha256" in note}
        forged = [number for number, receipt in enumerate(receipts) if not _signed(key, receipt)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Verdict("unreadable", f"{type(error).__name__}: {error}")
    name, lines, heads = chain_class(text)
    if name != "verified":
        return Verdict(name, f"{len(text.splitlines())} lines")
    if forged:
        return Verdict("forged", f"receipt {forged[0]}")
    size = len(lines)
    shown: list[dict[str, Any]] = []
    for entry, receipt in zip(given, receipts, strict=True):
        if entry is None or bytes.fromhex(receipt["head"]) != next_head(
            bytes.fromhex(entry["prev"]), receipt["entry"].encode()
        ):
            return Verdict("forged", "a receipt whose head is not that of its entry")
        if entry["seq"] < size and heads[entry["seq"]].hex() != receipt["head"]:
            # Of the last entry there is the closing receipt alone, which a custodian would have signed again.
            name = "altered" if receipt is closing and entry["seq"] == size - 1 else "rewritten"
            return Verdict(name, f"entry {entry['seq']} is not the one that its receipt shows")
        shown.append(entry)
    entries = tuple(json.loads(line) for line in lines)
    last = max(entry["seq"] for entry in shown)
    if last >= size or entries[-1]["op"] != "close":
        return Verdict("cut", f"{size} entries, receipts up to number {last}")
    if entries[-1]["seq"] != shown[0]["seq"]:
        return Verdict("unmatched", "the last entry is not the closing one")
    by_key: dict[str, dict[str, Any]] = {}
    for (call, response), entry in zip(calls, shown[1:], strict=True):
        if call != entry["key"] or by_key.setdefault(call, entry) != entry:
            return Verdict("unmatched", f"entry {entry['seq']}: its receipt is kept for another call")
        if hashlib.sha256(response).hexdigest() != entry["resp_sha256"]:
            return Verdict("unmatched", f"call {call}: the response is not the one of its receipt")
        if call not in sent or sent[call] != entry["req_sha256"]:
            return Verdict("unmatched", f"call {call}: a receipt, and no such call was sent")
    if lost := sorted(map(str, sent.keys() - by_key.keys())):
        return Verdict("unmatched", f"call {lost[0]}: sent, and no receipt for it")
    receipted = {entry["seq"] for entry in shown}
    for entry in entries:
        if entry["seq"] not in receipted and not _needs_no_receipt(entry):
            return Verdict("unmatched", f"entry {entry['seq']}: the auditor has no receipt")
    return Verdict("verified", f"{size} entries, {len(by_key)} calls", entries)


def _needs_no_receipt(entry: dict[str, Any]) -> bool:
    """Whether an entry says nothing that somebody could be charged for."""
    if entry["key"] or entry["scopes_used"] or any(entry["meters"].values()):
        return False
    return not entry["jti"] or (entry["decision"] == "denied" and entry["reason"] in KEYLESS)


def _object(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}, expected an object")
    return value


def _signed(key: bytes, receipt: dict[str, Any]) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        signature = base64.b64decode(receipt["signature"], validate=True)
        Ed25519PublicKey.from_public_bytes(key).verify(signature, SIGNED + bytes.fromhex(receipt["head"]))
    except InvalidSignature:
        return False
    return True


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -I verify.py FOLDER", file=sys.stderr)
        sys.exit(2)
    found = check(Path(sys.argv[1]))
    print(json.dumps({"class": found.name, "detail": found.detail}))
    sys.exit(CODES[found.name])
