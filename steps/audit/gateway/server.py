"""The gateway, a process of the custodian's: it serves one package at a UNIX socket and logs all calls.

``python -m steps.audit.gateway.server`` reads its configuration (``Config``, JSON in one line) from standard
input, says ``ready`` on standard output once it can be called, and ends when standard input does: with who
started it, however that ended. A line ``close`` there, or SIGTERM, lets it finish the call in progress, write
the closing entry, and end.

=============================  ==================================================================
``POST /v1/run``               a pass over rows (``policy.Call``); a safetensors file
``POST /v1/jobs``              a tuning (``policy.Tuning``); ``{"handle"}``
``GET /v1/docs/CLASS/NAME``    a document; its bytes
``POST /v1/findings``          the digest of the auditor's findings, on record before they are graded
=============================  ==================================================================

Everything else, and every other method, is 404; there is no page and no schema that needs no token. A call
names itself by a header ``Idempotency-Key``. The header ``Receipt`` of the answer, JSON in base64, is a
signed receipt of the entry written about it. Refusals are ``{"error"}``: 401 no valid token, 403 beyond its
scopes, 404 no such thing, 409 a copy that must be tuned again, 413 too large, 422 not a call, 429 beyond the
budget. All are logged, and have a receipt where the token and the key were good. A call repeated by its key
is answered again, with the same receipt, and charged once. Bodies are counted as they arrive; one thread
serves everybody, call after call, so that two calls cannot spend the same budget."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from steps.audit.evidence.chain import Chain, Receipt
from steps.audit.gateway import policy
from steps.audit.gateway.client import end_with_standard_input, request_bytes
from steps.audit.gateway.policy import Call, Findings, Grant, RefusedError, Tuning
from steps.core.errors import UserError
from steps.core.stores import Folder, read_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from fastapi import FastAPI, Request, Response

    from steps.audit.gateway.operations import Model

LARGEST_BODY = 2**20
"""Bytes of a request."""

IDLE_SECONDS = 600
"""Until an idle connection is closed; uvicorn's own 5 s are less than some methods think."""

LOCK_SECONDS = 5.0
"""That a gateway whose supervisor was killed may take to end, and the next one waits for it."""

LONGEST_PATH = 107
"""Bytes of a socket's path, by the kernel."""


class Config(pydantic.BaseModel):
    """What the gateway is started with."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid")

    package: str
    """The package's ledger."""
    folder: str
    """Where ``chain.jsonl`` and ``closing.json`` are written."""
    address: str
    """Path of the socket, in a folder of the custodian's own."""
    key: str
    """The custodian's signing key, in hexadecimal."""
    genesis: dict[str, Any]
    """What the first entry says: digests of all that is fixed before the audit."""
    threads: int = 1
    serve_model: bool = True
    """False: documents alone, without torch."""


