"""Settings: closed to unknown keys, tolerant of how YAML writes numbers, explained in one line."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import pytest

from steps.core.errors import UserError
from steps.core.settings import (
    NO_INFLUENCE,
    Settings,
    deciding,
    require_unique_keys,
    validate,
    without_influence,
)


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


class Everything(Settings):
    """A field of every type that settings have."""

    renamed: ClassVar = {"width": "d_model", "where": "place.folder"}

    study: Annotated[str, pydantic.Field(pattern=r"^\w+$")] = "a"
    place: Path | None = None
    d_model: int = 1
    rate: float | None = 0.5
    draws: list[Annotated[int, pydantic.Field(ge=0)]] = pydantic.Field([])
    pair: tuple[str, float] = ("a", 1.0)
    shares: dict[str, float] = pydantic.Field({})
    tokens: list[int | str] = pydantic.Field([])
    quiet: bool = False
    kind: Literal["a", "b"] = "a"
    optimizer: Optimizer = Optimizer()


def expected(values: Any) -> str:
    with pytest.raises(UserError) as caught:
        validate(Everything, values, "here")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("here: ")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"d_model": True}, "d_model: found True, expected: a number, neither true nor false"),
        ({"rate": False}, "rate: found False, expected: a number, neither true nor false"),
        ({"draws": [1, True]}, "draws: found [1, True], expected: a number, neither true nor false"),
        ({"tokens": ["a", True]}, "tokens: found ['a', True], expected: a number, neither true nor false"),
        ({"pair": ["a", True]}, "pair: found ['a', True], expected: a number, neither true nor false"),
        ({"shares": {"a": True}}, "shares: found {'a': True}, expected: a number, neither true nor false"),
        ({"optimizer": {"steps": True}}, "optimizer.steps: found True, expected: a number, neither true nor"),
        ({"quiet": 1}, "quiet: found 1, expected: true or false"),
        ({"quiet": "1"}, "quiet: found '1', expected: true or false"),
        ({"quiet": None}, "quiet: found None, expected: true or false"),
        ({"d_model": "true"}, "d_model: found 'true', expected: an integer"),
        ({"study": 2024}, "study: found 2024, expected: text; put it in quotes: '2024'"),
        ({"study": 20.5}, "study: found 20.5, expected: text; put it in quotes: '20.5'"),
        ({"study": True}, "study: found True, expected: text; put it in quotes: 'true'"),
        (
            {"study": datetime.date(2024, 1, 31)},
            "study: found datetime.date(2024, 1, 31), expected: text; put it in quotes: '2024-01-31'",
        ),
        ({"place": 7}, "place: found 7, expected: text; put it in quotes: '7'"),
        ({"pair": [1, 2]}, "pair: found [1, 2], expected: text; put it in quotes: '1'"),
        ({"study": None}, "study: found None, expected: text"),
        ({"study": ["a"]}, "study: found ['a'], expected: text"),
        ({"d_model": "many"}, "d_model: found 'many', expected: an integer"),
        ({"d_model": 1.5}, "d_model: found 1.5, expected: an integer"),
        ({"rate": "many"}, "rate: found 'many', expected: a number"),
        ({"rate": float("nan")}, "rate: found nan, expected: a finite number"),
        ({"draws": 1}, "draws: found 1, expected: a list in brackets: [...]"),
        ({"draws": [-1]}, "draws.0: found -1, expected: a number greater than or equal to 0"),
        ({"shares": 1}, "shares: found 1, expected: key: value pairs"),
        ({"kind": "c"}, "kind: found 'c', expected: 'a' or 'b'"),
        (
            {"optimizer": None},
            "optimizer: found nothing, expected: settings below it, as key: value; add some or remove the",
        ),
        ({"optimizer": "fast"}, "optimizer: found 'fast', expected: settings below it, as key: value"),
        (None, "the configuration: found nothing, expected: settings below it, as key: value"),
        ({"width": 3}, "width: renamed, now d_model"),
        ({"where": "x"}, "where: renamed, now place.folder"),
    ],
)
def test_what_is_not_meant_is_refused_in_plain_words(values: Any, said: str) -> None:
    assert expected(values).startswith(said)


@pytest.mark.parametrize(("text", "meant"), [("true", True), ("False", False), ("yes", True), ("off", False)])
def test_true_and_false_come_as_text_from_the_command_line(text: str, meant: bool) -> None:
    assert Everything.model_validate({"quiet": text}).quiet is meant


def test_what_is_meant_is_taken() -> None:
    found = Everything.model_validate(
        {
            "study": "2024",
            "place": "1e4",
            "d_model": "2e1",
            "rate": None,
            "draws": [1, "2e0", 3.0],
            "pair": ["1e4", "1e4"],
            "shares": {"1e4": "1e-4"},
            "tokens": [1, "1e4"],
            "quiet": True,
        }
    )
    assert found.model_dump() == {
        "study": "2024",
        "place": Path("1e4"),
        "d_model": 20,
        "rate": None,
        "draws": [1, 2, 3],
        "pair": ("1e4", 1e4),
        "shares": {"1e4": 1e-4},
        "tokens": [1, "1e4"],
        "quiet": True,
        "kind": "a",
        "optimizer": Optimizer().model_dump(),
    }
    assert Everything.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("a: 1\nb: 2\na: 3\n", "a", (1, 3)),
        ("a:\n  b: 1\n  c: {d: 2,\n     d: 3}\n", "a.c.d", (3, 4)),
        ("a: [{b: 1}, {b: 1, 'b': 2}]\n", "a.1.b", (1, 1)),
        ("a: &x {b: 1}\nc: *x\nneurons: {}\n'neurons':\n", "neurons", (3, 4)),
        ('{\n\t"a": {},\n\t"a": {}\n}', "a", (2, 3)),
    ],
)
def test_a_key_that_is_there_twice_is_named_with_its_lines(
    tmp_path: Path, text: str, key: str, lines: tuple[int, int]
) -> None:
    (tmp_path / "fine.yaml").write_text("a: {b: 1, c: [1, 1]}\nb: {b: 1}\n1: x\n'1': y\n")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        require_unique_keys([tmp_path / "fine.yaml", str(path)])
    said = (
        f"{path}, line {lines[1]}: found the key {key} again, which is in line {lines[0]}, expected it once"
    )
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: 1\n",
        "base: &base {a: 1}\nx:\n  <<: *base\n  <<: *base\n  a: 2\n",
        "{",
        "a: b: c",
        "[" * 100_000,
        "- 1\n",
        "text",
        "a: &a [*a]\n",
        "a: &a0 [1]\n" + "".join(f"{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)),
    ],
    ids=lambda text: text[:20],
)
def test_files_without_such_a_key_pass_and_what_is_no_yaml_is_left_to_its_reader(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "x").write_text(text)
    (tmp_path / "latin").write_bytes(b"a: \xff\na: 1\n")
    require_unique_keys([tmp_path / "x", tmp_path / "latin", tmp_path / "missing", tmp_path])
