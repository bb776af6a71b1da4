"""A warm `dafny server` that answers in a fraction of a second; it searches, and claims nothing.

Each text is a document of its own, since edits of one sometimes never get an answer, at an address without a
folder, since Dafny obeys project files in the folders above. It reports every failure (``/subsumption:0``),
so that all false candidates fall in one round. It says 5 (verified) for what was skipped: what it answers
is no verdict.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steps.core.errors import UserError
from steps.dafny.verifier.locate import Tools, Verifier, find, missing
from steps.dafny.verifier.process import Guarded, dafny_verify, options
from steps.dafny.verifier.results import ERROR, LASTING, Answer, Calls, Diagnostic, Verdict

logger = logging.getLogger("reprise")

AT_MOST = 150
"""Documents after which a server is replaced: it keeps much of what it was shown."""

MOST_BYTES = 50_000_000
"""Of one answer; a server that says more is ended."""


NOT_OF_OTHERS = (
    "verifier.verdicts: found recorded, expected auto or live for other programs than the embedded ones, of"
    " which nothing is recorded; set it"
)


class LostError(Exception):
    """The server ended, or says what cannot be read."""


class Server:
    """A warm Dafny, started when it is first asked.

    Args:
        tools: Dafny and Z3.
        verifier: the limits; ``seconds`` holds for each question.
    """

    def __init__(self, tools: Tools, verifier: Verifier) -> None:
        self._tools, self._verifier = tools, verifier
        self._guarded: Guarded | None = None
        self._folder = ""
        self._asked = 0

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and all that it started."""
        if self._guarded is not None:
            self._guarded.end()
            self._guarded = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def ask(self, text: str) -> Answer:
        """What the server says of a text; ``lost`` where it ends over it twice.

        Raises:
            UserError: Dafny cannot use its Z3.
        """
        for _ in range(2):
            with contextlib.suppress(LostError, OSError):
                return self._ask(text)
            self.close()
        return Answer("lost")

    def _ask(self, text: str) -> Answer:
        if self._guarded is None or self._asked >= AT_MOST:
            self.close()
            self._start()
        self._asked += 1
        address = f"untitled:program{self._asked}.dfy"
        self._send(
            "textDocument/didOpen",
            {"textDocument": {"uri": address, "languageId": "dafny", "version": 1, "text": text}},
        )
        try:
            return self._listen(address)
        finally:
            with contextlib.suppress(OSError, LostError):
                self._send("textDocument/didClose", {"textDocument": {"uri": address}})

    def _listen(self, address: str) -> Answer:
        """Read until the document of an address is done; others' late notices are passed over."""
        found: tuple[Diagnostic, ...] = ()
        settled = symbols = False
        heard = 0
        for message, size in self._messages():
            heard += size
            if heard > MOST_BYTES:
                raise LostError
            method, about = message.get("method"), message.get("params") or {}
            if method == "textDocument/publishDiagnostics" and about.get("uri") == address:
                if about.get("version") == 1:  # the empty ones of a closed document have none
                    found = tuple(_of_server(one) for one in about["diagnostics"])
                    _require_solver(found)
            elif method == "dafny/compilation/status" and about.get("uri") == address:
                status = about.get("status")
                if status in ("ParsingFailed", "ResolutionFailed"):
                    settled = True
                elif status == "InternalException":
                    raise LostError
                elif status == "ResolutionSucceeded" and not symbols:
                    return Answer("proved")  # there is nothing to prove: its symbols would have come before
            elif method == "dafny/textDocument/symbolStatus" and about.get("uri") == address:
                states = [one["status"] for one in about["namedVerifiables"]]
                symbols = symbols or bool(states)
                if states and all(state in (3, 4, 5) for state in states):
                    errors = _errors(found)
                    if errors or 4 not in states:
                        return Answer("failed" if 4 in states else "proved", errors)
            if settled and _errors(found):
                return Answer("unresolved", _errors(found))
        raise LostError

    def _start(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="reprise-dafny-")
        self._asked = 0
        command = [
            *(str(self._tools.dafny), "server", "--verify-on", "Change"),
            *options(self._tools, self._verifier),
            *("--error-limit", "0", "--boogie", "/subsumption:0"),
        ]
        limits = self._verifier.memory_mb, self._verifier.heap_mb
        self._guarded = Guarded(command, Path(self._folder), 0, *limits)
        self._send("initialize", {"processId": None, "rootUri": None, "capabilities": {}}, number=1)
        for message, _ in self._messages():
            if message.get("id") == 1:
                break
        else:
            raise LostError
        self._send("initialized", {})

    def _send(self, method: str, about: dict[str, Any], number: int | None = None) -> None:
        assert self._guarded is not None
        message = {"jsonrpc": "2.0", "method": method, "params": about}
        body = json.dumps(message | ({} if number is None else {"id": number})).encode()
        with Timer(self._guarded, self._verifier.seconds):  # one that stops reading holds up what is long
            self._guarded.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            self._guarded.stdin.flush()

    def _messages(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The server's messages and their sizes, until it ends or says nothing for too long."""
        assert self._guarded is not None
        with Timer(self._guarded, self._verifier.seconds):
            while True:
                length = 0
                while line := self._guarded.stdout.readline(4096).strip():
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length" and value.strip().isdigit():
                        length = int(value)
                if not 0 < length <= MOST_BYTES:
                    raise LostError
                body = self._guarded.stdout.read(length)
                if len(body) < length:
                    raise LostError
                try:
                    message = json.loads(body)
                except (ValueError, RecursionError):
                    raise LostError from None
                if isinstance(message, dict):
                    yield message, length


class Dafny:
    """Dafny as steps ask it: live where it is found, else by what was recorded of the embedded programs.

    Args:
        verifier: which Dafny, and its limits.
        kept: a file of the job for what was answered so far.
        recorded: recorded calls, where the study has some.
        search_limit: resource units per proof of the warm server; those of the verifier where there is none.

    Raises:
        UserError: there is no Dafny and nothing is recorded, or Dafny or Z3 is not the one that the
        settings name.
    """

    def __init__(
        self, verifier: Verifier, kept: Path, recorded: Path | None = None, search_limit: int | None = None
    ) -> None:
        self._verifier = verifier
        self._searching = verifier.model_copy(
            update={"resource_limit": search_limit or verifier.resource_limit}
        )
        self.tools = find(verifier) if verifier.verdicts != "recorded" else None
        if recorded is None and verifier.verdicts == "recorded":
            raise UserError(NOT_OF_OTHERS)
        if self.tools is None and (recorded is None or verifier.verdicts == "live"):
            raise UserError(missing())
        self._calls = Calls(kept, recorded if self.tools is None else None)
        self._server = Server(self.tools, self._searching) if self.tools is not None else None
        if self.tools is None:
            logger.info(
                "verdicts are recorded ones (%s)", missing() if verifier.verdicts == "auto" else "as set"
            )

    @property
    def verdicts(self) -> str:
        """``live`` or ``recorded``."""
        return "recorded" if self.tools is None else "live"

    @property
    def versions(self) -> dict[str, str]:
        """Of the programs that answer."""
        return {"dafny": self._verifier.dafny, "z3": self._verifier.z3}

    def __enter__(self) -> Dafny:
        return self

    def __exit__(self, *error: object) -> None:
        if self._server is not None:
            self._server.close()

    def search(self, text: str) -> Answer:
        """What the warm server says."""

        def ask() -> Any:
            if self._server is None:
                raise UserError(_NOT_RECORDED)
            return self._server.ask(text).plain()

        decides = self._decides(self._searching)
        found = self._calls.answer("search", text, decides, ask, lambda answer: answer["state"] != "lost")
        return Answer.of(found)

    def verify(self, text: str) -> Verdict:
        """What a fresh process says: the only verdict."""

        def ask() -> Any:
            if self.tools is None:
                raise UserError(_NOT_RECORDED)
            return dafny_verify(text, self.tools, self._verifier).plain()

        decides = self._decides(self._verifier)
        found = self._calls.answer("verify", text, decides, ask, lambda answer: answer["verdict"] in LASTING)
        return Verdict.of(found)

    def _decides(self, verifier: Verifier) -> dict[str, Any]:
        return self.versions | {"resource_limit": verifier.resource_limit}

    def write_calls(self, out: Path) -> None:
        """Write what was asked and answered, the work being done."""
        self._calls.write(out)
        self._calls.done()


_NOT_RECORDED = (
    "recorded verdicts: found none for one of the texts, expected the embedded programs with the default"
    " settings; install Dafny (docs/dafny.md), or set dafny back to its defaults"
)


class Timer:
    """Ends a command that takes longer than some seconds over what is done in the body."""

    def __init__(self, guarded: Guarded, seconds: float) -> None:
        self._timer = threading.Timer(seconds, guarded.kill)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()


def _errors(found: tuple[Diagnostic, ...]) -> tuple[Diagnostic, ...]:
    errors = {one for one in found if one.severity == ERROR}
    return tuple(sorted(errors, key=dataclasses.astuple))


def _require_solver(found: tuple[Diagnostic, ...]) -> None:
    for one in found:
        if one.message.startswith("Z3 not found") or "Cannot find specified prover" in one.message:
            raise UserError(
                f"Z3: Dafny cannot use it ({one.message[:200]}); name another in dafny.verifier.solver"
            )


def _of_server(value: dict[str, Any]) -> Diagnostic:
    """A diagnostic of the server, which counts lines from 0."""
    start = value["range"]["start"]
    related = tuple(
        (
            place["location"]["range"]["start"]["line"],
            place["location"]["range"]["start"]["character"],
            place["message"],
        )
        for place in value.get("relatedInformation") or ()
    )
    severity = int(value.get("severity", ERROR))
    return Diagnostic(
        start["line"], start["character"], severity, str(value.get("source")), str(value["message"]), related
    )