class Gateway:
    """What happens to a call between its arrival and its answer; knows nothing of HTTP but statuses."""

    def __init__(
        self, chain: Chain, key: Ed25519PrivateKey, audience: str, package: Folder, model: Model | None
    ) -> None:
        """Serve a package by a chain.

        Args:
            chain: with its genesis, and whatever an earlier process wrote; meters are rebuilt from it, or
                killing the gateway would refund them.
            key: the custodian's.
            audience: digest of the model.
            package: the folder.
            model: None where documents alone are served.
        """
        self.chain = chain
        self.audience = audience
        self.package = package
        self.model = model
        self._public = key.public_key()
        self._spent: dict[str, dict[str, int]] = {}
        self._entries: dict[tuple[str, str], int] = {}
        self._handles: dict[tuple[str, str], Model] = {}
        self._made: set[tuple[str, str]] = set()
        for entry in chain.entries:
            self._count(entry)

    def _count(self, entry: dict[str, Any]) -> None:
        if entry["key"]:
            self._entries[entry["jti"], entry["key"]] = entry["seq"]
        if entry["handle"]:
            self._made.add((entry["jti"], entry["handle"]))
        spent = self.spent(entry["jti"])
        for name, value in entry["meters"].items():
            spent[name] += value

    def spent(self, jti: str) -> dict[str, int]:
        """The meters of a token."""
        return self._spent.setdefault(jti, dict.fromkeys(policy.METERS, 0))

    def _entry(self, op: str, **fields: Any) -> dict[str, Any]:
        """Write an entry, most of whose fields are empty unless given."""
        empty = {"actor": "", "jti": "", "key": "", "scopes_used": [], "decision": "", "reason": ""}
        digests = {"req_sha256": "", "resp_sha256": "", "handle": "", "meters": {}}
        self.chain.append(op=op, **empty | digests | fields)
        return self.chain.entries[-1]

    def authenticated(self, header: str | None) -> Grant:
        """Who calls.

        Raises:
            RefusedError: 401, once it is logged.
        """
        try:
            grant = policy.authenticate(header, self._public, self.audience, time.time())
        except RefusedError as refusal:
            self._entry("call", decision="denied", reason=refusal.reason)
            raise
        return grant

    def answer(
        self, grant: Grant, key: str, method: str, path: str, body: bytes
    ) -> tuple[int, bytes, Receipt | None]:
        """Answer a call: status, body, and the receipt of its entry.

        Args:
            grant: of its token.
            key: its idempotency key.
            method: of HTTP.
            path: which says what is called.
            body: as it came.
        """
        request = hashlib.sha256(request_bytes(method, path, body)).hexdigest()
        about = {"actor": grant.sub, "jti": grant.jti, "req_sha256": request}
        if policy.KEY.fullmatch(key) is None:
            return self._denied(RefusedError(422, "key"), about)
        before = self._entries.get((grant.jti, key))
        entry = None if before is None else self.chain.entries[before]
        if entry is not None and entry["req_sha256"] != request:
            return self._denied(RefusedError(422, "key: used for another request"), about)
        try:
            if entry is not None and entry["decision"] == "denied":
                status, _, reason = entry["reason"].partition(" ")
                raise RefusedError(int(status), reason)
            op, used, cost, work = self._planned(grant, method, path, body)
            if entry is None:
                policy.require_budget(grant, self.spent(grant.jti), cost)
            handle = policy.handle_of(grant.jti, key) if op == "finetune" else ""
            response = work(handle)
        except RefusedError as refusal:
            if refusal.status == 409:  # nothing is decided: the same call will come again
                return self._denied(refusal, about)
            return self._denied(refusal, about, key, entry)
        if entry is not None:
            if hashlib.sha256(response).hexdigest() != entry["resp_sha256"]:
                raise RuntimeError(f"entry {entry['seq']}: another answer than before")
            return 200, response, self.chain.receipt(entry["seq"])
        written = self._entry(
            op,
            **about,
            key=key,
            decision="allowed",
            scopes_used=sorted(used),
            resp_sha256=hashlib.sha256(response).hexdigest(),
            meters=cost | {"bytes": len(response)},
            handle=handle,
        )
        self._count(written)
        return 200, response, self.chain.receipt(written["seq"])

    def _denied(
        self, refusal: RefusedError, about: dict[str, str], key: str = "", entry: dict[str, Any] | None = None
    ) -> tuple[int, bytes, Receipt | None]:
        response = json.dumps({"error": refusal.reason}).encode()
        if entry is None:
            reason = f"{refusal.status} {refusal.reason}"
            digest = hashlib.sha256(response).hexdigest()
            entry = self._entry(
                "call", key=key, decision="denied", reason=reason, resp_sha256=digest, **about
            )
            self._count(entry)
        return refusal.status, response, self.chain.receipt(entry["seq"]) if key else None

    def _planned(
        self, grant: Grant, method: str, path: str, body: bytes
    ) -> tuple[str, list[Any], dict[str, int], Any]:
        """What a call is, its scopes, its price, and the work, a function of the handle that it makes."""
        free = {**dict.fromkeys(policy.METERS, 0), "calls": 1}
        if (method, path) == ("POST", "/v1/run"):
            call = _parsed(Call, body)
            used = policy.features(call)
            policy.require(grant, used)
            policy.require_within(grant, call)
            model = self._served(grant, call.handle)
            model.check(call)
            decimals = grant.scopes["logprobs"].decimals if "logprobs" in grant.scopes else 0
            return (
                "run",
                used,
                policy.price(call, model.parameters),
                lambda _: _saved(model.run(call, decimals)),
            )
        if (method, path) == ("POST", "/v1/jobs"):
            tuning = _parsed(Tuning, body)
            policy.require_tuning(grant, tuning)
            model = self._served(grant, None)
            model.require_fits(tuning.rows)
            cost = policy.tuning_price(tuning, model.parameters)
            return (
                "finetune",
                ["finetune"],
                cost,
                lambda handle: self._tuned(grant.jti, handle, model, tuning),
            )
        if (method, path) == ("POST", "/v1/findings"):
            digest = _parsed(Findings, body).sha256
            return "findings", [], free, lambda _: json.dumps({"sha256": digest}).encode()
        if method == "GET" and path.startswith("/v1/docs/"):
            kind, _, name = path.removeprefix("/v1/docs/").partition("/")
            if kind not in policy.DOCUMENTS:
                raise RefusedError(404, "no such document")
            scope = policy.DOCUMENTS[kind]
            policy.require(grant, [scope])
            file = f"docs/{kind}/{name}"
            if file not in self.package.files:  # a listed name, so that none can lead out of the package
                raise RefusedError(404, "no such document")
            content = self.package.check(file).read_bytes()
            return "docs", [scope], free, lambda _: content
        raise RefusedError(404, "no such call")

    def _served(self, grant: Grant, handle: str | None) -> Model:
        if handle is None:
            if self.model is None:
                raise RefusedError(404, "no model is served")
            return self.model
        place = (grant.jti, handle)
        if place not in self._made:
            raise RefusedError(404, "no such handle")
        if place not in self._handles:
            raise RefusedError(409, "handle: tune it again")
        return self._handles[place]

    def _tuned(self, jti: str, handle: str, model: Model, tuning: Tuning) -> bytes:
        from steps.audit.gateway.operations import HELD

        self._handles[jti, handle] = model.tuned(tuning)
        while len(mine := [place for place in self._handles if place[0] == jti]) > HELD:
            del self._handles[mine[0]]
        return json.dumps({"handle": handle}).encode()

    def close(self) -> Receipt:
        """Write the closing entry."""
        written = self._entry("close")
        self.chain.sync()
        return self.chain.receipt(written["seq"])


