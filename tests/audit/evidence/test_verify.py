"""Every class of falsified records is named, and honest ones are verified, by a process of its own."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.audit.evidence import verify
from steps.audit.evidence.chain import Chain
from steps.audit.evidence.mutations import MUTATIONS
from tests.audit.conftest import KEY

EMPTY: dict[str, Any] = {
    **{"actor": "", "jti": "", "key": "", "scopes_used": [], "decision": "", "reason": "", "handle": ""},
    **{"req_sha256": "", "resp_sha256": "", "meters": {}},
}


def records(folder: Path, calls: int = 12) -> Path:
    """Honest records of so many calls, one of them denied, and a call of a stranger."""
    folder.mkdir()
    empty = EMPTY
    chain = Chain(folder / "chain.jsonl", KEY)
    chain.append(op="genesis", **empty, about={"package": "p"})
    notes: list[dict[str, Any]] = [{"public_key": KEY.public_key().public_bytes_raw().hex()}]
    for number in range(calls):
        request, response = f"request {number}".encode(), f"response {number}".encode()
        digests = {"req_sha256": hashlib.sha256(request).hexdigest()}
        digests["resp_sha256"] = hashlib.sha256(response).hexdigest()
        about = {"actor": "auditor", "jti": "j", "key": f"k-{number}", **digests}
        paid = {} if number == 5 else {"meters": {"calls": 1, "queries": number}}
        receipt = chain.append(
            op="run", **empty | about | {"decision": "denied" if number == 5 else "allowed"} | paid
        )
        notes.append({"key": f"k-{number}", "request_sha256": digests["req_sha256"]})
        text = base64.b64encode(response).decode()
        notes.append({"key": f"k-{number}", "receipt": receipt.plain(), "status": 200, "response": text})
        if number == 3:
            chain.append(op="call", **empty | {"decision": "denied", "reason": "no token"})
    closing = chain.append(op="close", **empty)
    chain.close()
    (folder / "closing.json").write_text(json.dumps(closing.plain()))
    (folder / "receipts.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    return folder


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return records(tmp_path_factory.mktemp("honest") / "records")


def exit_code(folder: Path) -> int:
    """Of the verifier, which gets no path of ours."""
    command = [sys.executable, "-I", verify.__file__, str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_honest_records_are_verified(honest: Path) -> None:
    assert exit_code(honest) == 0
    verdict = verify.check(honest)
    assert [entry["op"] for entry in verdict.entries][:1] == ["genesis"]
    assert len(verdict.entries) == 15


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_mutation_is_named_wherever_it_strikes(honest: Path, tmp_path: Path, mutation: str) -> None:
    change, expected = MUTATIONS[mutation]
    random = np.random.default_rng(0)
    for number in range(40):
        copy = tmp_path / str(number)
        shutil.copytree(honest, copy)
        change(copy, random, KEY)
        assert verify.check(copy).name == expected, number
    assert exit_code(tmp_path / "0") == verify.CODES[expected]


def test_any_byte_counts(tmp_path: Path) -> None:
    """Every byte of a small chain, also where that renames a field or breaks a line."""
    chain = records(tmp_path / "records", calls=2) / "chain.jsonl"
    honest = chain.read_bytes()
    assert verify.check(chain.parent).name == "verified"
    for place in range(len(honest)):
        text = bytearray(honest)
        text[place] ^= 1
        chain.write_bytes(text)
        assert verify.check(chain.parent).name == "altered", place


def add_entry(folder: Path, **fields: Any) -> None:
    """Write an entry before the closing one, as a custodian could, and close again."""
    path = folder / "chain.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    chain = Chain(path, KEY)
    chain.append(**EMPTY | fields)
    (folder / "closing.json").write_text(json.dumps(chain.append(op="close", **EMPTY).plain()))
    chain.close()


def test_nobody_is_charged_without_a_receipt(honest: Path, tmp_path: Path) -> None:
    """A call that stands there twice, with its key or without, would count twice in the access statement."""
    [called] = [entry for entry in verify.check(honest).entries if entry["key"] == "k-3"]
    again = {name: called[name] for name in (*EMPTY, "op")}
    charged: list[dict[str, Any]] = [
        again,
        again | {"key": ""},
        again | {"key": "", "jti": ""},
        again | {"key": "", "meters": {}, "decision": "denied", "reason": "403 scope generate"},
        {"op": "call", "jti": "j", "decision": "denied", "reason": "422 key", "meters": {"calls": 1}},
        {"op": "call", "jti": "j", "decision": "denied", "reason": "422 key", "scopes_used": ["generate"]},
    ]
    for number, fields in enumerate(charged):
        shutil.copytree(honest, copy := tmp_path / str(number))
        add_entry(copy, **fields)
        verdict = verify.check(copy)
        assert (verdict.name, verdict.detail) == ("unmatched", "entry 14: the auditor has no receipt")
    for reason in verify.KEYLESS:
        shutil.copytree(honest, copy := tmp_path / reason)
        add_entry(copy, op="call", jti="j", decision="denied", reason=reason)
        assert verify.check(copy).name == "verified"


@pytest.mark.parametrize(
    "fields", [{"jti": 3}, {"meters": {"queries": -1}}, {"meters": []}, {"scopes_used": [1]}, {"reason": []}]
)
def test_an_entry_with_other_fields_than_an_entry_s_is_none(
    honest: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    shutil.copytree(honest, copy := tmp_path / "copy")
    add_entry(copy, op="call", **fields)
    assert verify.check(copy).name == "altered"


def change_note(folder: Path, number: int, **changes: Any) -> None:
    path = folder / "receipts.jsonl"
    lines = path.read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | changes)
    path.write_text("\n".join(lines) + "\n")


def drop_note(folder: Path, number: int) -> None:
    path = folder / "receipts.jsonl"
    lines = path.read_text().splitlines()
    del lines[number]
    path.write_text("\n".join(lines) + "\n")


def test_records_of_both_sides_must_match(honest: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        shutil.copytree(honest, tmp_path / name)
        return tmp_path / name

    one = copy("a response that is not the receipt's")
    change_note(one, 2, response=base64.b64encode(b"other").decode())
    assert verify.check(one).name == "unmatched"
    drop_note(two := copy("an entry without a receipt"), 2)
    assert verify.check(two).name == "unmatched"
    change_note(three := copy("a call that was sent and has no receipt"), 1, key="lost")
    assert verify.check(three).name == "unmatched"
    change_note(four := copy("a receipt that is kept for another call"), 2, key="k-1")
    assert verify.check(four).name == "unmatched"
    drop_note(five := copy("a receipt of a call that was not sent"), 1)
    assert verify.check(five).name == "unmatched"
    six = copy("a closing receipt that is of no entry")
    closing = json.loads((six / "closing.json").read_text())
    (six / "closing.json").write_text(json.dumps(closing | {"entry": "{}"}))
    (six / "receipts.jsonl").write_text((six / "receipts.jsonl").read_text().splitlines()[0] + "\n")
    assert verify.check(six).name == "forged"
    four = copy("a receipt that another key signed")
    change_note(four, 0, public_key="00" * 32)
    assert verify.check(four).name == "forged"
    (copy("no chain") / "chain.jsonl").unlink()
    assert exit_code(tmp_path / "no chain") == verify.CODES["unreadable"]


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"public_key": 3}', "\0", '{"public_key": "zz"}'])
def test_a_file_that_is_something_else_is_unreadable(honest: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(honest, tmp_path / "copy")
    (tmp_path / "copy/receipts.jsonl").write_text(text)
    assert verify.check(tmp_path / "copy").name == "unreadable"


def test_the_verifier_imports_nothing_of_ours() -> None:
    source = Path(verify.__file__).read_text()
    assert "steps" not in source
    assert exit_code(Path("/nonexistent")) == verify.CODES["unreadable"]
    assert (
        subprocess.run([sys.executable, "-I", verify.__file__], capture_output=True, check=False).returncode
        == 2
    )
