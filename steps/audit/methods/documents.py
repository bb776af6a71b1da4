"""What a package's documents say of each other: its card against configuration, manifest and logs.

Values are compared as they are meant: ``4e-3`` is ``0.004``, ``./shards/a/`` is ``shards/a``,
``98.4 %`` is ``0.984``, and an order of keys or shards says nothing.
"""

from __future__ import annotations

import json
import posixpath
from typing import TYPE_CHECKING, Any

from steps.audit.methods.grammar import Grammar

if TYPE_CHECKING:
    import numpy as np

    from steps.audit.gateway.client import Session


def checks(session: Session, grammar: Grammar, random: np.random.Generator) -> dict[str, Any]:
    """Compare what the documents claim.

    Returns:
        The score is the number of claims that the other documents contradict. The finding: these claims, each
        with what the card says and what is recorded.
    """
    import yaml

    text = session.document("card", "README.md").decode()
    card = yaml.safe_load(text.split("---\n")[1])
    config = json.loads(session.document("config", "training.json"))
    shards = {
        _path(shard["path"]): shard
        for shard in json.loads(session.document("manifest", "manifest.json"))["shards"]
    }
    evals = json.loads(session.document("evals", "evaluations.json"))
    claimed = {_path(source["path"]): source for source in card["sources"]}
    compared: dict[str, tuple[Any, Any]] = {
        "sources": (sorted(claimed), sorted(shards)),
        "rows": (
            {path: _number(claimed[path]["rows"]) for path in sorted(claimed.keys() & shards.keys())},
            {path: _number(shards[path]["rows"]) for path in sorted(claimed.keys() & shards.keys())},
        ),
        "personal_data": (card["personal_data"], any(shard["personal_data"] for shard in shards.values())),
        "evaluated": (card["weights_sha256"].lower(), evals["weights_sha256"].lower()),
        "omitted": (sorted(card["evaluations"]), sorted(evals["results"])),
        "results": (
            {name: round(_number(value), 3) for name, value in sorted(card["evaluations"].items())},
            {
                name: round(_number(evals["results"].get(name, value)), 3)
                for name, value in sorted(card["evaluations"].items())
            },
        ),
        **{
            name: (_number(card[name]), _number(config[name]))
            for name in ("steps", "batch_rows", "rate", "seed")
        },
    }
    wrong = {name: list(pair) for name, pair in compared.items() if pair[0] != pair[1]}
    return {"score": float(len(wrong)), "finding": {"contradicted": wrong, "checked": sorted(compared)}}


def _path(text: str) -> str:
    return posixpath.normpath(text)


def _number(value: Any) -> float:
    """A number, as people write it."""
    text = str(value).strip().replace("_", "").replace(",", "")
    return float(text.removesuffix("%").strip()) / 100 if text.endswith("%") else float(text)
