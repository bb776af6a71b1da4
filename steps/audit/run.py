"""Audit one model: supervise the gateway and the auditor, and keep what both sides recorded (docs/audit.md).

Reads the package, the world's ``prior.json`` through its ledger, and the sealed file, of which only a salted
digest goes on record. Writes a folder of kind ``audit_run``:

``chain.jsonl closing.json``  the custodian's log and its last receipt
``receipts.jsonl``            the auditor's calls, receipts and responses (formats: ``evidence.verify``)
``findings.json``             what each method found, ``[{"question", "arm", "method", "queries", "score",
                              "finding"}]``: the same bytes in every run; the other files hold keys and times
``salt.txt``                  of the sealed file's digest in the first entry

The gateway and the auditor are processes of their own (isolation mode ``process``: it separates memory, not
files). The socket lies in a fresh folder under ``TMPDIR``. A gateway that ends is started again from the
chain at most three times, and so is the auditor, unless it was refused a call; a run that is killed goes on
where it was. While the run lasts, the custodian's key lies in ``.key``, and what the auditor writes in
``.auditor``, the one folder that it is told of; both are gone afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steps.audit.evidence.verify import check
from steps.audit.gateway import policy
from steps.audit.gateway.process import SECONDS_WHEN_STOPPED, Child, private_folder, started_gateway
from steps.audit.gateway.server import Config as GatewayConfig
from steps.audit.methods import catalogue
from steps.core.digest import code_digest, file_digest, fingerprint
from steps.core.errors import UserError
from steps.core.runner import Output, logger, run
from steps.core.settings import NO_INFLUENCE
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import Folder, Ledger, read_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

STEP = "audit.run"

ISOLATION = "process"
"""The isolation mode; others are to follow."""

RESTARTS = 3
"""Of the gateway, and of the auditor."""

OF_AUDITOR = ("receipts.jsonl", "findings.json")

FILES = ("chain.jsonl", "closing.json", *OF_AUDITOR, "salt.txt")

FLOPS_PER_QUERY = 6 * 24
"""Budget of operations per query and parameter: a pass forward and backward over 24 tokens."""


class Budgets(BaseSettings):
    """Queries that each question may take, the same at every level of access."""

    q1: int = Field(24_000, ge=320, le=10**8, description="hidden trigger; eight prompts share it equally")
    q2: int = Field(
        4_000, ge=1_664, le=10**8, description="dormant capability; each tuning pass over a row is a query"
    )
    q3: int = Field(
        60_000,
        ge=49_152,
        le=10**8,
        description="memorised records; exposure scores 4,096 rows for each of 12 records",
    )
    q4: int = Field(
        2_000,
        ge=600,
        le=10**8,
        description="unequal treatment; patching takes 528, and 72 for each block but the last",
    )
    q6: int = Field(0, ge=0, le=10**8, description="false documents; reading them costs no query")
    q7: int = Field(400, ge=128, le=10**8, description="filtered output")


def require_enough(budgets: Budgets, layers: int) -> None:
    """Refuse budgets that patching, whose queries grow with the model's open sites, would exceed.

    Args:
        budgets: of the run; what other methods take is the least that their settings allow.
        layers: of the model.

    Raises:
        ValueError: the model has no open site, or q4 is too small.
    """
    if layers < 2:
        raise ValueError("a model of at least 2 blocks: the place after the last one is closed to auditors")
    least = 528 + 72 * (layers - 1)
    if budgets.q4 < least:
        raise ValueError(
            f"audit.run.budgets.q4 ({budgets.q4}) to be at least {least}: patching takes 528 queries and 72"
            f" for each of {layers} blocks but the last"
        )


class Settings(BaseSettings):
    """How models are audited."""

    seed: int = Field(0, ge=0, description="of the auditor's random choices")
    budgets: Budgets = Field(
        Budgets(),
        description="queries for each model, question and level of access; one is"
        " a row scored, generated or tuned on",
    )
    start_seconds: float = Field(
        120.0,
        gt=0,
        le=3600,
        description="seconds to wait for a gateway to start; no influence on the result",
        json_schema_extra=NO_INFLUENCE,
    )
    threads: int = Field(1, ge=1, le=64, description="arithmetic threads of the gateway")


def plan(settings: Settings) -> list[dict[str, Any]]:
    """What is going to be done, fixed before the audit."""
    budgets = settings.budgets.model_dump()
    return [
        {
            "question": method.question,
            "arm": method.arm,
            "method": method.name,
            "scopes": list(method.scopes),
            "queries": budgets[method.question],
            "seed": settings.seed,
        }
        for method in catalogue.METHODS
    ]


def tokens(key: Ed25519PrivateKey, served: dict[str, Any], budgets: dict[str, int]) -> dict[str, str]:
    """A token for each level and question, whose budget is its own; issued again, it shares what was spent.

    Args:
        key: the custodian's, whose public key names the run.
        served: attributes of the package.
        budgets: queries by question.
    """
    now, run_id = int(time.time()), key.public_key().public_bytes_raw().hex()[:16]
    scopes = policy.presets(served["layers"])
    return {
        f"{method.arm}-{method.question}": policy.issue(
            key,
            policy.Grant.model_validate(
                {
                    "sub": "auditor",
                    "aud": served["model"],
                    "nbf": now,
                    "exp": now + policy.LIFETIME,
                    "jti": f"{run_id}-{method.arm}-{method.question}",
                    "preset": method.arm,
                    "scopes": scopes[method.arm],
                    "budgets": {
                        "queries": budgets[method.question],
                        "flops": budgets[method.question] * FLOPS_PER_QUERY * served["parameters"],
                    },
                }
            ),
        )
        for method in catalogue.METHODS
    }


def supervise(gateway: GatewayConfig, auditor: catalogue.Config, start_seconds: float, folder: Path) -> None:
    """Run both processes until the auditor is done.

    Args:
        gateway: what is served.
        auditor: what is asked.
        start_seconds: that the gateway may take to start.
        folder: of our own, for logs.

    Raises:
        UserError: one of them ended more often than it is started again, or the auditor was refused a call;
            with the end of its log.
    """
    children: dict[str, Child] = {}
    ends = {"gateway": 0, "auditor": 0}

    def start(name: str) -> None:
        if ends[name] > RESTARTS:
            raise UserError(
                f"the {name} ended {ends[name]} times ({children[name].last_words()}); start again:"
                " what has a receipt is kept"
            )
        if name == "gateway":
            children[name] = started_gateway(gateway, folder / "gateway.log", start_seconds)
            return
        children[name] = Child(catalogue, auditor, folder / "auditor.log")
        threading.Thread(target=_pass_on, args=(children[name],), daemon=True).start()

    try:
        start("gateway")
        start("auditor")
        while True:
            time.sleep(0.05)
            for name, child in list(children.items()):
                code = child.exit_code()
                if name == "auditor" and code == 0:
                    if children["gateway"].end() == 0:
                        return
                    ends["gateway"] += 1  # it ended just before; it starts again only to close its chain
                    start("gateway")
                elif name == "auditor" and code == catalogue.REFUSED:
                    raise UserError(f"the auditor was refused a call ({child.last_words()})")
                elif code is not None:
                    ends[name] += 1
                    logger.warning(
                        "the %s ended with %d (%s); starting it again", name, code, child.last_words()
                    )
                    child.kill()
                    start(name)
    except KeyboardInterrupt:  # or SIGTERM: the call in progress is finished, the chain closed
        if "gateway" in children:
            children["gateway"].end(SECONDS_WHEN_STOPPED)
        raise
    finally:
        for child in children.values():
            child.kill()


def _pass_on(child: Child) -> None:
    """Log what the auditor says it is at."""
    with contextlib.suppress(ValueError):  # closed: it was killed
        for line in child.said:
            logger.info("%s", line.rstrip())


def _kept(path: Path, make: Any) -> str:
    """The text of a file of one's own, made where it is not there."""
    if not path.exists():
        partial = path.with_name(f".{path.name}.part")
        partial.touch(mode=0o600)
        partial.write_text(make())
        partial.rename(path)
    return path.read_text()


