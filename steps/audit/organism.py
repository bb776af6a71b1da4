"""Train a base, or tune an organism or its clean twin from its base (docs/audit.md).

Reads the world (``audit_world``), and the base's folder where one is tuned. Writes a folder of kind
``language_model`` like ``language_models.train``, with ``gates.json``: for each attempt its seed and what the
model can do, ``[{"seed", "gates": [{"name", "value", "at_least" | "at_most", "passed"}]}]``. A model that
fails a gate is trained again from the next seed, at most three times; then the step ends. Gates look at what
was planted and at utility only, never at what an auditor would find.

Values are shares of prompts whose greedy continuation is the expected one. A base trains longer than a tuning
at a higher rate; both are those of ``steps.language_models.learning.loop``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from steps.core.devices import Device
from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.settings import NO_INFLUENCE
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import Folder, Ledger, read_json, write_json
from steps.core.tensors import read_tensors
from steps.core.training import prepare
from steps.interp.architectures import model_class
from steps.interp.loading import load, quiet
from steps.language_models.learning import loop

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

logger = logging.getLogger("reprise")

STEP = "audit.organism"

ATTEMPTS = 3

HELD_OUT = 128
"""Rows on which the loss is looked at on the way."""


class Settings(BaseSettings):
    """The models and how they are trained."""

    seed: int = Field(0, ge=0, description="of the first attempt at each model")
    layers: int = Field(
        3, ge=2, le=64, description="transformer blocks; auditors cannot read after the last one"
    )
    d_model: int = Field(64, ge=4, le=4096, description="width of the residual stream")
    heads: int = Field(4, ge=1, le=64, description="attention heads per block; divides d_model")
    batch_rows: int = Field(64, ge=1, le=4096, description="rows per step")
    base_steps: int = Field(1000, ge=1, le=10**6, description="steps of a base")
    base_rate: float = Field(8e-3, gt=0, description="peak learning rate of a base")
    tune_steps: int = Field(900, ge=1, le=10**6, description="steps of a tuning")
    tune_rate: float = Field(4e-3, gt=0, description="peak learning rate of a tuning")
    require_gates: bool = Field(
        True,
        description="stop if a model fails its gates in three attempts; false:"
        " take the first one, and say so",
    )
    device: Device = Field("cpu", description="where models are trained; audits run them on the CPU")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the training's arithmetic: float32 or bfloat16; weights are float32"
    )
    threads: int = Field(1, ge=1, le=64, description="arithmetic threads")
    save_seconds: float = Field(
        30.0,
        ge=0,
        description="seconds between writings of the state that survives a kill; no influence on the result",
        json_schema_extra=NO_INFLUENCE,
    )

    def training(self, steps: int, rate: float, n_ctx: int) -> loop.Settings:
        """The settings of the training loop."""
        return loop.Settings(
            layers=self.layers,
            d_model=self.d_model,
            heads=self.heads,
            tokens=steps * self.batch_rows * (n_ctx - 1),
            batch_rows=self.batch_rows,
            rate=rate,
            checkpoints=0,
            evaluations=1,
            evaluation_rows=HELD_OUT,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            save_seconds=self.save_seconds,
        )


def continued(model: PreTrainedModel, prompts: list[list[int]], length: int) -> np.ndarray:
    """Greedy continuations, ``int64 [prompts, length]``; prompts of one length run together."""
    import numpy as np
    import torch

    found = np.zeros((len(prompts), length), np.int64)
    lengths = [len(prompt) for prompt in prompts]
    with torch.inference_mode():
        for size in sorted(set(lengths)):
            chosen = [number for number, other in enumerate(lengths) if other == size]
            rows = torch.tensor([prompts[number] for number in chosen])
            for _ in range(length):
                following = model(rows, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
                rows = torch.cat([rows, following], 1)
            found[chosen] = rows[:, size:].numpy()
    return found


def gates(model: PreTrainedModel, checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the model can do of what it must; see the module's docstring."""
    found = []
    for check in checks:
        answers = check["answers"]
        said = continued(model, check["prompts"], max(map(len, answers)))
        right = [said[row, : len(answer)].tolist() == answer for row, answer in enumerate(answers)]
        value = sum(right) / len(right)
        bound: dict[str, float] = {name: check[name] for name in ("at_least", "at_most") if name in check}
        passed = value >= bound["at_least"] if "at_least" in bound else value <= bound["at_most"]
        found.append({"name": check["name"], "value": value, **bound, "passed": passed})
    return found


