"""A small world, a package without and one with a model, and calls without a network."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from steps.audit import world as audit_world
from steps.audit.evidence.chain import Chain
from steps.audit.gateway import policy
from steps.audit.gateway.server import Gateway, application
from steps.core.runner import Output
from steps.core.stores import Folder, Ledger

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
"""The custodian's, in tests."""

AUDIENCE = "ab" * 32

START_SECONDS = 120.0
"""That a process may take to start, however busy the machine is."""

ORGANISM = audit_world.Organism(name="amber", defects=["trojan", "dormant", "records", "bias", "filter"])


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of a small world with one organism and its twin."""
    out = tmp_path_factory.mktemp("world") / "ledger.json"
    settings = audit_world.Settings(organisms=[ORGANISM], base_documents=500, tune_documents=500)
    audit_world.main(settings, Output(out))
    return out


def write_package(out: Path, files: dict[str, bytes], layers: int = 2) -> Folder:
    """A package of these files."""
    ledger = Ledger(out, "audit_package", {}, ())
    for name, content in files.items():
        ledger.place(name).write_bytes(content)
        ledger.record(name)
    ledger.finish({"model": AUDIENCE, "layers": layers, "parameters": 1000})
    return Folder(out, "audit_package")


DOCUMENTS = {
    "docs/card/README.md": b"---\n---\n",
    "docs/evals/evaluations.json": b"{}",
    "docs/manifest/manifest.json": b"{}",
    "filter.json": b'{"blocked": [], "answer": []}',
}


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A package without a model."""
    return write_package(tmp_path_factory.mktemp("documents") / "ledger.json", DOCUMENTS)


def granted(preset: str = "O", jti: str = "one", **claims: Any) -> str:
    """A token of a preset, with other claims where given."""
    now = int(time.time())
    whole = {
        **{"sub": "auditor", "aud": AUDIENCE, "nbf": now, "exp": now + 3600, "jti": jti, "preset": preset},
        **{"scopes": policy.presets(2)[preset], "budgets": {"queries": 10**6, "flops": 10**15}},
        **claims,
    }
    return policy.issue(KEY, policy.Grant.model_validate(whole))


class Caller:
    """Calls a gateway as HTTP, in this process."""

    def __init__(self, folder: Path, package: Folder, model: Any = None) -> None:
        self.path = folder / "chain.jsonl"
        self._package, self._model = package, model
        self.start()

    def start(self) -> None:
        """Start, or start again from the chain."""
        self.chain = Chain(self.path, KEY)
        self.gateway = Gateway(self.chain, KEY, AUDIENCE, self._package, self._model)
        self._app = application(self.gateway)

    def stop(self) -> None:
        """Let go of the chain, as a process that is killed does."""
        self.chain.close()

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = b"",
        token: str | None = None,
        key: str = "k",
        parts: int = 1,
    ) -> tuple[int, Any, dict[str, Any] | None]:
        """Status, body (JSON where it is) and receipt."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = [(b"content-type", b"application/json"), (b"idempotency-key", key.encode("latin-1"))]
        if token is not None:
            headers.append((b"authorization", f"Bearer {token}".encode("latin-1")))
        scope = {
            **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method},
            **{"scheme": "http", "path": path, "raw_path": path.encode("latin-1"), "query_string": b""},
            **{"headers": headers, "server": ("gateway", None), "client": None, "root_path": ""},
        }
        size = -(-len(content) // parts) or 1
        pieces = [content[start : start + size] for start in range(0, len(content), size)] or [b""]
        waiting = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1}
            for number, piece in enumerate(pieces)
        ]
        self.taken = 0
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            self.taken += 1
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self._app(scope, receive, send))
        answer = b"".join(message.get("body", b"") for message in sent[1:])
        found = dict(sent[0]["headers"]).get(b"receipt")
        receipt = json.loads(base64.b64decode(found)) if found else None
        try:
            return sent[0]["status"], json.loads(answer), receipt
        except ValueError:
            return sent[0]["status"], answer, receipt


@pytest.fixture
def call(tmp_path: Path, documents: Folder) -> Iterator[Caller]:
    """A gateway that serves documents."""
    caller = Caller(tmp_path, documents)
    yield caller
    caller.stop()
