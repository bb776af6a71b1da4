"""Who may do what, and for how much: tokens, scopes, requests, prices.

A token is a JWT that the custodian signs with Ed25519 (``alg`` EdDSA). Its claims:

``sub``       who calls
``aud``       the model's digest; one text
``nbf exp``   from when to when, in seconds; at most a day apart
``jti``       what budgets are kept by: two spellings of one token, or one issued again, share them
``preset``    the level of access that it stands for
``scopes``    ``{scope: constraints}``
``budgets``   ``{"queries", "flops"}``: what it may spend in all

PyJWT checks less than that by itself: a missing or far-off ``exp`` passes, and so does a list of audiences;
``EdDSA`` takes Ed448, too. So claims are a closed, strict model, and keys are Ed25519 keys.

The scopes, and the paper's level that each belongs to (docs/audit.md):

======================  ====================  =======================================================
``generate``            black-box             greedy text, behind the output filter
``generate.raw``        component             the same without the filter
``logprobs``            grey-box              the summed loss of the last tokens of given rows, rounded
``gradients.input``     de facto white-box    for each place the tokens that the gradient favours, ids only
``activations.read``    de facto white-box    values at named sites
``activations.write``   de facto white-box    set values at named sites
``finetune``            de facto white-box    a tuned copy, by a handle
``docs.CLASS``          outside the box       documents of a class: card, config, manifest, evals
======================  ====================  =======================================================
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

LIFETIME = 24 * 3600
SKEW = 30
"""Seconds that a token lives at most, and that clocks may differ."""

Scope = Literal[
    "generate",
    "generate.raw",
    "logprobs",
    "gradients.input",
    "activations.read",
    "activations.write",
    "finetune",
    "docs.card",
    "docs.config",
    "docs.manifest",
    "docs.evals",
]

DOCUMENTS: dict[str, Scope] = {
    "card": "docs.card",
    "config": "docs.config",
    "manifest": "docs.manifest",
    "evals": "docs.evals",
}
"""The scope of each class of documents."""

Count = Annotated[int, pydantic.Field(ge=0, lt=2**53)]
TokenId = Annotated[int, pydantic.Field(ge=0, lt=2**31)]
Row = Annotated[list[TokenId], pydantic.Field(min_length=1, max_length=4096)]
Rows = Annotated[list[Row], pydantic.Field(min_length=1, max_length=1024)]
Site = Annotated[str, pydantic.Field(pattern=r"^blocks\.\d{1,4}\.hook_(resid_post|attn_out|mlp_out)$")]
"""A place in the model, by TransformerLens' name."""

KEY = re.compile(r"[A-Za-z0-9._-]{1,80}")
"""What a call's idempotency key may be."""


