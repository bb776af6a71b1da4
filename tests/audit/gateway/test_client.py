"""The auditor's side: receipts are checked, nothing is sent twice, and an answer is what it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from steps.audit.evidence import verify
from steps.audit.gateway.client import Client, DeniedError, UnsoundError, arrays, encoded
from steps.audit.gateway.process import Child, private_folder, started_gateway
from steps.audit.gateway.server import Config
from steps.core.stores import Folder
from tests.audit.conftest import KEY, START_SECONDS, granted

PUBLIC = KEY.public_key().public_bytes_raw().hex()


class Live:
    """A gateway that serves documents, as a process."""

    def __init__(self, package: Folder, folder: Path, private: Path) -> None:
        self.folder = folder
        self.log = private / "log"
        self.config = Config(
            package=str(package.path.resolve()),
            folder=str(folder),
            address=str(private / "s"),
            key=KEY.private_bytes_raw().hex(),
            genesis={"about": "a test"},
            serve_model=False,
        )
        self.start()

    def start(self) -> None:
        self.child: Child = started_gateway(self.config, self.log, START_SECONDS)

    def client(self, public: str = PUBLIC) -> Client:
        return Client(self.config.address, public, self.folder / "receipts.jsonl")


@pytest.fixture
def live(documents: Folder, tmp_path: Path) -> Iterator[Live]:
    with private_folder() as private:
        gateway = Live(documents, tmp_path, private)
        yield gateway
        gateway.child.kill()


def entries(live: Live) -> list[dict[str, object]]:
    return [json.loads(line) for line in (live.folder / "chain.jsonl").read_text().splitlines()]


def test_a_gateway_that_is_killed_loses_no_receipt_and_refunds_nothing(live: Live) -> None:
    client, token = live.client(), granted()
    first = client.document(token, "a", "card", "README.md")
    caller = threading.Thread(target=client.document, args=(token, "b", "evals", "evaluations.json"))
    os.kill(live.child.process, signal.SIGSTOP)  # a call is on its way
    caller.start()
    live.child.kill()
    live.start()
    caller.join()
    assert client.document(token, "a", "card", "README.md") == first
    with pytest.raises(DeniedError, match="404 no such document"):
        client.document(token, "c", "card", "none")
    client.close()
    again = live.client()  # an auditor that was killed
    assert again.document(token, "a", "card", "README.md") == first
    with pytest.raises(DeniedError, match="404 no such document"):
        again.document(token, "c", "card", "none")
    again.close()
    assert live.child.end() == 0
    assert [entry["op"] for entry in entries(live)] == ["genesis", "docs", "start", "docs", "call", "close"]
    assert verify.check(live.folder).name == "verified"


def test_another_request_by_a_key_and_another_custodian_are_noticed(live: Live) -> None:
    client, token = live.client(), granted()
    client.document(token, "a", "card", "README.md")
    with pytest.raises(UnsoundError, match="another request"):
        client.document(token, "a", "evals", "evaluations.json")
    client.close()
    with pytest.raises(UnsoundError, match="receipts of another custodian"):
        live.client("00" * 32)
    stranger = Client(live.config.address, "11" * 32, live.folder / "other.jsonl")
    with contextlib.closing(stranger), pytest.raises(UnsoundError, match="no receipt of this answer"):
        stranger.document(token, "z", "card", "README.md")


def test_idle_connections_stay_open_and_closed_ones_are_opened_again(live: Live) -> None:
    client, token = live.client(), granted()
    client.document(token, "a", "card", "README.md")
    assert client._connection is not None
    client._connection.sock.close()  # as after a long pause
    assert client.document(token, "b", "card", "README.md")
    client.close()


def test_an_answer_may_take_longer_than_a_gateway_that_is_not_there_is_waited_for(live: Live) -> None:
    records = live.folder / "receipts.jsonl"
    with contextlib.closing(Client(live.config.address, PUBLIC, records, patience=0.2)) as client:
        os.kill(live.child.process, signal.SIGSTOP)
        later = threading.Timer(1.5, os.kill, (live.child.process, signal.SIGCONT))
        later.start()
        assert client.document(granted(), "a", "card", "README.md") == b"---\n---\n"
        later.join()
        live.child.kill()
        with pytest.raises(OSError, match="Connection refused"):
            client.document(granted(), "b", "card", "README.md")


def test_a_full_disk_leaves_the_auditor_s_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "receipts.jsonl"
    with contextlib.closing(Client("nowhere", PUBLIC, records)) as client:
        before, written = records.read_bytes(), os.write
        monkeypatch.setattr(os, "write", lambda file, line: written(file, line[:9]))
        with pytest.raises(OSError, match="9 of .* bytes could be written"):
            client.document(granted(), "a", "card", "README.md")
    assert records.read_bytes() == before


def test_a_call_whose_client_left_is_settled(live: Live) -> None:
    """It runs on: the client finds the entry by its key, and is charged once."""
    token = granted()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(live.config.address)
        lines = ["GET /v1/docs/card/README.md HTTP/1.1", "Host: gateway", "Idempotency-Key: a"]
        connection.sendall("\r\n".join([*lines, f"Authorization: Bearer {token}", "", ""]).encode())
    until = time.monotonic() + 20
    while len(entries(live)) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    assert [entry["key"] for entry in entries(live)] == ["", "a"]
    with contextlib.closing(live.client()) as client:
        assert client.document(token, "a", "card", "README.md") == b"---\n---\n"
    assert len(entries(live)) == 2


def test_answers_are_checked_for_what_safetensors_passes() -> None:
    good = save({"nll": np.array([1.0, 2.0])})
    assert arrays(good)["nll"].tolist() == [1, 2]
    broken = save({"nll": np.array([1.0, np.nan])})
    assert np.isnan(load(broken)["nll"]).any()  # it says nothing
    with pytest.raises(UnsoundError, match="not finite"):
        arrays(broken)
    entry = '{"dtype":"F64","shape":[1],"data_offsets":[%d,%d]}'
    header = ('{"a":' + entry % (0, 8) + ',"a":' + entry % (8, 16) + "}").encode()
    twice = len(header).to_bytes(8, "little") + header + np.array([1.0, 2.0]).tobytes()
    with pytest.raises(UnsoundError, match="no safetensors file"):
        arrays(twice)
    for text in (b"", b"\0" * 8, good[:-1], b"{}"):
        with pytest.raises(UnsoundError):
            arrays(text)
    assert len(encoded(np.zeros((2, 3)))) == 32


def test_the_auditor_s_process_loads_neither_torch_nor_transformers() -> None:
    """Nor does anything that its modules import late: their names stand nowhere in them."""
    code = (
        "import importlib, pkgutil, sys\n"
        "import steps.audit.methods as methods\n"
        "for module in pkgutil.iter_modules(methods.__path__):\n"
        "    importlib.import_module(f'steps.audit.methods.{module.name}')\n"
        "import numpy, yaml, safetensors.numpy\n"
        "import cryptography.hazmat.primitives.asymmetric.ed25519\n"
        "print(sorted({'torch', 'transformers', 'fastapi', 'pandas'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    import steps.audit.methods
    from steps.core.digest import code_definitions

    [folder] = steps.audit.methods.__path__
    reached = code_definitions("audit.methods.catalogue")
    assert not {
        name for name in reached if name.startswith(("steps.interp", "steps.audit.gateway.operations"))
    }
    for path in Path(folder).glob("*.py"):
        assert "import torch" not in path.read_text()