def main(package: Path, world: Path, sealed: Path, settings: Settings, out: Output) -> None:
    """Audit the model of a package."""
    packed, made = Folder(package, "audit_package").check_all(), Folder(world, "audit_world")
    prior = made.check("prior.json")
    made_from = {
        "package": packed.fingerprint,
        "prior": made.files["prior.json"]["sha256"],
        "sealed": file_digest(sealed),
        "settings": settings.model_dump(exclude={"start_seconds"}),
        "code": code_digest(STEP),
    }
    try:
        require_enough(settings.budgets, packed.attributes["layers"])
    except ValueError as error:
        raise UserError(f"{package}: expected {error}") from None
    ledger = Ledger(out, "audit_run", made_from, ("numpy", "safetensors", "torch", "transformers"))
    ledger.begin()
    hidden, own = ledger.folder / ".key", ledger.folder / ".auditor"
    # A run that was killed when its key was gone has whole records, and needs no key.
    if not (all(name in ledger for name in FILES) and check(ledger.folder).name == "verified"):
        _audited(packed, read_json(prior), sealed, settings, ledger, hidden, own)
    # Before the run counts as done, so that no key is ever published.
    hidden.unlink(missing_ok=True)
    shutil.rmtree(own, ignore_errors=True)
    budgets = settings.budgets.model_dump()
    ledger.finish({"model": packed.attributes["model"], "isolation": ISOLATION, "budgets": budgets})


