#!/usr/bin/env python3
"""A stand-in for Dafny that speaks both of its protocols and misbehaves on request.

It "verifies" by words: a text with FAIL in line n has an error there, one with UNRESOLVED does not resolve.
What follows MISBEHAVE in a text says what goes wrong: hang, crash, flood, eat, half, child, mute, deaf. Each
call is noted in a file, if REPRISE_STAND_IN names one.
"""

import json
import os
import subprocess
import sys
import time

VERSION = os.environ.get("REPRISE_STAND_IN_VERSION", "4.11.0")


def misbehave(text: str, out) -> None:
    what = text.partition("MISBEHAVE ")[2].split()[0] if "MISBEHAVE " in text else ""
    if what == "crash":
        os._exit(134)
    if what == "hang":
        time.sleep(600)
    if what == "eat":
        held = []
        while True:
            held.append(bytearray(50_000_000))
            held[-1][::4096] = b"x" * len(held[-1][::4096])
            time.sleep(0.05)
    if what == "flood":
        while True:
            out.write(b"x" * 100_000)
            out.flush()
    if what == "half":
        out.write(b'Content-Length: 500\r\n\r\n{"half":')
        out.flush()
        os._exit(0)
    if what == "child":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=subprocess.DEVNULL)
    if what == "mute":
        os._exit(0)


def failing(text: str) -> list[int]:
    return [number for number, line in enumerate(text.split("\n")) if "FAIL" in line]


def verify(path: str) -> int:
    with open(path, "rb") as file:
        text = file.read().decode()
    out = sys.stdout.buffer

    def say(value: object) -> None:
        out.write(json.dumps(value).encode() + b"\n")
        out.flush()

    def diagnostic(line: int, source: str, message: str, severity: int = 1) -> None:
        place = {"pos": 0, "line": line + 1, "character": 2}
        where = {"filename": path, "filePath": path, "uri": path, "range": {"start": place, "end": place}}
        say(
            {
                "type": "diagnostic",
                "value": {
                    "location": where,
                    "severity": severity,
                    "arguments": [],
                    "defaultFormatMessage": message,
                    "source": source,
                    "relatedInformation": [],
                },
            }
        )

    misbehave(text, out)
    if "UNRESOLVED" in text:
        diagnostic(0, "Resolver", "unresolved identifier")
        say({"type": "status", "value": "1 resolution/type errors detected in program.dfy"})
        return 2
    errors = failing(text)
    for line in errors:
        diagnostic(line, "Verifier", "assertion might not hold")
    if "WARN" in text:
        diagnostic(0, "Verifier", "assume statement has no {:axiom} annotation", 2)
    count = text.count("method")
    ending = "error" if len(errors) == 1 else "errors"
    say(
        {
            "type": "status",
            "value": f"\nDafny program verifier finished with {count} verified, {len(errors)} {ending}\n",
        }
    )
    return 4 if errors else 0


def serve() -> int:
    source, out = sys.stdin.buffer, sys.stdout.buffer

    def say(value: dict) -> None:
        body = json.dumps({"jsonrpc": "2.0", **value}).encode()
        out.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        out.flush()

    while True:
        length = 0
        while line := source.readline().strip():
            length = int(line.split(b":")[1]) if line.lower().startswith(b"content-length") else length
        if not length:
            return 0
        if b"MISBEHAVE deaf" in source.peek():
            time.sleep(600)
        message = json.loads(source.read(length))
        if message["method"] == "initialize":
            say({"id": message["id"], "result": {}})
        if message["method"] != "textDocument/didOpen":
            continue
        document = message["params"]["textDocument"]
        text, address = document["text"], document["uri"]
        misbehave(text, out)

        def publish(diagnostics: list, address: str = address, version: object = 1) -> None:
            say(
                {
                    "method": "textDocument/publishDiagnostics",
                    "params": {"uri": address, "version": version, "diagnostics": diagnostics},
                }
            )

        def status(states: list[int], address: str = address) -> None:
            place = {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 1}}
            say(
                {
                    "method": "dafny/textDocument/symbolStatus",
                    "params": {
                        "uri": address,
                        "version": 1,
                        "namedVerifiables": [{"nameRange": place, "status": state} for state in states],
                    },
                }
            )

        def compiled(status: str, address: str = address) -> None:
            say({"method": "dafny/compilation/status", "params": {"uri": address, "status": status}})

        def at(line: int, source: str, message: str) -> dict:
            place = {"line": line, "character": 2}
            return {
                "range": {"start": place, "end": place},
                "severity": 1,
                "source": source,
                "message": message,
                "relatedInformation": [],
            }

        publish([at(0, "Verifier", "late news of another document")], "untitled:another.dfy")
        publish([], version=None)  # an empty notice, as of a closed document
        if "UNRESOLVED" in text:
            lines = [number for number, line in enumerate(text.split("\n")) if "UNRESOLVED" in line]
            publish([at(number, "Resolver", "unresolved identifier") for number in lines])
            say(
                {
                    "method": "dafny/compilation/status",
                    "params": {"uri": address, "status": "ResolutionFailed"},
                }
            )
            continue
        if "method" in text:
            status([1])
        say(
            {
                "method": "dafny/compilation/status",
                "params": {"uri": address, "status": "ResolutionSucceeded"},
            }
        )
        if "method" not in text:
            continue
        errors = failing(text)
        publish([at(number, "Verifier", "invariant could not be proved") for number in errors])
        status([4 if errors else 5])


def main() -> int:
    if noted := os.environ.get("REPRISE_STAND_IN"):
        with open(noted, "a") as file:
            file.write(json.dumps([os.getpid(), sys.argv[1:]]) + "\n")
    if sys.argv[1] == "--version":
        print(VERSION)
        return 0
    return verify(sys.argv[-1]) if sys.argv[1] == "verify" else serve()


if __name__ == "__main__":
    sys.exit(main())