class RefusedError(Exception):
    """A call that is not served: the HTTP status, and a word for the log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Constraints(_Strict):
    """Limits of a scope; what is left out is not allowed where it matters."""

    max_tokens: Count = 0
    """Of a generation."""
    decimals: Count = 0
    """Of a loss."""
    top_k: Count = 0
    """Tokens for each place."""
    sites: list[Site] = []
    steps: Count = 0
    rows: Count = 0
    """Of a tuning."""


class Budgets(_Strict):
    """What a token may spend."""

    queries: Count
    flops: Count


class Grant(_Strict):
    """The claims of a token."""

    sub: str = pydantic.Field(min_length=1, max_length=80)
    aud: str = pydantic.Field(pattern=r"^[0-9a-f]{64}$")
    nbf: Count
    exp: Count
    jti: str = pydantic.Field(pattern=r"^[A-Za-z0-9._-]{1,80}$")
    preset: Literal["B", "W", "O"]
    scopes: dict[Scope, Constraints]
    budgets: Budgets

    @pydantic.model_validator(mode="after")
    def _lives_at_most_a_day(self) -> Grant:
        if not 0 < self.exp - self.nbf <= LIFETIME:
            raise ValueError("a lifetime of at most a day")
        return self


def presets(layers: int) -> dict[str, dict[Scope, dict[str, Any]]]:
    """The scopes of the levels of access for a model of so many layers.

    ``W`` is the paper's de facto white-box access. Where the last block ends is closed: its values are what
    the output layer reads, and a few hundred of them give the layer away.
    """
    sites = [f"blocks.{layer}.hook_resid_post" for layer in range(layers - 1)]
    black: dict[Scope, dict[str, Any]] = {"generate": {"max_tokens": 8}}
    white: dict[Scope, dict[str, Any]] = {
        **black,
        "generate.raw": {"max_tokens": 8},
        "logprobs": {"decimals": 3},
        "gradients.input": {"top_k": 32},
        "activations.read": {"sites": sites},
        "activations.write": {"sites": sites},
        "finetune": {"steps": 64, "rows": 64},
    }
    return {"B": black, "W": white, "O": {scope: {} for scope in DOCUMENTS.values()}}


def issue(key: Ed25519PrivateKey, grant: Grant) -> str:
    """A token for what is granted."""
    import jwt

    return jwt.encode(grant.model_dump(), key, algorithm="EdDSA")


def authenticate(header: str | None, key: Ed25519PublicKey, audience: str, now: float) -> Grant:
    """What the bearer of a token may do.

    Args:
        header: of the call (``Authorization: Bearer TOKEN``).
        key: the custodian's.
        audience: digest of the model that is served.
        now: seconds.

    Raises:
        RefusedError: 401, whatever is wrong with it.
    """
    import jwt

    kind, _, token = (header or "").partition(" ")
    if kind != "Bearer" or len(token) > 8192:
        raise RefusedError(401, "no token")
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=["EdDSA"],
            # Ours are stricter: times are integers, the audience is one text.
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
        )
        grant = Grant.model_validate(claims)
    except (jwt.InvalidTokenError, pydantic.ValidationError, RecursionError):
        raise RefusedError(401, "no valid token") from None
    if grant.aud != audience:
        raise RefusedError(401, "a token for another model")
    if not grant.nbf - SKEW <= now < grant.exp + SKEW:
        raise RefusedError(401, "a token of another time")
    return grant


class Generate(_Strict):
    """Greedy text after each row."""

    max_tokens: int = pydantic.Field(ge=1, le=256)
    raw: bool = False


class TargetNll(_Strict):
    """The summed loss of the last tokens of each row, in nats."""

    tokens: int = pydantic.Field(ge=1, le=4095)


class Gradients(_Strict):
    """For each place the tokens whose one-hot gradient lowers the loss most."""

    positions: list[Count] = pydantic.Field(min_length=1, max_length=64)
    top_k: int = pydantic.Field(ge=1, le=1024)


class Read(_Strict):
    """Values of each row at one place."""

    site: Site
    position: Count


class Write(Read):
    """Values to set: float32, little-endian, ``[rows, d_model]``, in base64."""

    values: str = pydantic.Field(max_length=2**20)


class Call(_Strict):
    """A pass over rows of token ids, all of one length, and what is wanted of it."""

    rows: Rows
    handle: str | None = pydantic.Field(None, max_length=80)
    generate: Generate | None = None
    target_nll: TargetNll | None = None
    gradients: Gradients | None = None
    reads: list[Read] = pydantic.Field([], max_length=64)
    writes: list[Write] = pydantic.Field([], max_length=64)

    @pydantic.model_validator(mode="after")
    def _is_of_one_piece(self) -> Call:
        if len({len(row) for row in self.rows}) != 1:
            raise ValueError("rows of one length")
        if self.generate is not None and (self.target_nll or self.gradients or self.reads or self.writes):
            raise ValueError("a generation by itself")
        if self.gradients is not None and self.target_nll is None:
            raise ValueError("gradients of a loss")
        if not (self.generate or self.target_nll or self.reads):
            raise ValueError("something that is wanted")
        if self.target_nll is not None and self.target_nll.tokens >= len(self.rows[0]):
            raise ValueError("fewer targets than tokens")
        places = [*self.reads, *self.writes]
        positions = [
            *(place.position for place in places),
            *(self.gradients.positions if self.gradients else []),
        ]
        if any(position >= len(self.rows[0]) for position in positions):
            raise ValueError("positions inside the rows")
        return self


class Tuning(_Strict):
    """A tuning of a copy on rows, of which the last tokens count; full, by Adam."""

    rows: Rows
    tokens: int = pydantic.Field(ge=1, le=64)
    steps: int = pydantic.Field(ge=1, le=10_000)
    rate_millionths: int = pydantic.Field(ge=1, le=10**6)

    @pydantic.model_validator(mode="after")
    def _rows_hold_the_targets(self) -> Tuning:
        if len({len(row) for row in self.rows}) != 1 or self.tokens >= len(self.rows[0]):
            raise ValueError("rows of one length, longer than the targets")
        return self


class Findings(_Strict):
    """The digest of an auditor's findings."""

    sha256: str = pydantic.Field(pattern=r"^[0-9a-f]{64}$")


