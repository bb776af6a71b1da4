"""What is written is there, whatever ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from steps.audit.evidence.chain import LARGEST, Chain
from steps.core.errors import UserError
from tests.audit.conftest import KEY
from tests.audit.evidence.test_verify import EMPTY, records


def test_a_write_survives_a_kill_and_a_buffer_does_not(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "file = os.open('unbuffered', os.O_WRONLY | os.O_CREAT)\n"
        "os.write(file, b'there')\n"
        "kept = open('buffered', 'w')\n"
        "kept.write('gone')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "unbuffered").read_bytes() == b"there"
    assert (tmp_path / "buffered").read_bytes() == b""


def test_an_entry_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "chain.jsonl", KEY)
    receipt = chain.append(op="x", key="")
    assert (tmp_path / "chain.jsonl").read_text() == receipt.entry + "\n"
    chain.close()


def test_a_line_that_was_cut_off_is_taken_away_and_the_chain_goes_on(tmp_path: Path) -> None:
    path = records(tmp_path / "records") / "chain.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"v": 1, "seq"')
    chain = Chain(path, KEY)
    assert path.read_bytes() == whole
    receipt = chain.append(op="y", **EMPTY)
    assert '"seq":15' in receipt.entry
    chain.close()
    again = Chain(path, KEY)
    assert again.receipt(15) == receipt
    again.close()


def test_a_full_disk_leaves_what_is_there_and_room_for_the_next_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = records(tmp_path / "records") / "chain.jsonl"
    whole = path.read_bytes()
    chain = Chain(path, KEY)
    written = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, line: written(file, line[:20]))
        with pytest.raises(OSError, match="20 of .* bytes could be written; free some disk space"):
            chain.append(op="y", **EMPTY)
    assert path.read_bytes() == whole
    receipt = chain.append(op="y", **EMPTY)
    chain.close()
    again = Chain(path, KEY)
    assert again.receipt(15) == receipt
    again.close()


def test_a_damaged_chain_and_a_second_writer_are_refused(tmp_path: Path) -> None:
    path = records(tmp_path / "records") / "chain.jsonl"
    chain = Chain(path, KEY)
    with pytest.raises(UserError, match="another gateway writes this chain"):
        Chain(path, KEY)
    chain.close()
    path.write_bytes(path.read_bytes().replace(b'"queries":3', b'"queries":0'))
    with pytest.raises(UserError, match="a chain that is altered"):
        Chain(path, KEY)


@pytest.mark.parametrize("value", [1.5, True, None, LARGEST, {"a": [0.0]}])
def test_only_texts_and_integers_are_chained(tmp_path: Path, value: object) -> None:
    chain = Chain(tmp_path / "chain.jsonl", KEY)
    with pytest.raises(TypeError, match="neither text nor an integer"):
        chain.append(op="x", value=value)
    assert os.path.getsize(tmp_path / "chain.jsonl") == 0
    chain.close()
