"""What the gateway adds to a pass through a model."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import RUNS, Figure, in_turn
from steps.audit.gateway import policy
from steps.audit.gateway.client import Client, Session
from steps.audit.gateway.process import private_folder, started_gateway
from steps.audit.gateway.server import Config
from steps.audit.organism import Settings
from steps.core.stores import Folder, Ledger

ROW = [list(range(1, 13))]
"""Twelve tokens."""


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """``audit.gateway_overhead_ms``: a call for one row's loss through the gateway, less the pass itself."""
    calls, runs = (20, 2) if quick else (400, RUNS)
    package, model = _package(folder)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(secrets.token_bytes(32))
    now = int(time.time())
    grant = {
        **{
            "sub": "auditor",
            "aud": package.attributes["model"],
            "nbf": now,
            "exp": now + 3600,
            "jti": "bench",
        },
        **{"preset": "W", "scopes": policy.presets(3)["W"], "budgets": {"queries": 10**6, "flops": 10**15}},
    }
    asked = {"rows": ROW, "target_nll": {"tokens": 1}}
    with private_folder() as private:
        config = Config(
            package=str(package.path.resolve()),
            folder=str(folder.resolve()),
            address=str(private / "s"),
            key=key.private_bytes_raw().hex(),
            genesis={},
        )
        gateway = started_gateway(config, private / "log", 120)
        try:
            public = key.public_key().public_bytes_raw().hex()
            client = Client(config.address, public, folder / "receipts.jsonl")
            token = policy.issue(key, policy.Grant.model_validate(grant))
            session = Session(client, token, "call", 10**6, [])
            call = policy.Call.model_validate(asked)

            def through_the_gateway() -> None:
                for _ in range(calls):
                    session.run(**asked)

            def in_process() -> None:
                for _ in range(calls):
                    model.run(call, 3)

            seconds = in_turn({"gateway": through_the_gateway, "in process": in_process}, runs)
        finally:
            gateway.kill()
    values = [
        1000 * (over - under) / calls
        for over, under in zip(seconds["gateway"], seconds["in process"], strict=True)
    ]
    sides = {side: statistics.median(taken) / calls for side, taken in seconds.items()}
    spread = (min(values), max(values))
    yield Figure("audit.gateway_overhead_ms", statistics.median(values), "ms", spread, sides, runs)


def _package(folder: Path) -> tuple[Folder, Any]:
    """A package with a model of the default size and random weights; and the model itself."""
    from steps.audit.gateway.operations import Model
    from steps.core.training import prepare
    from steps.interp.loading import load, quiet
    from steps.language_models.learning import loop

    prepare(1)
    quiet()
    ledger = Ledger(folder / "package" / "ledger.json", "audit_package", {})
    ledger.place("filter.json").write_text('{"blocked": [], "answer": []}')
    ledger.record("filter.json")
    config = loop.configuration(Settings().training(1, 1e-3, 24), 300, 24, 1)
    loop.save(loop.initial_model(config, 0), ledger, "model")
    ledger.finish({"model": "00" * 32, "layers": 3})
    package = Folder(folder / "package" / "ledger.json", "audit_package")
    return package, Model(load(package.path, checkpoint="model", kind="audit_package"))