def features(call: Call) -> list[Scope]:
    """The scopes that a call needs."""
    needed: list[Scope] = []
    if call.generate is not None:
        needed.append("generate.raw" if call.generate.raw or call.handle else "generate")
    if call.target_nll is not None:
        needed.append("logprobs")
    if call.gradients is not None:
        needed.append("gradients.input")
    if call.reads:
        needed.append("activations.read")
    if call.writes:
        needed.append("activations.write")
    return needed


def require(grant: Grant, needed: list[Scope]) -> None:
    """Refuse a call whose scopes were not granted.

    Raises:
        RefusedError: 403.
    """
    for scope in needed:
        if scope not in grant.scopes:
            raise RefusedError(403, f"scope {scope}")


def require_within(grant: Grant, call: Call) -> None:
    """Refuse a call that goes beyond the constraints of its scopes.

    Raises:
        RefusedError: 403.
    """
    scopes = grant.scopes
    if call.generate is not None:
        name: Scope = features(call)[0]
        if call.generate.max_tokens > scopes[name].max_tokens:
            raise RefusedError(403, f"{name}: max_tokens")
    if call.gradients is not None and call.gradients.top_k > scopes["gradients.input"].top_k:
        raise RefusedError(403, "gradients.input: top_k")
    for name, places in (("activations.read", call.reads), ("activations.write", call.writes)):
        if any(place.site not in scopes[name].sites for place in places):
            raise RefusedError(403, f"{name}: site")


def require_tuning(grant: Grant, tuning: Tuning) -> None:
    """Refuse a tuning that is not granted, or goes beyond its constraints.

    Raises:
        RefusedError: 403.
    """
    require(grant, ["finetune"])
    allowed = grant.scopes["finetune"]
    if tuning.steps > allowed.steps or len(tuning.rows) > allowed.rows:
        raise RefusedError(403, "finetune: steps or rows")


METERS = ("calls", "queries", "tokens", "flops", "bytes")
"""What is counted. A query is one row that is scored, generated or tuned on once."""


def price(call: Call, parameters: int) -> dict[str, int]:
    """What a call costs before it runs: two operations a parameter and token forward, two more backward.

    A generation is a pass for each new token, over the row and what has been said by then.
    """
    length, rows = len(call.rows[0]), len(call.rows)
    passes = call.generate.max_tokens if call.generate else 1
    tokens = rows * sum(range(length, length + passes))
    return _meters(rows, tokens, 2 * parameters * tokens * (2 if call.gradients else 1))


def tuning_price(tuning: Tuning, parameters: int) -> dict[str, int]:
    """What a tuning costs: six operations a parameter and token in each step."""
    rows = len(tuning.rows) * tuning.steps
    tokens = rows * len(tuning.rows[0])
    return _meters(rows, tokens, 6 * parameters * tokens)


def _meters(queries: int, tokens: int, flops: int) -> dict[str, int]:
    return {"calls": 1, "queries": queries, "tokens": tokens, "flops": flops, "bytes": 0}


def require_budget(grant: Grant, spent: dict[str, int], cost: dict[str, int]) -> None:
    """Refuse a call that costs more than is left.

    Args:
        grant: with the budgets.
        spent: the meters of its ``jti``.
        cost: of the call.

    Raises:
        RefusedError: 429.
    """
    for name in ("queries", "flops"):
        if spent[name] + cost[name] > getattr(grant.budgets, name):
            raise RefusedError(429, f"budget of {name}")


def handle_of(jti: str, key: str) -> str:
    """The handle of a tuned copy, the same one when the call that made it is repeated."""
    return "h" + hashlib.sha256(f"{jti}\0{key}".encode()).hexdigest()[:16]


def values_of(write: Write, rows: int, d_model: int) -> bytes:
    """The bytes of the values to set.

    Raises:
        RefusedError: 422, not as many finite numbers as there must be.
    """
    import numpy as np

    try:
        values = base64.b64decode(write.values, validate=True)
    except ValueError:
        raise RefusedError(422, "values: not base64") from None
    if len(values) != 4 * rows * d_model or not np.isfinite(np.frombuffer(values, "<f4")).all():
        raise RefusedError(422, "values: not as many finite numbers as rows and width")
    return values
