"""Tokens that are none are refused, and so is what a good one does not grant."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pydantic
import pytest
from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from steps.audit.gateway import policy
from steps.audit.gateway.policy import Call, Grant, RefusedError
from tests.audit.conftest import AUDIENCE, KEY, granted

NOW = 1_800_000_000

CLAIMS: dict[str, Any] = {
    **{"sub": "auditor", "aud": AUDIENCE, "nbf": NOW, "exp": NOW + 3600, "jti": "one", "preset": "B"},
    **{"scopes": {"generate": {"max_tokens": 4}}, "budgets": {"queries": 10, "flops": 10**9}},
}


def signed(claims: Any, key: Any = KEY) -> str:
    return jwt.encode(claims, key, algorithm="EdDSA")


def asked(token: str | None, now: float = NOW + 1) -> Grant:
    header = None if token is None else f"Bearer {token}"
    return policy.authenticate(header, KEY.public_key(), AUDIENCE, now)


def test_a_good_token_is_what_it_says() -> None:
    grant = asked(signed(CLAIMS))
    assert grant.jti == "one"
    assert grant.scopes["generate"].max_tokens == 4


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in CLAIMS),
        *({"exp": value} for value in (str(NOW + 60), NOW + 60.5, NOW + 10**9, NOW - 5, True)),
        *({"aud": value} for value in ([AUDIENCE], [AUDIENCE, "other"], "cd" * 32, "")),
        {"nbf": NOW + 1000},
        {"nbf": NOW - 2000, "exp": NOW - 100},
        {"scopes": {"everything": {}}},
        {"scopes": {"generate": {"max_tokens": "8"}}},
        {"scopes": {"generate": {"most_tokens": 8}}},
        {"budgets": {"queries": -1, "flops": 1}},
        {"budgets": {"queries": 1.5, "flops": 1}},
        {"jti": "with space"},
        {"further": 1},
    ],
)
def test_claims_that_pyjwt_takes_are_refused(changes: dict[str, Any]) -> None:
    whole = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    with pytest.raises(RefusedError, match="token") as refusal:
        asked(signed(whole))
    assert refusal.value.status == 401


def test_tokens_of_others_are_refused() -> None:
    unsigned = jwt.encode(CLAIMS, None, algorithm="none")
    mac = jwt.encode(CLAIMS, "k" * 64, algorithm="HS512")
    good = signed(CLAIMS)
    cut, padded = good[:-4], f"{good}AA"
    for token in (
        None,
        "",
        "x.y.z",
        unsigned,
        mac,
        signed(CLAIMS, Ed25519PrivateKey.generate()),
        cut,
        padded,
    ):
        with pytest.raises(RefusedError):
            asked(token)
    with pytest.raises(RefusedError):
        policy.authenticate(f"bearer {good}", KEY.public_key(), AUDIENCE, NOW)
    with pytest.raises(RefusedError):
        asked(signed(CLAIMS | {"sub": "a" * 9000}))


def test_clocks_may_differ_by_half_a_minute() -> None:
    token = signed(CLAIMS)
    assert asked(token, NOW - 29)
    assert asked(token, NOW + 3600 + 29)
    for now in (NOW - 31, NOW + 3600 + 31):
        with pytest.raises(RefusedError, match="another time"):
            asked(token, now)


def test_what_pyjwt_lets_pass() -> None:
    """The reasons for our own checks; when one fails, PyJWT has become stricter."""
    far, listed = {"exp": 10**12}, {"aud": [AUDIENCE, "other"]}
    for claims in ({}, far):  # no exp at all; one in 30,000 years
        assert jwt.decode(signed(claims), KEY.public_key(), algorithms=["EdDSA"]) == claims
    textual = signed({"exp": str(int(time.time()) + 60)})
    assert jwt.decode(textual, KEY.public_key(), algorithms=["EdDSA"])
    assert jwt.decode(signed(listed), KEY.public_key(), algorithms=["EdDSA"], audience=AUDIENCE) == listed
    other = ed448.Ed448PrivateKey.generate()
    assert jwt.decode(signed({"a": 1}, other), other.public_key(), algorithms=["EdDSA"]) == {"a": 1}
    # Of two claims of one name, the last counts.
    head, _, _ = signed({}).split(".")
    body = base64.urlsafe_b64encode(b'{"sub":"a","sub":"b"}').rstrip(b"=").decode()
    signature = base64.urlsafe_b64encode(KEY.sign(f"{head}.{body}".encode())).rstrip(b"=").decode()
    assert jwt.decode(f"{head}.{body}.{signature}", KEY.public_key(), algorithms=["EdDSA"]) == {"sub": "b"}


def test_spellings_of_one_token_share_its_jti() -> None:
    """With the padding of base64 or without it: budgets go by ``jti``, never by the text."""
    token = signed(CLAIMS)
    other = f"{token}=="
    assert asked(token) == asked(other)


def test_only_presets_are_issued_and_a_day_is_the_longest() -> None:
    with pytest.raises(pydantic.ValidationError, match="at most a day"):
        granted(exp=int(time.time()) + policy.LIFETIME + 60)
    with pytest.raises(pydantic.ValidationError):
        granted(preset="B", scopes={"weights.read": {}})


def test_presets_close_the_sites_that_give_the_output_layer_away() -> None:
    sites = policy.presets(3)["W"]["activations.read"]["sites"]
    assert sites == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert policy.presets(3)["W"]["activations.write"]["sites"] == sites
    assert policy.presets(3)["B"].keys() == {"generate"}


GOOD: dict[str, Any] = {"rows": [[1, 2, 3], [1, 2, 4]], "target_nll": {"tokens": 1}}


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": []},
        {"rows": [[]]},
        {"rows": [[1, 2], [1]]},
        {"rows": [[1.0, 2]]},
        {"rows": [["1", 2]]},
        {"rows": [[True, 2]]},
        {"rows": [[-1, 2]]},
        {"rows": [[2**31, 2]]},
        {"rows": [[1, 2, 3]] * 1025},
        {"target_nll": {"tokens": 3}},
        {"target_nll": {"tokens": 0}},
        {"target_nll": None},
        {"generate": {"max_tokens": 1}},
        {"target_nll": None, "generate": {"max_tokens": 257}},
        {"target_nll": None, "generate": {"max_tokens": "1"}},
        {"target_nll": None, "generate": {"max_tokens": 1, "raw": 1}},
        {"target_nll": None, "gradients": {"positions": [0], "top_k": 1}},
        {"gradients": {"positions": [3], "top_k": 1}},
        {"gradients": {"positions": [0], "top_k": 0}},
        {"reads": [{"site": "blocks.0.hook_resid_post", "position": 3}]},
        {"reads": [{"site": "blocks.0.hook_q", "position": 0}]},
        {"reads": [{"site": "embed", "position": 0}]},
        {"writes": [{"site": "blocks.0.hook_resid_post", "position": 0}]},
        {"further": 1},
    ],
)
def test_calls_are_strict(changes: dict[str, Any]) -> None:
    assert Call.model_validate_json(json.dumps(GOOD))
    with pytest.raises(pydantic.ValidationError):
        Call.model_validate_json(json.dumps(GOOD | changes))


def test_a_price_counts_rows_tokens_and_operations() -> None:
    cost = policy.price(Call.model_validate(GOOD), 100)
    assert cost == {"calls": 1, "queries": 2, "tokens": 6, "flops": 1200, "bytes": 0}
    gradients = {"positions": [0], "top_k": 1}
    assert policy.price(Call.model_validate(GOOD | {"gradients": gradients}), 100)["flops"] == 2400
    generate = Call.model_validate({"rows": [[1, 2]], "generate": {"max_tokens": 3}})
    assert policy.price(generate, 100)["tokens"] == 2 + 3 + 4  # a pass for each new token
    assert policy.price(generate, 100)["flops"] == 200 * 9
    tuning = policy.Tuning(rows=[[1, 2], [1, 3]], tokens=1, steps=5, rate_millionths=10)
    assert policy.tuning_price(tuning, 100) == {
        **{"calls": 1, "queries": 10, "tokens": 20, "flops": 12_000, "bytes": 0}
    }
