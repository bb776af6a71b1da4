"""Falsify finished records in every way that the verifier knows, and see what it says (docs/audit.md).

Reads the packages, whose documents the chains of this step are about, and the runs of the study. Writes
JSON: ``{"honest": [{"kind", "class"}], "mutations": [{"mutation", "expected", "class"}]}``, where ``class``
is what the exit code of the verifier names, a process of its own (``python -I``).

Honest records: those of the study's runs, and as many as asked for that are made here by live gateways,
which are called to read documents, beyond their scopes, and with a token that is none; every second gateway
is killed in between, with a call on its way. All records are judged in random order. Files of the runs are
only read."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steps.audit.evidence import verify
from steps.audit.evidence.mutations import MUTATIONS
from steps.audit.gateway import policy
from steps.audit.gateway.client import Client, DeniedError, UnsoundError
from steps.audit.gateway.process import private_folder, started_gateway
from steps.audit.gateway.server import Config as GatewayConfig
from steps.core.digest import seed as derive
from steps.core.runner import Output, logger, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import Folder, write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

STEP = "audit.tamper"

START_SECONDS = 120.0


class Settings(BaseSettings):
    """How many records are made and falsified."""

    seed: int = Field(0, ge=0, description="of the places that are falsified")
    honest: int = Field(
        10,
        ge=2,
        le=1000,
        description="further honest records to try the verifier on, besides those of the runs",
    )
    mutations: int = Field(10, ge=1, le=1000, description="falsified records of each kind")


def make_record(package: Folder, folder: Path, key: Ed25519PrivateKey, killed: bool) -> None:
    """A short audit with refusals of every kind, whose gateway is killed in between or not.

    Args:
        package: what is served.
        folder: where its files go.
        key: the custodian's.
        killed: whether the gateway is.
    """
    folder.mkdir()
    now = int(time.time())
    audience = package.attributes["model"]
    claims = {
        "sub": "auditor",
        "aud": audience,
        "nbf": now,
        "exp": now + 3600,
        "budgets": {"queries": 0, "flops": 0},
    }
    readers = policy.presets(1)["O"]
    grants = [
        policy.Grant.model_validate({**claims, "jti": "reader", "preset": "O", "scopes": readers}),
        policy.Grant.model_validate(
            {**claims, "jti": "writer", "preset": "B", "scopes": policy.presets(1)["B"]}
        ),
    ]
    reader, writer = (policy.issue(key, grant) for grant in grants)
    with private_folder() as private:
        config = GatewayConfig(
            package=str(package.path),
            folder=str(folder),
            address=str(private / "gateway.sock"),
            key=key.private_bytes_raw().hex(),
            genesis={"package": package.fingerprint},
            serve_model=False,
        )
        public = key.public_key().public_bytes_raw().hex()
        gateway = started_gateway(config, private / "log", START_SECONDS)
        client = Client(config.address, public, folder / "receipts.jsonl", START_SECONDS)
        try:
            client.document(reader, "card", "card", "README.md")
            _refused(client, writer, "beyond")
            with contextlib.closing(Client(config.address, public, private / "stranger")) as stranger:
                _require_unknown(stranger)
            if killed:
                call = threading.Thread(
                    target=client.document, args=(reader, "evals", "evals", "evaluations.json")
                )
                call.start()
                gateway.kill()
                gateway = started_gateway(config, private / "log", START_SECONDS)
                call.join()
            for number in range(5):
                client.document(reader, f"manifest-{number}", "manifest", "manifest.json")
            _refused(client, reader, "no such", "manifest", "../../filter.json")
            client.submit(reader, "findings", "0" * 64)
            if gateway.end() != 0:
                raise RuntimeError(f"the gateway did not close its chain ({gateway.last_words()})")
        finally:
            client.close()
            gateway.kill()


def _refused(client: Client, token: str, key: str, kind: str = "card", name: str = "README.md") -> None:
    try:
        client.document(token, key.replace(" ", "-"), kind, name)
    except DeniedError:
        return
    raise RuntimeError(f"{key}: served")


def _require_unknown(client: Client) -> None:
    try:
        client.document("none", "stranger", "card", "README.md")
    except UnsoundError:  # no receipt: the gateway does not know who asked
        return
    raise RuntimeError("a call without a token was served")


def verdict(folder: Path) -> str:
    """What the verifier's exit code says of the records in a folder."""
    command = [sys.executable, "-I", verify.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = {code: name for name, code in verify.CODES.items()}
    if done.returncode not in names:
        raise RuntimeError(f"the verifier ended with {done.returncode}: {done.stderr[-500:]}")
    return names[done.returncode]


def main(packages: list[Path], runs: list[Path], settings: Settings, out: Output) -> None:
    """Make honest records, falsify copies, and have all of them judged."""
    import numpy as np
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(secrets.token_bytes(32))
    served = [Folder(path.resolve(), "audit_package") for path in packages]
    random = np.random.default_rng(derive(settings.seed, STEP))
    with private_folder() as folder:
        cases: list[tuple[str, str, Path]] = [
            ("run", "verified", Folder(path, "audit_run").check_all().folder) for path in runs
        ]
        made = []
        for number in progress(range(settings.honest), settings.honest, "honest records"):
            killed = number % 2 == 1
            made.append(folder / f"honest-{number}")
            make_record(served[number % len(served)], made[-1], key, killed)
            cases.append(("killed and denied" if killed else "denied", "verified", made[-1]))
        for mutation, (change, expected) in MUTATIONS.items():
            for number in range(settings.mutations):
                copy = folder / f"{mutation.replace(' ', '-')}-{number}"
                shutil.copytree(made[number % len(made)], copy)
                change(copy, random, key)
                cases.append((mutation, expected, copy))
        found: dict[int, str] = {}
        for number in progress(random.permutation(len(cases)).tolist(), len(cases), "records"):
            found[number] = verdict(cases[number][2])
    results: dict[str, list[dict[str, Any]]] = {"honest": [], "mutations": []}
    for number, (kind, expected, _) in enumerate(cases):
        if kind in MUTATIONS:
            results["mutations"].append({"mutation": kind, "expected": expected, "class": found[number]})
        else:
            results["honest"].append({"kind": kind, "class": found[number]})
        if found[number] != expected:
            logger.warning("%s: expected %s, the verifier says %s", kind, expected, found[number])
    write_json(out, results)


if __name__ == "__main__":
    run(main)