def _parsed(model: type[Any], body: bytes) -> Any:
    try:
        return model.model_validate_json(body)
    except (pydantic.ValidationError, RecursionError):
        raise RefusedError(422, "not a call") from None  # without the value, which may be anything


def _saved(arrays: dict[str, Any]) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    # Of an array that is a part of another one, it would write the memory that follows the first value.
    return save({name: np.ascontiguousarray(values) for name, values in arrays.items()})


def application(gateway: Gateway) -> FastAPI:
    """The gateway as HTTP."""
    from fastapi import FastAPI, Request, Response

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def serve(request: Request) -> Response:
        headers: dict[str, str] = {}
        try:
            grant = gateway.authenticated(request.headers.get("authorization"))
            body = await _body(request)
        except RefusedError as refusal:
            status, content, receipt = refusal.status, json.dumps({"error": refusal.reason}).encode(), None
        else:
            path = request.scope["raw_path"].decode("ascii", "replace")
            if request.url.query:
                path += "?"
            key = request.headers.get("idempotency-key", "")
            status, content, receipt = gateway.answer(grant, key, request.method, path, body)
        if receipt is not None:
            headers["Receipt"] = base64.b64encode(json.dumps(receipt.plain()).encode()).decode()
        return Response(content, status, headers, media_type="application/octet-stream")

    async def _body(request: Request) -> bytes:
        """The body, as long as it stays within bounds, whatever its declared length."""
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > LARGEST_BODY:
                gateway._entry("call", decision="denied", reason="413 too large")
                raise RefusedError(413, "too large")
            parts.append(part)
        return b"".join(parts)

    async def respond(scope: Any, receive: Any, send: Any) -> None:
        await (await serve(Request(scope, receive)))(scope, receive, send)

    # For whatever comes: a route knows methods and refuses others, and knows no path with a line break.
    app.router.default = respond
    return app


def bound(address: str) -> socket.socket:
    """A socket at ``address``, which only its owner's folder keeps others from: a UNIX socket is open to all.

    Raises:
        UserError: the path is too long for the kernel, or others may enter the folder.
    """
    folder = Path(address).parent
    if len(os.fsencode(address)) > LONGEST_PATH:
        raise UserError(
            f"{address}: longer than the {LONGEST_PATH} bytes that a socket's path may have; set TMPDIR"
        )
    if folder.stat().st_mode & 0o077:
        raise UserError(f"{folder}: others may enter this folder, expected mode 0700; set TMPDIR")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    Path(address).unlink(missing_ok=True)  # of a gateway that was killed; the chain's lock keeps others away
    made.bind(address)
    return made


def opened(config: Config) -> tuple[Gateway, Chain]:
    """The gateway that a configuration describes, with its chain.

    Raises:
        UserError: the package or the chain is damaged.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(config.key))
    package = Folder(Path(config.package), "audit_package")
    model = None
    if config.serve_model:
        from steps.audit.gateway.operations import Model
        from steps.core.training import prepare
        from steps.interp.loading import load

        prepare(config.threads)
        filters = read_json(package.check("filter.json"))
        loaded = load(package.path, checkpoint="model", kind="audit_package")
        model = Model(loaded).with_filter(filters["blocked"], filters["answer"])
    chain = Chain(Path(config.folder) / "chain.jsonl", key, LOCK_SECONDS)
    gateway = Gateway(chain, key, package.attributes["model"], package, model)
    if chain.entries:
        gateway._count(gateway._entry("start"))
    else:
        gateway._count(gateway._entry("genesis", about=config.genesis))
    return gateway, chain


def main() -> None:
    """Serve until told to end; see the module's docstring."""
    import uvicorn

    config = Config.model_validate_json(sys.stdin.readline())
    told_to_close = threading.Event()
    end_with_standard_input(told_to_close)
    try:
        gateway, chain = opened(config)
        listener = bound(config.address)
    except UserError as error:
        sys.exit(f"error: {error}")
    settings = uvicorn.Config(
        application(gateway),
        log_config=None,
        access_log=False,
        ws="none",
        timeout_keep_alive=IDLE_SECONDS,
        lifespan="off",
    )
    server = uvicorn.Server(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises it once more when it has ended

    async def serve() -> None:
        running = asyncio.create_task(server.serve([listener]))
        while not server.started and not running.done():
            await asyncio.sleep(0.005)
        print("ready", flush=True)
        while not told_to_close.is_set() and not running.done():
            await asyncio.sleep(0.02)
        server.should_exit = True
        await running

    asyncio.run(serve())
    closing = Path(config.folder) / "closing.json"
    closing.write_text(json.dumps(gateway.close().plain()))
    chain.close()


if __name__ == "__main__":
    main()