def _audited(
    packed: Folder,
    prior: dict[str, Any],
    sealed: Path,
    settings: Settings,
    ledger: Ledger,
    hidden: Path,
    own: Path,
) -> None:
    """Audit until the records are whole, and note them in the ledger.

    Args:
        packed: the package.
        prior: what the auditor knows.
        sealed: what was planted, for its digest.
        settings: of the step.
        ledger: of the folder that records are kept in.
        hidden: the file of the custodian's key.
        own: the auditor's folder.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    places = {name: ledger.place(name) for name in FILES}
    chain = places["chain.jsonl"]
    if not (chain.exists() and hidden.exists() and places["salt.txt"].exists()):
        for path in (hidden, *places.values()):  # what is left of a chain whose key is lost
            path.unlink(missing_ok=True)
        shutil.rmtree(own, ignore_errors=True)
    secret = bytes.fromhex(_kept(hidden, lambda: secrets.token_bytes(32).hex()))
    salt = _kept(places["salt.txt"], lambda: secrets.token_hex(16))
    chain.touch()
    own.mkdir(mode=0o700, exist_ok=True)
    key = Ed25519PrivateKey.from_private_bytes(secret)
    public = key.public_key().public_bytes_raw().hex()
    budgets = settings.budgets.model_dump()
    genesis = {
        "public_key": public,
        "package": packed.fingerprint,
        "model": packed.attributes["model"],
        "sealed": hashlib.sha256(salt.encode() + sealed.read_bytes()).hexdigest(),
        "plan": fingerprint(plan(settings)),
        "code": ledger.made_from["code"],
        "isolation": ISOLATION,
    }
    with private_folder() as folder:
        address = str(folder / "gateway.sock")
        gateway = GatewayConfig(
            package=str(packed.path.resolve()),
            folder=str(ledger.folder.resolve()),
            address=address,
            key=secret.hex(),
            genesis=genesis,
            threads=settings.threads,
        )
        auditor = catalogue.Config(
            address=address,
            public_key=public,
            folder=str(own.resolve()),
            prior=prior,
            tokens=tokens(key, packed.attributes, budgets),
            budgets=budgets,
            sites=policy.presets(packed.attributes["layers"])["W"]["activations.read"]["sites"],
            seed=settings.seed,
            patience=settings.start_seconds,
        )
        supervise(gateway, auditor, settings.start_seconds, folder)
    for name in OF_AUDITOR:  # copied: an auditor that is started again, after a kill here, needs its own
        shutil.copyfile(own / name, places[name])
    places["salt.txt"].chmod(0o644)
    verdict = check(ledger.folder)
    if verdict.name != "verified":
        raise RuntimeError(f"{ledger.folder}: records that are {verdict.name} ({verdict.detail})")
    for name in FILES:
        ledger.record(name)


if __name__ == "__main__":
    run(main)