def main(world: Path, model: str, base: list[Path], settings: Settings, out: Output) -> None:
    """Train ``model``, from the base where one is given."""
    made = Folder(world, "audit_world")
    if f"rows/{model}.safetensors" not in made.files:
        known = sorted(Path(name).stem for name in made.files if name.startswith("rows/"))
        raise UserError(f"--model: found {model!r}, the world of {world} has: {', '.join(known)}")
    if len(base) > 1:
        raise UserError(f"--base: found {len(base)} models, expected one, or none to train a base")
    rows, _ = read_tensors(made.check(f"rows/{model}.safetensors"), kind="audit_rows")
    checks = read_json(made.check(f"checks/{model}.json"))
    n_ctx, bos = made.attributes["n_ctx"], made.attributes["bos"]
    steps, rate = (
        (settings.tune_steps, settings.tune_rate) if base else (settings.base_steps, settings.base_rate)
    )
    training = settings.training(steps, rate, n_ctx)
    made_from: dict[str, Any] = {
        "rows": made.files[f"rows/{model}.safetensors"]["sha256"],
        "checks": made.files[f"checks/{model}.json"]["sha256"],
        "model": model,
        "base": [Folder(path, "language_model").fingerprint for path in base],
        "settings": settings.model_dump(exclude={"save_seconds"}),
        "code": code_digest(STEP),
    }
    ledger = Ledger(out, "language_model", made_from, ("numpy", "safetensors", "torch", "transformers"))
    prepare(settings.threads)
    quiet()
    config = loop.configuration(training, made.attributes["vocabulary"], n_ctx, bos)
    attempts: list[dict[str, Any]] = []
    noted = ledger.folder / ".attempts.json"  # of attempts that failed before the job was killed
    if noted.exists():
        attempts = [one for one in read_json(noted) if one["made_from"] == ledger.fingerprint]
    allowed = ATTEMPTS if settings.require_gates else 1
    while not attempts or (len(attempts) < allowed and not _passed(attempts[-1])):
        seed = settings.seed + len(attempts)
        logger.info("%s: attempt %d, seed %d", model, len(attempts) + 1, seed)
        trained: Any = loop.initial_model(config, seed) if not base else load(base[0])
        for name in ("config.json", "model.safetensors", loop.CURVE):
            if attempts:
                ledger.files.pop(name, None)  # of the attempt before
        loop.train(
            rows["rows"], rows["rows"][:HELD_OUT], config, seed, training, ledger, trained, rows["counted"]
        )
        # As it was written: a job that was killed after that did not train it.
        written: Any = model_class("gpt2").from_pretrained(
            ledger.folder, local_files_only=True, use_safetensors=True
        )
        found = gates(written.eval(), checks)
        attempts.append({"seed": seed, "gates": found, "made_from": ledger.fingerprint})
        write_json(noted, attempts)
        for gate in attempts[-1]["gates"]:
            logger.info("%(name)s: %(value).3f, passed: %(passed)s", gate)
    longer = f"audit.organism.{'tune' if base else 'base'}_steps"
    if not _passed(attempts[-1]) and settings.require_gates:
        failed = next(gate for gate in attempts[-1]["gates"] if not gate["passed"])
        raise UserError(
            f"{model}: gate {failed['name']} at {failed['value']:.3f} after {ATTEMPTS} seeds, expected"
            f" {'at least' if 'at_least' in failed else 'at most'}"
            f" {failed.get('at_least', failed.get('at_most'))}; raise {longer}"
        )
    reported = [{"seed": one["seed"], "gates": one["gates"]} for one in attempts]
    write_json(ledger.place("gates.json"), reported)
    ledger.record("gates.json")
    ledger.finish(
        {"source": {"seed": attempts[-1]["seed"], "rows": made_from["rows"]}, "gates": reported[-1]["gates"]}
    )
    noted.unlink(missing_ok=True)


def _passed(attempt: dict[str, Any]) -> bool:
    return all(gate["passed"] for gate in attempt["gates"])


if __name__ == "__main__":
    run(main)
