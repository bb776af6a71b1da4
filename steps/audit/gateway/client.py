"""What auditors call the gateway by. It knows neither torch nor transformers.

Each call has a key, written to the auditor's file before it is sent; the receipt that comes with the answer
is checked and written there, too, unbuffered. A call whose answer was lost is sent again by its key, for
which the gateway charges nothing, and one whose answer is in the file is not sent at all: an auditor that
was killed starts again and soon is where it was. ``evidence.verify`` describes the file."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import http.client
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.audit.evidence.appending import write_whole
from steps.audit.evidence.verify import SIGNED, next_head

if TYPE_CHECKING:
    import numpy as np

PATIENCE = 60.0
"""Seconds for which a gateway that is not there is called again: it may be starting."""

PAUSE = 0.05
"""Seconds between two attempts."""


class DeniedError(Exception):
    """The gateway refused a call, and said so in a receipt."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason


class UnsoundError(Exception):
    """An answer that is not what its receipt says, or no receipt."""


class _Connection(http.client.HTTPConnection):
    """It waits for an answer as long as the gateway lives: where that ends, so does the connection."""

    def __init__(self, path: str) -> None:
        super().__init__("gateway")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


class Client:
    """A connection to the gateway, and the auditor's file."""

    def __init__(self, address: str, public_key: str, records: Path, patience: float = PATIENCE) -> None:
        """Call the gateway at a UNIX socket.

        Args:
            address: path of the socket.
            public_key: the custodian's, in hexadecimal; it came another way than the answers do.
            records: the auditor's file; begun here, or gone on with.
            patience: seconds for which a gateway that is not there is called again; for an answer it waits as
                long as the gateway lives.

        Raises:
            UnsoundError: the file is of another custodian.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        self._key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        self._address = address
        self._patience = patience
        self._connection: _Connection | None = None
        self._known: dict[str, dict[str, Any]] = {}
        self._sent: set[str] = set()
        self._tunings: dict[str, tuple[str, bytes, str]] = {}
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(records, flags, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)  # an auditor whose supervisor was killed is ending
            self._take_over(records, public_key)
        except BaseException:
            os.close(self._file)
            raise

    def _take_over(self, records: Path, public_key: str) -> None:
        text = records.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        os.ftruncate(self._file, len(whole))
        if not whole:
            self._note({"public_key": public_key})
        for number, line in enumerate(whole.splitlines()):
            note = json.loads(line)
            if number == 0 and note != {"public_key": public_key}:
                raise UnsoundError(f"{records}: receipts of another custodian")
            if "receipt" in note:
                self._known[note["key"]] = note
            elif "key" in note:
                self._sent.add(note["key"])

    def _note(self, note: dict[str, Any]) -> None:
        write_whole(self._file, json.dumps(note, separators=(",", ":")).encode() + b"\n")

    def run(self, token: str, key: str, call: dict[str, Any]) -> dict[str, np.ndarray]:
        """A pass over rows; see ``policy.Call`` and ``operations.Model.run``.

        Raises:
            DeniedError: the gateway refused it.
        """
        return arrays(self._call(token, key, "POST", "/v1/run", _json(call)))

    def tune(self, token: str, key: str, tuning: dict[str, Any]) -> str:
        """Tune a copy of the model; see ``policy.Tuning``. Returns its handle."""
        body = _json(tuning)
        handle: str = json.loads(self._call(token, key, "POST", "/v1/jobs", body))["handle"]
        self._tunings[handle] = token, body, key
        return handle

    def document(self, token: str, key: str, kind: str, name: str) -> bytes:
        """A document of a class."""
        return self._call(token, key, "GET", f"/v1/docs/{kind}/{name}", b"")

    def submit(self, token: str, key: str, sha256: str) -> None:
        """Put the digest of the findings on record, before anybody grades them."""
        self._call(token, key, "POST", "/v1/findings", _json({"sha256": sha256}))

    def _call(self, token: str, key: str, method: str, path: str, body: bytes) -> bytes:
        note = self._known.get(key)
        digest = hashlib.sha256(request_bytes(method, path, body)).hexdigest()
        if note is None:
            if key not in self._sent:
                self._note({"key": key, "request_sha256": digest})
                self._sent.add(key)
            note = self._fetched(token, key, method, path, body)
            self._note(note)
            self._known[key] = note
        elif json.loads(note["receipt"]["entry"])["req_sha256"] != digest:
            raise UnsoundError(f"call {key}: another request than the one that its receipt is of")
        response = base64.b64decode(note["response"])
        if note["status"] != 200:
            raise DeniedError(note["status"], json.loads(response)["error"])
        return response

    def _fetched(self, token: str, key: str, method: str, path: str, body: bytes) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        waited = 0.0  # between attempts, whatever time an answer takes
        while True:
            try:
                if self._connection is None:
                    self._connection = _Connection(self._address)
                self._connection.request(method, path, body, headers)
                answer = self._connection.getresponse()
                response = answer.read()
            except (OSError, http.client.HTTPException):
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
                if waited > self._patience:
                    raise
                time.sleep(PAUSE)
                waited += PAUSE
                continue
            if answer.status == 409 and (handle := json.loads(body).get("handle")) in self._tunings:
                # The gateway was started again and has lost the copy: tuned again by the key of its call.
                owner, tuning, its_key = self._tunings[handle]
                self._fetched(owner, its_key, "POST", "/v1/jobs", tuning)
                continue
            receipt = self._checked(
                answer.headers.get("Receipt"), key, request_bytes(method, path, body), response
            )
            return {
                "key": key,
                "receipt": receipt,
                "status": answer.status,
                "response": base64.b64encode(response).decode(),
            }

    def _checked(self, header: str | None, key: str, request: bytes, response: bytes) -> dict[str, str]:
        """The receipt, once it is that of this call and this answer."""
        from cryptography.exceptions import InvalidSignature

        try:
            receipt = json.loads(base64.b64decode(header or "", validate=True))
            text, head = receipt["entry"].encode(), bytes.fromhex(receipt["head"])
            entry = json.loads(text)
            self._key.verify(base64.b64decode(receipt["signature"], validate=True), SIGNED + head)
            sound = (
                next_head(bytes.fromhex(entry["prev"]), text) == head
                and entry["key"] == key
                and entry["req_sha256"] == hashlib.sha256(request).hexdigest()
                and entry["resp_sha256"] == hashlib.sha256(response).hexdigest()
            )
        except (InvalidSignature, ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise UnsoundError(f"call {key}: no receipt of this answer")
        return {name: receipt[name] for name in ("entry", "head", "signature")}

    def close(self) -> None:
        """Let the file survive a power cut, and end the connection."""
        if self._connection is not None:
            self._connection.close()
        os.fsync(self._file)
        os.close(self._file)


class Session:
    """One auditor's work on one question, by one token: keys, and what was spent."""

    def __init__(self, client: Client, token: str, name: str, budget: int, sites: list[str]) -> None:
        """Call by ``token``.

        Args:
            client: the connection.
            token: of the question and the level of access.
            name: begins the keys of its calls.
            budget: queries that the token may spend.
            sites: that may be read and written, where any may.
        """
        self.client = client
        self.sites = sites
        self.budget = budget
        self.spent = 0
        self._token = token
        self._name = name
        self._calls = 0

    @property
    def left(self) -> int:
        """Queries that may still be spent."""
        return self.budget - self.spent

    def _key(self) -> str:
        self._calls += 1
        return f"{self._name}-{self._calls}"

    def run(self, **call: Any) -> dict[str, np.ndarray]:
        """See :meth:`Client.run`."""
        self.spent += len(call["rows"])
        return self.client.run(self._token, self._key(), call)

    def tune(self, **tuning: Any) -> str:
        """See :meth:`Client.tune`."""
        self.spent += len(tuning["rows"]) * tuning["steps"]
        return self.client.tune(self._token, self._key(), tuning)

    def document(self, kind: str, name: str) -> bytes:
        """See :meth:`Client.document`."""
        return self.client.document(self._token, self._key(), kind, name)


