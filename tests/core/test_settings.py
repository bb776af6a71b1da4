"""Settings: closed to unknown keys, tolerant of how YAML writes numbers, explained in one line."""

from __future__ import annotations

from typing import Any, Literal

import pydantic
import pytest

from steps.core.errors import UserError
from steps.core.settings import NO_INFLUENCE, Settings, deciding, validate, without_influence


class Optimizer(Settings):
    rate: float = pydantic.Field(1e-3, gt=0)
    betas: list[float] = pydantic.Field([0.9, 0.95])
    steps: int = pydantic.Field(100, ge=1)
    schedule: Literal["cosine", "constant"] = "cosine"


class Study(Settings):
    name: str
    labels: list[str] = pydantic.Field([])
    optimizer: Optimizer = Optimizer()
    models: list[Optimizer] = pydantic.Field([])
    note: str | None = None


def mistake(values: Any) -> str:
    with pytest.raises(UserError) as caught:
        validate(Study, values, "config/mine.yaml")
    text = str(caught.value)
    assert text.startswith("config/mine.yaml: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"name": "a", "lables": []}, "lables: unknown key (found []), did you mean 'labels'?"),
        (
            {"name": "a", "optimizer": {"rates": 1}},
            "optimizer.rates: unknown key (found 1), did you mean 'rate'?",
        ),
        (
            {"name": "a", "models": [{"step": 3}]},
            "models.0.step: unknown key (found 3), did you mean 'steps'?",
        ),
        ({"name": "a", "zzz": 1}, "known keys: name, labels, optimizer, models, note"),
        (
            {"name": "a", "optimizer": {"zzz": 1}},
            "optimizer.zzz: unknown key (found 1), known keys: rate, betas, steps, schedule",
        ),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_known(values: Any, named: str) -> None:
    assert named in mistake(values)


def test_several_mistakes_share_one_line() -> None:
    text = mistake({"labels": 3, "optimizer": {"rate": -1, "steps": "many", "schedule": "linear"}})
    assert "name: missing, add it" in text
    assert "labels: found 3, expected: " in text
    assert "optimizer.rate: found -1, expected: " in text
    assert "optimizer.steps: found 'many', expected: " in text
    assert "optimizer.schedule: found 'linear', expected: " in text
    assert text.count(";") == 4


@pytest.mark.parametrize("values", [None, 3, "text", ["a"]])
def test_what_is_no_mapping_is_refused(values: Any) -> None:
    assert "the configuration: found" in mistake(values)


def test_long_values_are_cut_in_the_message() -> None:
    assert len(mistake({"name": "a", "optimizer": "x" * 10_000})) < 300


def test_scientific_notation_without_a_point_is_a_number() -> None:
    found = Optimizer.model_validate({"rate": "1e-4", "steps": "2e4", "betas": ["9e-1", "+.5E0", 0.25]})
    assert found == Optimizer(rate=1e-4, steps=20_000, betas=[0.9, 0.5, 0.25])
    nested = validate(Study, {"name": "a", "models": [{"rate": " 3E-2 "}]}, "here")
    assert nested.models[0].rate == 0.03


@pytest.mark.parametrize("rate", ["1e400", float("nan"), float("inf"), "1e-4x", "e4"])
def test_what_is_no_finite_number_is_refused(rate: Any) -> None:
    assert "optimizer.rate: found" in mistake({"name": "a", "optimizer": {"rate": rate}})


def test_half_a_step_is_refused() -> None:
    assert "optimizer.steps: found 0.5" in mistake({"name": "a", "optimizer": {"steps": "5e-1"}})


def test_text_stays_as_it_was_written() -> None:
    found = validate(Study, {"name": "1e4", "labels": ["2e4", "1e-4"], "note": "3e3"}, "here")
    assert (found.name, found.labels, found.note) == ("1e4", ["2e4", "1e-4"], "3e3")


def test_settings_are_frozen() -> None:
    settings = Study(name="a")
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        settings.name = "b"
    assert settings.name == "a"


class Step(Settings):
    rate: float = 0.5
    threads: int = pydantic.Field(2, json_schema_extra=NO_INFLUENCE)


class Chapter(Settings):
    threads: int = 3
    step: Step = Step()


def test_settings_without_influence_are_told_apart() -> None:
    assert without_influence(Step()) == {"threads": 2}
    assert deciding(Step()) == {"rate": 0.5}
    assert without_influence(Chapter()) == {}
    assert deciding(Chapter()) == {"threads": 3, "step": {"rate": 0.5}}
