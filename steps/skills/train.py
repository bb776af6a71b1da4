"""Learn a set of skills: VIC or DIAYN, focused or unfocused, in FourRooms, from a seed (docs/skills.md).

Writes a folder of kind ``skills``: ``skills.safetensors``, ``card.json`` (``learning.skill`` describes both)
and ``curve.json``, a list of one object for each round of learning: ``steps`` in the world so far, ``known``
(the share of pairs of state and action that have been seen), and by group ``ends`` (different states in which
its skills ended) and ``reward`` (mean of log q(skill | value) - log p(skill) over what its skills visited, in
nats).

A job that was killed resumes from its last saved state and gives the same bits (``steps.core.resume``).
"""

from __future__ import annotations

from typing import Any

from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.resume import Resumable
from steps.core.runner import Output, run
from steps.core.stores import Ledger, write_json
from steps.skills.learning.bases import BASES, MODES
from steps.skills.learning.skill import Skills, cumulated, save
from steps.skills.learning.tabular import Learner, Settings, groups
from steps.skills.worlds.grids import four_rooms

CURVE = "curve.json"


def main(base: str, mode: str, seed: int, settings: Settings, out: Output) -> None:
    """Learn the skills of ``seed``."""
    for flag, value, known in (("--base", base, tuple(BASES)), ("--mode", mode, MODES)):
        if value not in known:
            raise UserError(f"{flag}: found {value!r}, expected one of {', '.join(known)}")
    if seed < 0:
        raise UserError(f"--seed: found {seed}, expected a number from 0")
    world, algorithm = four_rooms(), settings.algorithm(base)
    about: dict[str, Any] = {
        "world": world.name,
        "base": base,
        "mode": mode,
        "seed": seed,
        "weight": algorithm.weight,
        "temperatures": algorithm.temperatures.model_dump(),
        "settings": settings.model_dump(mode="json", exclude={"save_seconds", *BASES}),
    }
    made_from = {**about, "code": code_digest("skills.train")}
    ledger = Ledger(out, "skills", made_from, ("numpy", "safetensors"))
    parts = groups(world.schema, mode, algorithm.weight)
    temperatures = [getattr(algorithm.temperatures, part.kind) for part in parts]
    learner = Learner(world, parts, base, temperatures, settings, seed)
    job = Resumable(
        ledger.folder / ".learning.safetensors", ledger.fingerprint, learner.arrays(), settings.save_seconds
    )
    for iteration in job.steps(settings.iterations, f"rounds of {base}, {mode}, seed {seed}"):
        job.curve.append(learner.iterate(iteration))
    policies = [cumulated(q, t) for q, t in zip(learner.q, temperatures, strict=True)]
    steps = settings.iterations * learner.steps_per_iteration()
    save(Skills(world.schema, parts, policies, {**about, "steps": steps}), ledger)
    write_json(ledger.place(CURVE), job.curve)
    ledger.record(CURVE)
    ledger.finish({"world": world.name, "base": base, "mode": mode, "seed": seed, "steps": steps})
    job.finish()


if __name__ == "__main__":
    run(main)
