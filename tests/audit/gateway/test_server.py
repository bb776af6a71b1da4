"""The live application: what is served, refused and logged; and what its libraries do by themselves."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import uvicorn
from fastapi import FastAPI
from hypothesis import strategies as st
from pydantic import BaseModel

from steps.audit.evidence.chain import Chain
from steps.audit.gateway import policy, server
from steps.audit.gateway.server import LARGEST_BODY, bound
from steps.core.errors import UserError
from tests.audit.conftest import AUDIENCE, KEY, Caller, granted

CARD = "/v1/docs/card/README.md"


def logged(call: Caller) -> list[dict[str, Any]]:
    return [json.loads(line) for line in call.path.read_text().splitlines()]


def test_a_document_comes_with_a_receipt_of_its_entry(call: Caller) -> None:
    status, body, receipt = call("GET", CARD, token=granted())
    assert (status, body) == (200, b"---\n---\n")
    assert receipt is not None
    [entry] = logged(call)
    assert json.loads(receipt["entry"]) == entry
    assert entry["scopes_used"] == ["docs.card"]
    assert entry["meters"]["bytes"] == len(body)


@pytest.mark.parametrize(
    ("method", "path", "token", "status", "reason"),
    [
        ("GET", CARD, None, 401, "no token"),
        ("GET", CARD, "x.y.z", 401, "no valid token"),
        ("GET", CARD, granted("B"), 403, "scope docs.card"),
        ("POST", "/v1/run", granted(), 403, "scope generate"),
        ("POST", "/v1/run", granted("B"), 404, "no model is served"),
        ("POST", "/v1/run", granted("W"), 404, "no model is served"),
        ("GET", "/v1/docs/card/../evals/evaluations.json", granted(), 404, "no such document"),
        ("GET", "/v1/docs/card/..%2f..%2ffilter.json", granted(), 404, "no such document"),
        ("GET", "/v1/docs/secret/README.md", granted(), 404, "no such document"),
        ("GET", "/v1/docs/card/", granted(), 404, "no such document"),
        ("GET", "/docs", granted(), 404, "no such call"),
        ("GET", "/openapi.json", granted(), 404, "no such call"),
        ("POST", CARD, granted(), 404, "no such call"),
        ("PUT", CARD, granted(), 404, "no such call"),
        ("DELETE", CARD, granted(), 404, "no such call"),
        ("HEAD", CARD, granted(), 404, "no such call"),
        ("BREW", "/v1/run", granted(), 404, "no such call"),
        ("OPTIONS", "*", granted(), 404, "no such call"),
        ("GET", "/\n", granted(), 404, "no such call"),
        ("DELETE", CARD, None, 401, "no token"),
        ("GET", "/docs", None, 401, "no token"),
    ],
)
def test_refusals_are_logged(
    call: Caller, method: str, path: str, token: str | None, status: int, reason: str
) -> None:
    body = {"rows": [[1, 2]], "generate": {"max_tokens": 1}} if path == "/v1/run" else b""
    found, said, receipt = call(method, path, body, token)
    assert (found, said) == (status, {"error": reason})
    [entry] = logged(call)
    assert entry["decision"] == "denied"
    assert entry["reason"].endswith(reason)
    assert (receipt is None) == (status == 401)


def test_every_scope_is_needed_for_what_it_names(call: Caller) -> None:
    rows = [[1, 2, 3]]
    nll = {"target_nll": {"tokens": 1}}
    place = {"site": "blocks.0.hook_resid_post", "position": 0}
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "generate": ("/v1/run", {"rows": rows, "generate": {"max_tokens": 1}}),
        "generate.raw": ("/v1/run", {"rows": rows, "generate": {"max_tokens": 1, "raw": True}}),
        "logprobs": ("/v1/run", {"rows": rows, **nll}),
        "gradients.input": ("/v1/run", {"rows": rows, **nll, "gradients": {"positions": [0], "top_k": 1}}),
        "activations.read": ("/v1/run", {"rows": rows, "reads": [place]}),
        "activations.write": ("/v1/run", {"rows": rows, **nll, "writes": [place | {"values": ""}]}),
        "finetune": ("/v1/jobs", {"rows": rows, "tokens": 1, "steps": 1, "rate_millionths": 1}),
    }
    whole = policy.presets(2)["W"]
    assert calls.keys() == whole.keys()
    for number, (scope, (path, body)) in enumerate(calls.items()):
        without = {name: limits for name, limits in whole.items() if name != scope}
        token = granted("W", jti=f"without-{number}", scopes=without)
        status, said, _ = call("POST", path, body, token)
        assert (status, said) == (403, {"error": f"scope {scope}"})
        # With the scope it gets further: to a model, which this gateway has not.
        status, said, _ = call("POST", path, body, granted("W", jti=f"with-{number}"))
        assert (status, said) == (404, {"error": "no model is served"})


def test_limits_of_scopes_hold(call: Caller) -> None:
    rows, nll = [[1, 2, 3]], {"target_nll": {"tokens": 1}}
    last = {"site": "blocks.1.hook_resid_post", "position": 0}
    beyond: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/run", {"rows": rows, "generate": {"max_tokens": 9}}, "generate: max_tokens"),
        ("/v1/run", {"rows": rows, "generate": {"max_tokens": 9, "raw": True}}, "generate.raw: max_tokens"),
        (
            "/v1/run",
            {"rows": rows, **nll, "gradients": {"positions": [0], "top_k": 33}},
            "gradients.input: top_k",
        ),
        ("/v1/run", {"rows": rows, "reads": [last]}, "activations.read: site"),
        ("/v1/run", {"rows": rows, **nll, "writes": [last | {"values": ""}]}, "activations.write: site"),
        (
            "/v1/jobs",
            {"rows": rows, "tokens": 1, "steps": 65, "rate_millionths": 1},
            "finetune: steps or rows",
        ),
        (
            "/v1/jobs",
            {"rows": rows * 65, "tokens": 1, "steps": 1, "rate_millionths": 1},
            "finetune: steps or rows",
        ),
    ]
    for number, (path, body, reason) in enumerate(beyond):
        assert call("POST", path, body, granted("W"), f"k{number}")[:2] == (403, {"error": reason})


def test_a_repeated_call_is_answered_by_the_same_receipt_and_charged_once(call: Caller) -> None:
    first = call("GET", CARD, token=granted())
    denied = call("GET", "/v1/docs/card/none", token=granted(), key="none")
    spent = dict(call.gateway.spent("one"))
    assert call("GET", CARD, token=granted()) == first
    call.stop()
    call.start()  # killed, and started again
    assert call("GET", CARD, token=granted()) == first
    assert call("GET", "/v1/docs/card/none", token=granted(), key="none") == denied
    assert call.gateway.spent("one") == spent
    assert len(logged(call)) == 2
    status, said, receipt = call("GET", "/v1/docs/evals/evaluations.json", token=granted())
    assert (status, said, receipt) == (422, {"error": "key: used for another request"}, None)


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 81, "a\nb"])
def test_a_call_needs_a_key(call: Caller, key: str) -> None:
    assert call("GET", CARD, token=granted(), key=key)[:2] == (422, {"error": "key"})


def test_a_body_is_counted_as_it_arrives(call: Caller) -> None:
    """Whatever its declared length; what is left of it is not read."""
    body = b"x" * (3 * LARGEST_BODY)
    status, said, _ = call("POST", "/v1/run", body, granted("B"), parts=30)
    assert (status, said) == (413, {"error": "too large"})
    assert call.taken == 10
    assert logged(call)[-1]["reason"] == "413 too large"
    assert call("POST", "/v1/run", body, None, parts=30)[0] == 401
    assert call.taken == 0  # nothing of a stranger's


def malformed() -> st.SearchStrategy[Any]:
    """JSON like a call and unlike it, and bytes that are no JSON."""
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    names = st.sampled_from(
        ["rows", "generate", "target_nll", "reads", "writes", "handle", "max_tokens", "tokens"]
    )
    tree = st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
        max_leaves=12,
    )
    return tree.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)


def test_no_body_ends_in_a_fault(call: Caller) -> None:
    """Not of one with a good token, nor of a path, a key or a header."""
    tokens = [granted(), granted("B", jti="b"), granted("W", jti="w")]

    @hypothesis.settings(max_examples=300)
    @hypothesis.given(
        malformed(),
        st.sampled_from(["/v1/run", "/v1/jobs", "/v1/findings", "/v1/docs/card/x", "/v1/%ff%00"]),
        st.sampled_from(tokens),
        st.integers(0, 10**6),
    )
    def tried(body: bytes, path: str, token: str, number: int) -> None:
        status, said, _ = call("POST", path, body, token, key=f"k{number}")
        assert 400 <= status < 500
        assert set(said) == {"error"}
        assert "Traceback" not in str(said)

    tried()
    assert all(entry["decision"] == "denied" for entry in logged(call))

    @hypothesis.given(st.text(max_size=300, alphabet=st.characters(max_codepoint=255)))
    def with_token(token: str) -> None:
        assert call("GET", CARD, token=token)[0] == 401

    with_token()


def test_deep_json_is_no_call(call: Caller) -> None:
    assert call("POST", "/v1/run", b"[" * 100_000, granted("B"))[:2] == (422, {"error": "not a call"})


class Lenient(BaseModel):
    count: int


def test_what_fastapi_does_by_itself(call: Caller) -> None:
    """The reasons for parsing calls ourselves; when one fails, FastAPI has become stricter."""

    app = FastAPI()

    @app.post("/lenient")
    def lenient(body: Lenient) -> dict[str, Any]:
        return {"count": body.count}

    @app.get("/files/{name:path}")
    def files(name: str) -> dict[str, str]:
        return {"name": name}

    call._app = app
    assert call("POST", "/lenient", {"count": "3", "unknown": 1})[1] == {"count": 3}
    assert call("POST", "/lenient", {"count": True})[1] == {"count": 1}
    large = b'{"count": 3' + b" " * (3 * LARGEST_BODY) + b"}"
    assert call("POST", "/lenient", large, parts=30)[0] == 200  # no limit
    assert call("GET", "/docs")[0] == 200  # nobody asks for a token
    assert call("GET", "/openapi.json")[0] == 200
    status, said, _ = call("POST", "/lenient", {"count": "<secret>"})
    assert (status, "<secret>" in json.dumps(said)) == (422, True)  # the value comes back
    with pytest.raises(ValueError, match="not JSON compliant"):
        call("POST", "/lenient", b'{"count": NaN}')  # it cannot, and the handler of errors fails


def test_a_socket_is_open_to_all_but_for_its_folder(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    made = bound(str(private / "s"))
    made.close()
    private.chmod(0o711)
    with pytest.raises(UserError, match="others may enter this folder"):
        bound(str(private / "s"))
    private.chmod(0o700)
    with pytest.raises(UserError, match="longer than the 107 bytes"):
        bound(str(private / ("x" * 108)))
    with socket.socket(socket.AF_UNIX) as plain, pytest.raises(OSError, match="too long"):
        plain.bind(str(private / ("x" * 108)))


@contextlib.contextmanager
def serving(**settings: Any) -> Any:
    running = uvicorn.Server(uvicorn.Config(FastAPI(), log_config=None, lifespan="off", **settings))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield running
    running.should_exit = True
    thread.join()


def test_what_uvicorn_does_by_itself(tmp_path: Path) -> None:
    """A socket writable for all whatever the umask, taken over by whoever comes second, closed when idle."""
    address = str(tmp_path / "s")
    before = os.umask(0o077)
    try:
        with serving(uds=address):
            assert stat.S_IMODE(os.stat(address).st_mode) == 0o666
            first = os.stat(address).st_ino
            with serving(uds=address):
                assert os.stat(address).st_ino != first
    finally:
        os.umask(before)
    assert uvicorn.Config(FastAPI()).timeout_keep_alive == 5
    assert server.IDLE_SECONDS > 60


def test_a_second_gateway_is_kept_off_a_chain(call: Caller) -> None:
    with pytest.raises(UserError, match="another gateway writes this chain"):
        Chain(call.path, KEY)


def test_a_token_is_for_one_model(call: Caller) -> None:
    assert AUDIENCE != "cd" * 32
    assert call("GET", CARD, token=granted(aud="cd" * 32))[:2] == (
        401,
        {"error": "a token for another model"},
    )