def request_bytes(method: str, path: str, body: bytes) -> bytes:
    """What the digest of a request is of."""
    return f"{method} {path}\n".encode() + body


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def encoded(values: np.ndarray) -> str:
    """Values to set, as ``policy.Write`` takes them."""
    import numpy as np

    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def arrays(body: bytes) -> dict[str, np.ndarray]:
    """The arrays of an answer, a safetensors file.

    safetensors passes numbers that are none, and keeps the last of two arrays of one name.

    Raises:
        UnsoundError: it holds either, or is no such file.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name that is there twice")
        return dict(pairs)

    try:
        size = int.from_bytes(body[:8], "little")
        json.loads(body[8 : 8 + size], object_pairs_hook=once)
        found = load(body)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UnsoundError(f"an answer that is no safetensors file ({error})") from None
    if not all(np.isfinite(values).all() for values in found.values()):
        raise UnsoundError("an answer with numbers that are not finite")
    return found


CLOSE = "close\n"
"""A line on standard input that asks for an orderly end."""


def end_with_standard_input(told_to_close: threading.Event) -> None:
    """End this process at once when standard input ends: its other side was held by who started us.

    Args:
        told_to_close: set where a line asks for it.
    """

    def watch() -> None:
        while line := sys.stdin.readline():
            if line == CLOSE:
                told_to_close.set()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
