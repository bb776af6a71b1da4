"""Fingerprints: what must change them does, what must not does not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.core import digest

ROOT = Path(__file__).resolve().parents[2]

DEEPER = """
from pathlib import Path

import steps.chapter.step
from steps.core import verifier

W = 'words.json'
GUARD = Path(__file__).with_name("guard.py")

def same(x):
    return x, W, ["python", GUARD], ["python", verifier.__file__]
"""

FILES = {
    "steps/__init__.py": "",
    "steps/core/__init__.py": "",
    "steps/core/runner.py": "def run(main): main()\n",
    "steps/core/errors.py": "TEXT = 'sorry'\n",
    "steps/core/words.json": "[]",
    "steps/core/other.json": "[]",
    "steps/core/tools.py": "from steps.core import deeper\n\ndef double(x):\n    return 2 * deeper.same(x)\n",
    "steps/core/deeper.py": DEEPER,
    "steps/core/unused.py": "A = 1\n",
    "steps/core/guard.py": "import sys\n\ndef watch():\n    return sys.argv\n\nwatch()\n",
    "steps/core/verifier.py": "def check():\n    return 1\n\ndef main():\n    check()\n",
    "steps/chapter/__init__.py": "",
    "steps/chapter/step.py": '''"""Reads and writes."""

import json

from steps.core.errors import TEXT
from steps.core.runner import run

A = 1
"""What A is."""


class Thing:
    """A thing."""

    b: int = 2
    """What b is."""


async def wait():
    """Wait."""


def main(x):
    """Do it."""
    from steps.core.tools import double  # late

    return json.dumps([double(x), "text", TEXT, A, Thing.b])


run(main)
''',
}
STEP = "steps/chapter/step.py"

Edit = Callable[[str, str, str], str]


@pytest.fixture
def edited(tmp_path_factory: pytest.TempPathFactory) -> Edit:
    """The digest of the step in a small project after ``old`` became ``new`` in one of its files."""

    def edit(name: str, old: str, new: str) -> str:
        folder = project(tmp_path_factory.mktemp("project"), FILES)
        before = (folder / name).read_text()
        assert old in before
        (folder / name).write_text(before.replace(old, new, 1))
        return digest.code_digest("chapter.step", folder)

    return edit


def project(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (STEP, "Reads and writes.", "Reads,\nthen writes."),
        (STEP, '"""Reads and writes."""', ""),
        (STEP, '    """A thing."""', ""),
        (STEP, '    """Do it."""', ""),
        (STEP, '    """Wait."""', "    pass"),
        (STEP, "What A is.", "What A means."),
        (STEP, "    b: int = 2", '    b: int = 2\n    """Another."""'),
        (STEP, "# late", "# an import inside a function"),
        (STEP, "A = 1", "\n\nA   =   1  # one"),
        (STEP, '"text"', "'text'"),
        (
            STEP,
            '[double(x), "text", TEXT, A, Thing.b]',
            '[\n        double(x),\n        "text",\n        TEXT, A, Thing . b\n    ]',
        ),
        ("steps/core/tools.py", "def double(x):", 'def double(x):\n    """Twice x."""'),
        ("steps/core/runner.py", "main()", "main(1)"),
        ("steps/core/errors.py", "sorry", "very sorry"),
        ("steps/core/unused.py", "1", "2"),
        ("steps/core/other.json", "[]", "[1]"),
    ],
)
def test_documentation_layout_and_the_runner_change_nothing(
    edited: Edit, name: str, old: str, new: str
) -> None:
    assert edited(name, old, new) == edited(STEP, "A", "A")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (STEP, "A = 1", "A = 2"),
        (STEP, '"text"', '"other"'),
        (STEP, "b: int = 2", "b: int = 3"),
        (STEP, "return json", "json"),
        ("steps/core/tools.py", "2 *", "3 *"),
        ("steps/core/deeper.py", "return x", "return -x"),
        ("steps/core/words.json", "[]", "[1]"),
        ("steps/core/guard.py", "sys.argv", "sys.argv[1:]"),  # started by its path
        ("steps/core/verifier.py", "return 1", "return 2"),
    ],
)
def test_code_changes_the_digest_wherever_it_lies(edited: Edit, name: str, old: str, new: str) -> None:
    assert edited(name, old, new) != edited(STEP, "A", "A")


def test_the_digest_does_not_depend_on_where_the_project_lies(edited: Edit, tmp_path: Path) -> None:
    assert digest.code_digest("chapter.step", project(tmp_path / "else where", FILES)) == edited(
        STEP, "A", "A"
    )


def test_a_file_digest_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"", b"abc", bytes(range(256)) * 5000):
        path.write_bytes(content)
        assert digest.file_digest(path) == hashlib.sha256(content).hexdigest()


def test_a_fingerprint_ignores_the_order_of_keys_only() -> None:
    assert digest.fingerprint({"a": 1, "b": [1, 2]}) == digest.fingerprint({"b": [1, 2], "a": 1})
    others = [{"a": 1, "b": [2, 1]}, {"a": 1.0, "b": [1, 2]}, {"a": "1", "b": [1, 2]}, {"a": 1}]
    assert digest.fingerprint({"a": 1, "b": [1, 2]}) not in map(digest.fingerprint, others)


def test_seeds_are_stable_and_distinct() -> None:
    # Written down once: results of earlier runs depend on them.
    assert digest.seed(0, "train", "seed-1") == 5370568481781189157
    assert digest.seed(1, "a") == digest.seed("1", "a")  # settings may come as text
    seeds = {digest.seed(base, step, item) for base in range(10) for step in "ab" for item in range(50)}
    seeds |= {digest.seed("ab", "c"), digest.seed("a", "bc"), digest.seed("abc")}
    assert len(seeds) == 10 * 2 * 50 + 3
    assert all(0 <= number < 2**63 for number in seeds)
    assert max(seeds) > 2**62


# What is reached: small projects, with edits that must change the digest of ``chapter.step`` and edits that
# must not.

PLAIN = {
    "steps/__init__.py": "",
    "steps/chapter/__init__.py": "",
    "steps/core/__init__.py": "",
    "steps/core/runner.py": "def run(main): main()\n\n\ndef progress(work, total, label): yield from work\n",
    "steps/core/errors.py": "class UserError(Exception): pass\n",
}


def changes(files: dict[str, str], folder: Path, name: str, old: str, new: str) -> bool:
    """Whether the digest of the step changes where ``old`` becomes ``new`` in one of the files."""
    before, after = project(folder / "before", PLAIN | files), project(folder / "after", PLAIN | files)
    text = (after / name).read_text()
    assert old in text, f"{old!r} is not in {name}"
    edited = text.replace(old, new, 1)
    assert edited != text
    (after / name).write_text(edited)
    if name.endswith(".py"):
        compile(edited, name, "exec")
    return digest.code_digest("chapter.step", before) != digest.code_digest("chapter.step", after)


Edits = list[tuple[str, str]]


def both(where: str, files: dict[str, str], yes: Edits, no: Edits) -> list[Any]:
    """Edits of one file that must change the digest, and some that must not."""
    return [
        pytest.param(files, where, old, new, changed, id=f"{old}->{new}".replace("\n", "|")[:70])
        for changed, edits in ((True, yes), (False, no))
        for old, new in edits
    ]


TOOLS = """
import os
import math as m
from math import floor as down

UNUSED = 1
USED = 2
LATER: int = 3
FIRST, (SECOND, *REST) = 4, (5, 6)
SUMMED = [7]
SUMMED += [8]
for LOOPED in range(9):
    DOUBLED = 2 * LOOPED
if os.sep == "/":
    CHOSEN = 10
else:
    CHOSEN = 11
try:
    import nothing_of_that_name as OPTIONAL
except ImportError:
    OPTIONAL = None


def used(x, y=USED):
    return helper(x) + y


def helper(x):
    return x + 12


def unused(x):
    return x + 13


def rounded(x):
    return down(x) + m.ceil(x)


def deferred():
    global LATE
    LATE = 14


class Base:
    factor = 15

    def value(self):
        return self.factor


class Used(Base):
    def other(self):
        return helper(16)

    def never_called(self):
        return 17


class Unused(Base):
    what = 18
"""


def of_tools(expression: str, yes: Edits, no: Edits) -> list[Any]:
    """Edits of ``TOOLS`` where ``main`` gives the value of an expression in its names."""
    name = re.split(r"\W", expression)[0]
    step = f"from steps.chapter.tools import {name}\n\n\ndef main(x):\n    return {expression}\n"
    files = {STEP: step, "steps/chapter/tools.py": TOOLS}
    return both("steps/chapter/tools.py", files, yes, no)


DEFINITIONS = [
    *of_tools(
        "used(x)",
        [("helper(x) + y", "helper(x) - y"), ("USED = 2", "USED = 3"), ("x + 12", "x - 12")],
        [
            *(("UNUSED = 1", "UNUSED = 2"), ("x + 13", "x - 13"), ("factor = 15", "factor = 16")),
            *(("= 3", "= 4"), ("[8]", "[9]"), ("def unused", "def unasked"), ("= 18", "= 19")),
            (
                "def helper(x):\n    return x + 12",
                "def another(): pass\n\n\ndef helper(x):\n    return x + 12",
            ),
            ("UNUSED = 1\nUSED = 2", "USED = 2\nUNUSED = 1"),
        ],
    ),
    *of_tools("LATER", [("= 3", "= 4")], [("LATER: int", "LATER: float"), ("USED = 2", "USED = 3")]),
    *of_tools("FIRST", [("4, (5, 6)", "5, (5, 6)")], [("USED = 2", "USED = 3")]),
    *of_tools("REST", [("4, (5, 6)", "4, (5, 6, 7)")], [("[7]", "[8]")]),
    *of_tools("SUMMED", [("[7]", "[8]"), ("[8]", "[9]")], [("FIRST,", "ONE,")]),
    *of_tools("LOOPED", [("range(9)", "range(8)")], [("[8]", "[9]")]),
    *of_tools("DOUBLED", [("range(9)", "range(8)"), ("2 * LOOPED", "3 * LOOPED")], []),
    *of_tools("CHOSEN", [("os.sep", "os.altsep"), ("= 10", "= 12"), ("= 11", "= 12")], []),
    *of_tools("OPTIONAL", [("nothing_of", "other_of"), ("OPTIONAL = None", "OPTIONAL = 0")], []),
    *of_tools("LATE", [("LATE = 14", "LATE = 15")], [("x + 13", "x - 13")]),
    *of_tools(
        "rounded(x)",
        [
            *(("down(x) +", "down(x) -"), ("m.ceil", "m.floor")),
            *(("import floor as down", "import ceil as down"), ("import math as m", "import cmath as m")),
        ],
        [("x + 12", "x - 12"), ("import os", "import sys, os")],
    ),
    *of_tools(
        "Used().other()",
        [
            *(("factor = 15", "factor = 16"), ("return self.factor", "return -self.factor")),
            *(("helper(16)", "helper(17)"), ("x + 12", "x - 12"), ("return 17", "return 18")),
            ("class Used(Base)", "class Used(object)"),
        ],
        [("= 18", "= 19"), ("class Unused(Base)", "class Unused"), ("helper(x) + y", "helper(x) - y")],
    ),
]

IMPORTS = {
    "absolute": ("from steps.chapter.deep.tools import used\n\n\ndef main(x):\n    return used(x)\n"),
    "relative": ("from .deep.tools import used\n\n\ndef main(x):\n    return used(x)\n"),
    "relative to the package": ("from . import deep\n\n\ndef main(x):\n    return deep.tools.used(x)\n"),
    "relative, above": ("from ..chapter.deep import tools\n\n\ndef main(x):\n    return tools.used(x)\n"),
    "renamed": ("from steps.chapter.deep.tools import used as f\n\n\ndef main(x):\n    return f(x)\n"),
    "late": ("def main(x):\n    from steps.chapter.deep.tools import used\n\n    return used(x)\n"),
    "late, relative": ("def main(x):\n    from .deep.tools import used\n\n    return used(x)\n"),
    "late, in a nested function": (
        "def main(x):\n    def inner():\n        return tools.used(x)\n\n"
        "    from steps.chapter.deep import tools\n\n    return inner()\n"
    ),
    "late, in a class": (
        "def main(x):\n    class A:\n        from steps.chapter.deep.tools import used\n\n"
        "    return A.used(x)\n"
    ),
    "module": ("from steps.chapter.deep import tools\n\n\ndef main(x):\n    return tools.used(x)\n"),
    "dotted": (
        "import steps.chapter.deep.tools\n\n\ndef main(x):\n    return steps.chapter.deep.tools.used(x)\n"
    ),
    "dotted, renamed": ("import steps.chapter.deep.tools as t\n\n\ndef main(x):\n    return t.used(x)\n"),
    "dotted, late": (
        "def main(x):\n    import steps.chapter.deep.tools\n\n    return steps.chapter.deep.tools.used(x)\n"
    ),
    "through a package": ("from steps.chapter.deep import used\n\n\ndef main(x):\n    return used(x)\n"),
    "through two packages": ("from steps.chapter import used\n\n\ndef main(x):\n    return used(x)\n"),
    "attribute of a package": ("from steps import chapter\n\n\ndef main(x):\n    return chapter.used(x)\n"),
    "kept by another name": (
        "from steps.chapter.deep import tools\n\nf = tools.used\n\n\ndef main(x):\n    return f(x)\n"
    ),
    "optional": (
        "try:\n    from steps.chapter.deep.tools import used\nexcept ImportError:\n    used = None\n\n\n"
        "def main(x):\n    return used(x)\n"
    ),
    "global": (
        "def load():\n    global tools\n    from steps.chapter.deep import tools\n\n\n"
        "def main(x):\n    load()\n    return tools.used(x)\n"
    ),
    "default value": (
        "from steps.chapter.deep import tools\n\n\ndef main(x, f=tools.used):\n    return f(x)\n"
    ),
    "decorated": (
        "import functools\n\nfrom steps.chapter.deep import tools\n\n\n"
        "@functools.wraps(tools.used)\ndef main(x):\n    return x\n"
    ),
    "in a lambda": (
        "from steps.chapter.deep import tools\n\n\ndef main(x):\n    return map(lambda y: tools.used(y), x)\n"
    ),
    "in a comprehension": (
        "from steps.chapter.deep import tools\n\n\ndef main(x):\n    return [tools.used(y) for y in x]\n"
    ),
    "beside a field of that name": (
        "from steps.chapter.deep import tools\n\n\nclass A:\n    tools = tools.used(1)\n\n\n"
        "def main(x):\n    return A\n"
    ),
    "where a field of that name is annotated": (
        "from steps.chapter.deep import tools\n\n\nclass A:\n    used: tools.used\n\n\n"
        "def main(x):\n    return A\n"
    ),
}
DEEP = {
    "steps/chapter/__init__.py": "from .deep import used\n",
    "steps/chapter/deep/__init__.py": "from steps.chapter.deep.tools import used\n",
    "steps/chapter/deep/tools.py": TOOLS,
}


@pytest.mark.parametrize("step", IMPORTS.values(), ids=IMPORTS)
def test_imports_of_every_kind_are_followed(step: str, tmp_path: Path) -> None:
    files = DEEP | {STEP: step}
    tools = "steps/chapter/deep/tools.py"
    for number, (old, new) in enumerate(
        [("helper(x) + y", "helper(x)"), ("x + 12", "x"), ("USED = 2", "USED = 0")]
    ):
        assert changes(files, tmp_path / str(number), tools, old, new), old
    whole = "global" in step  # whatever a function binds is not told from other uses
    for number, (old, new) in enumerate([("x + 13", "x"), ("UNUSED = 1", "UNUSED = 0"), ("= 18", "= 0")], 3):
        assert changes(files, tmp_path / str(number), tools, old, new) is whole, old


OTHERWISE = {
    "passed on": "from steps.chapter import tools\n\n\ndef main(x):\n    return x(tools)\n",
    "getattr": "from steps.chapter import tools\n\n\ndef main(x):\n    return getattr(tools, x)()\n",
    "kept": "from steps.chapter import tools\n\nT = tools\n\n\ndef main(x):\n    return T.used(x)\n",
    "star": "from steps.chapter.tools import *\n\n\ndef main(x):\n    return used(x)\n",
    "star, of a package": "from steps.chapter.all import *\n\n\ndef main(x):\n    return used(x)\n",
    "package passed on": "from steps.chapter import all\n\n\ndef main(x):\n    return getattr(all, x)(x)\n",
    "package of modules": "from steps.chapter import more\n\n\ndef main(x):\n    return vars(more)\n",
    "by its name": 'import importlib\n\n\ndef main(x):\n    importlib.import_module("steps.chapter.tools")\n',
    "by a name": "import importlib\n\n\ndef main(x):\n    importlib.import_module(x)\n",
    "by a name, late": "def main(x):\n    from importlib import import_module\n\n    import_module(x)\n",
    "by a relative name": 'import importlib\n\n\ndef main(x):\n    importlib.import_module(".t", x)\n',
    "built in": "def main(x):\n    return __import__(x)\n",
    "process": 'def main(x):\n    x("python", "-m", "steps.chapter.tools")\n',
    "loaded": "import sys\n\n\ndef main(x):\n    return sys.modules[x]\n",
    "a name unknown": "from steps.chapter import tools\n\n\ndef main(x):\n    return tools.none\n",
    "a submodule late": "def main(x):\n    import steps.chapter.tools as t\n\n    return [t]\n",
}


@pytest.mark.parametrize("step", OTHERWISE.values(), ids=OTHERWISE)
def test_a_module_that_is_used_otherwise_counts_whole(step: str, tmp_path: Path) -> None:
    files = {
        STEP: step,
        "steps/chapter/tools.py": TOOLS,
        "steps/chapter/all/__init__.py": "from steps.chapter.tools import used, unused, UNUSED, Unused\n",
        "steps/chapter/more/__init__.py": "from steps.chapter import tools\n",
    }
    for number, (old, new) in enumerate([("x + 13", "x"), ("UNUSED = 1", "UNUSED = 0"), ("= 18", "= 0")]):
        assert changes(files, tmp_path / str(number), "steps/chapter/tools.py", old, new), old


@pytest.mark.parametrize(
    "code",
    [
        'globals()[x]()',
        'eval(x)',
        'exec(x)',
        'vars()[x]',
        '[c for c in Base.__subclasses__()]',
        'undefined(x)',
    ],
)  # fmt: skip
def test_names_that_nobody_can_follow_count_their_module_whole(code: str, tmp_path: Path) -> None:
    step = f"class Base: pass\n\n\ndef main(x):\n    return {code}\n\n\nclass Other(Base):\n    y = 1\n"
    assert changes({STEP: step}, tmp_path, STEP, "y = 1", "y = 2")


@pytest.mark.parametrize(
    "code", ["vars(x)", 'getattr(x, "y")', '"numpy" in sys.modules', 'importlib.import_module("json")']
)
def test_what_looks_alike_and_uses_no_other_names(code: str, tmp_path: Path) -> None:
    step = f"import importlib\nimport sys\n\n\ndef main(x):\n    return {code}\n\n\nclass Other:\n    y = 1\n"
    assert not changes({STEP: step}, tmp_path, STEP, "y = 1", "y = 2")


ACTS = """
import functools, atexit

TABLE = {}
KINDS = []
OTHER = TABLE


def register(thing):
    TABLE[thing] = 1
    return thing


def pure(x):
    return [x]


def through(thing):
    return register(thing)


class Noted:
    def __init_subclass__(cls):
        KINDS.append(cls)
"""
EFFECTS = {
    "call": ("register(1)", True),
    "method": ("TABLE.update(a=1)", True),
    "item": ("TABLE[1] = 1", True),
    "attribute": ("pure.name = 1", True),
    "deletion": ("del TABLE", True),
    "loop": ("for x in (1,):\n    TABLE[x] = 1", True),
    "condition": ("if TABLE:\n    register(1)", True),
    "value of a call that registers": ("KEPT = register(1)", True),
    "value of a call that registers further down": ("KEPT = through(1)", True),
    "added to what may be another's": ("OTHER |= {2: 1}", True),
    "subclass of a class that is told": ("class Sub(Noted):\n    a = 1", True),
    "call in the body of a class": ("class Sub:\n    register(1)", True),
    "decorated": ("@register\ndef f():\n    return 1", True),
    "decorated method": ("class A:\n    @register\n    def f(self):\n        return 1", True),
    "decorated by another library": ("@atexit.register\ndef f():\n    return 1", True),
    "decorated by a method": (
        "f = functools.singledispatch(pure)\n\n\n@f.register\ndef g(x: int):\n    return 1",
        True,
    ),
    "constant": ("KEPT = 1", False),
    "value of a call": ("KEPT = pure(1)", False),
    "added to a list": ("KEPT = [1]\nKEPT += [1]", False),
    "function": ("def f():\n    register(1)", False),
    "subclass of a subclass": ("class Sub(Noted): pass\n\n\nclass Sub(Sub):\n    a = 1", True),
    "metaclass": (
        "class Meta(type):\n    def __init__(cls, *a):\n        register(cls)\n\n\n"
        "class A(metaclass=Meta):\n    a = 1",
        True,
    ),
    "class": ("class Sub:\n    a = 1", False),
    "cached": ("@functools.cache\ndef f():\n    return 1", False),
    "cached, called": ("@functools.lru_cache(maxsize=1)\ndef f():\n    return 1", False),
    "property": (
        "class A:\n    @property\n    def f(self):\n        return 2\n\n"
        "    @f.setter\n    def f(self, x):\n        self.x = 1",
        False,
    ),
    "for types": ("from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    register(1)", False),
    "as a program": ('if __name__ == "__main__":\n    register(1)', False),
}  # fmt: skip


@pytest.mark.parametrize("how", ["imported", "of a package", "imported late", "only for types"])
@pytest.mark.parametrize(("code", "counts"), EFFECTS.values(), ids=EFFECTS)
def test_what_acts_on_import_counts(how: str, code: str, counts: bool, tmp_path: Path) -> None:
    imports = {
        "imported": "from steps.chapter import acts\n\n\ndef main(x):\n    return x\n",
        "of a package": "from steps.chapter.acts import inner\n\n\ndef main(x):\n    return x\n",
        "imported late": "def main(x):\n    import steps.chapter.acts\n\n    return x\n",
        "only for types": (
            "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from steps.chapter import acts\n\n\n"
            "def main(x):\n    return x\n"
        ),
    }
    where = "steps/chapter/acts/__init__.py" if how == "of a package" else "steps/chapter/acts.py"
    files = {STEP: imports[how], where: f"{ACTS}\n\n{code}\n", "steps/chapter/acts/inner.py": ""}
    if how != "of a package":
        del files["steps/chapter/acts/inner.py"]
    last = code.rfind("1")
    new = f"{code[:last]}3{code[last + 1 :]}" if last >= 0 else "pass"
    assert changes(files, tmp_path, where, code, new) is (counts and how != "only for types")


STEP_OF_EVERYTHING = '''
"""A step."""

import logging
import warnings
from typing import TYPE_CHECKING, Annotated

import pydantic
from pydantic import Field

from steps.chapter.parts import Part, kind, message, remedy
from steps.core.errors import UserError
from steps.core.runner import progress, run

if TYPE_CHECKING:
    from steps.chapter.types import Given, Taken

    Pair = tuple[Given, Given]

logger = logging.getLogger("reprise")


class Settings(pydantic.BaseModel):
    """What can be set."""

    size: int = pydantic.Field(1, ge=2, le=3, description="how large", json_schema_extra={"a": 4})
    name: Annotated[str, Field(pattern="ab", max_length=5)] = Field(default="cd", description=message(6))
    part: Part | None = None

    @pydantic.model_validator(mode="after")
    def check(self):
        if self.size == 7:
            raise ValueError("a size other than seven")
        return self


def compute(x: Pair, y: "Given") -> "list[Pair]":
    """Compute it."""
    values: list[Taken] = [x, y]
    if not values:
        raise UserError(f"nothing: {message(x)}") from None
    assert len(values) == 8, message(values)
    logger.info("found %d values %s", len(values), remedy(x))
    logging.getLogger("other").warning("and so on")
    for value in progress(values, 9, "values"):
        last = value
    try:
        kind(x)
    except (KeyError, ValueError) as problem:
        logger.warning("skipped: %s", problem)
    if x is None:
        raise SystemExit(10)
    warnings.warn("as code", stacklevel=2)
    return [last]


def main(x: int, settings: Settings) -> None:
    compute(x, settings)


if __name__ == "__main__":
    run(main)
'''
PARTS = """
import pydantic


class Part(pydantic.BaseModel):
    number: int = 1


def kind(x):
    return x


def message(x):
    return "message"


def remedy(x):
    return "remedy"
"""
TYPES = """
class Given:
    def value(self):
        return 1


class Taken:
    def value(self):
        return 2


class Free:
    def value(self):
        return 3
"""
EVERYTHING = {STEP: STEP_OF_EVERYTHING, "steps/chapter/parts.py": PARTS, "steps/chapter/types.py": TYPES}
LEFT_OUT = [
    *both(
        STEP,
        EVERYTHING,
        [
            *(("Field(1, ", "Field(2, "), ('{"a": 4}', '{"a": 5}'), ('default="cd"', 'default="dc"')),
            *(("size: int", "size: float"), ("Part | None = None", "Part | int = 0"), ("== 7", "== 8")),
            *(("raise ValueError", "raise TypeError"), ("raise UserError", "raise KeyError")),
            *((" from None", ""), ("== 8,", "== 9,"), ("SystemExit(10)", "SystemExit(11)")),
            *(('mode="after"', 'mode="before"'), ("as code", "As code"), ("return [last]", "return [value]")),
            *(("(KeyError, ValueError)", "KeyError"), ("progress(values", "progress(values[:1]")),
            *(("def main(x: int", "def main(x: str"), ("run(main)", "run(main), 1")),
            ("    name: Annotated", "    more: int = 1\n    name: Annotated"),
        ],
        [
            *(('"""A step."""', '"""The step."""'), ("What can be set", "Settings"), ("Compute it", "Work")),
            *(("ge=2", "ge=3"), ("le=3", "lt=4"), ("how large", "how big"), ('pattern="ab"', 'pattern="a"')),
            *((", max_length=5", ""), ("message(6)", '"other"'), ("a size other than seven", "not seven")),
            *(("x: Pair", "x: 'Pair'"), (' -> "list[Pair]"', ""), ("list[Taken] =", "list[Pair | Taken] =")),
            *(("nothing: {message(x)}", "nothing {x}"), ("message(values)", '"values"')),
            ('logger.info("found %d values %s", len(values), remedy(x))', 'logger.debug("values")'),
            ('    logger.info("found %d values %s", len(values), remedy(x))\n', ""),
            *(("and so on", "etc."), ('9, "values"', '10, "all values"'), ("skipped: %s", "left out: %s")),
            *(("tuple[Given, Given]", "tuple[Given]"), ("found %d", "Found %d")),
            ("compute(x, settings)", "compute(x, settings)  # now"),
            ("compute(x: Pair,", "compute(\n    x: Pair,"),
        ],
    ),
    *both(
        "steps/chapter/parts.py",
        EVERYTHING,
        [("number: int = 1", "number: int = 2"), ("return x", "return -x"), ("number: int", "number: float")],
        [('"message"', '"news"'), ('"remedy"', '"cure"'), ("def kind(x)", "def kind(x: int)")],
    ),
    *both(
        "steps/chapter/types.py",
        EVERYTHING,
        [("return 1", "return 4"), ("return 2", "return 4")],
        [("return 3", "return 4"), ("def value(self)", "def value(self) -> int")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("files", "name", "old", "new", "changed"), [*DEFINITIONS, *LEFT_OUT])
def test_what_is_reached_and_nothing_else_changes_the_digest(
    files: dict[str, str], name: str, old: str, new: str, changed: bool, tmp_path: Path
) -> None:
    assert changes(files, tmp_path, name, old, new) is changed


LOCALS = """
import functools

G = 1


def main(x, *, y=0):
    total = 0
    for item in x:
        total += item
    squares = [item * item for item in x if item]
    with open(x) as file, open(y) as (first, *rest):
        total += len(file.read())
    if (found := total) > G:
        del found
    try:
        pass
    except KeyError as problem:
        total = problem

    def inner(z):
        nonlocal total
        total = z + len(squares)
        return lambda item: item + total

    match x:
        case [one, *others]:
            return one, others
        case {"a": 1, **more} as everything:
            return more, everything

    class A:
        total = 3

        def f(self):
            return total

    return dict(total=total, inner=inner(z=1), rest=[first, rest], a=A)
"""


@pytest.mark.parametrize(
    "name",
    ["item", "squares", "file", "first", "rest", "found", "problem", "one", "others", "more", "everything"],
)
def test_names_of_local_variables_decide_nothing(name: str, tmp_path: Path) -> None:
    renamed = re.sub(rf"\b{name}\b(?!=\w)", "another", LOCALS)
    renamed = renamed.replace("another=[", f"{name}=[").replace(
        "lambda another: another", f"lambda {name}: {name}"
    )
    assert renamed != LOCALS
    before, after = (
        project(tmp_path / "a", PLAIN | {STEP: LOCALS}),
        project(tmp_path / "b", PLAIN | {STEP: renamed}),
    )
    assert digest.code_digest("chapter.step", before) == digest.code_digest("chapter.step", after)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("total += item", "total += x"),
        ("item * item", "item * total"),
        ("return one, others", "return others, one"),
        ("dict(total=total", "dict(sum=total"),
        ("inner=inner(z=1)", "inner=inner(1)"),
        ("def inner(z):\n        nonlocal total\n        total = z", "def inner(z):\n        total = z"),
        ("*, y=0", "*, w=0"),
        ("> G", "> x"),
        ("lambda item: item + total", "lambda item: total + total"),
        ("        total = 3", "        sum = 3"),
        ("            return total", "            return squares"),
        ("for item in x:", "for total in x:"),
        ("[first, rest]", "[rest, first]"),
        ("return more, everything", "return everything, more"),
    ],
)
def test_which_variable_is_meant_decides(old: str, new: str, tmp_path: Path) -> None:
    assert changes({STEP: LOCALS}, tmp_path, STEP, old, new)


@pytest.mark.parametrize(
    "use", ["locals()", "eval('a')", "frame.query('b > @a')", "vars()", "inspect.currentframe()"]
)
def test_names_of_locals_that_something_may_see_decide(use: str, tmp_path: Path) -> None:
    step = f"import inspect\n\n\ndef main(frame):\n    a = 1\n    return {use}\n"
    assert changes({STEP: step}, tmp_path, STEP, "a = 1", "b = 1")


def test_a_local_variable_is_not_what_a_module_calls_so(tmp_path: Path) -> None:
    step = "from steps.chapter import tools\n\n\ndef main(x):\n    return [tools for tools in x], f(x)\n\n\n"
    step += "def f(tools):\n    helper = tools.used\n    return tools.unused(helper)\n\n\n"
    step += "def helper():\n    return 1\n"
    files = {STEP: step, "steps/chapter/tools.py": TOOLS}
    for number, (name, old, new) in enumerate(
        [
            ("steps/chapter/tools.py", "x + 12", "x"),
            ("steps/chapter/tools.py", "x + 13", "x"),
            (STEP, "return 1", "return 2"),
        ]
    ):
        assert not changes(files, tmp_path / str(number), name, old, new)


FILES_BESIDE = {
    "steps/chapter/words.json": '{"a": [1, 2.0], "b": null}',
    "steps/chapter/page.css": "a {}",
    "steps/chapter/more/data.v1.txt": "1",
    "steps/chapter/names.lst": "x",
    "steps/chapter/reader.html": "<p>",
    "steps/chapter/unused.json": "[]",
}


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ('Path(__file__).with_name("words.json")', "words.json"),
        ('Path(__file__).parent / "page.css"', "page.css"),
        ('Path(__file__).parent / "more/data.v1.txt"', "more/data.v1.txt"),
        ('Path(__file__).parent.joinpath("names.lst")', "names.lst"),
        ('Path(__file__).with_suffix(".html")', "reader.html"),
        ('importlib.resources.files("steps.chapter") / "names.lst"', "names.lst"),
        ("Path(__file__).parent / x", None),
        ("importlib.resources.files(x) / x", None),
    ],
)
def test_files_beside_a_module_count_where_they_are_named(
    code: str, named: str | None, tmp_path: Path
) -> None:
    reader = "from pathlib import Path\nimport importlib.resources\n\nHERE = 'unused.json'\n\n\n"
    reader += f"def used(x):\n    return {code}\n"
    step = "from steps.chapter.reader import used\n\n\ndef main(x):\n    return used(x)\n"
    files = FILES_BESIDE | {STEP: step, "steps/chapter/reader.py": reader}
    for number, name in enumerate(FILES_BESIDE):
        text = FILES_BESIDE[name]
        changed = changes(files, tmp_path / str(number), name, text, f"[{text}]")
        beside = name.removeprefix("steps/chapter/")
        assert changed is (beside == named or (named is None and "/" not in beside)), name
        assert (name in digest.code_files("chapter.step", tmp_path / str(number) / "before")) is changed
    if named == "words.json":  # by content
        spaced = '{\n  "b": null,\n\n "a": [1, 2.0]}\n'
        assert not changes(
            files,
            tmp_path / "spaced",
            "steps/chapter/words.json",
            FILES_BESIDE["steps/chapter/words.json"],
            spaced,
        )


def test_a_step_knows_its_definitions_and_files(tmp_path: Path) -> None:
    folder = project(tmp_path, PLAIN | EVERYTHING)
    assert digest.code_definitions("chapter.step", folder) == {
        *("steps.chapter.step.main", "steps.chapter.step.compute", "steps.chapter.step.Settings"),
        *("steps.chapter.parts.Part", "steps.chapter.parts.kind"),
        *("steps.chapter.types.Given", "steps.chapter.types.Taken"),
    }
    assert digest.code_files("chapter.step", folder) == [
        *(
            "steps/__init__.py",
            "steps/chapter/__init__.py",
            "steps/chapter/parts.py",
            "steps/chapter/step.py",
        ),
        *("steps/chapter/types.py", "steps/core/__init__.py"),
    ]
    with pytest.raises(ModuleNotFoundError, match=r"steps\.chapter\.none"):
        digest.code_digest("chapter.none", folder)


def test_a_module_without_main_counts_whole(tmp_path: Path) -> None:
    assert changes({STEP: "a = 1\n\n\ndef f():\n    return 2\n"}, tmp_path, STEP, "return 2", "return 3")


@pytest.mark.parametrize("name", ["UserError", "kind", "Part", "Field", "used", "run"])
def test_what_a_name_stands_for_counts(name: str, tmp_path: Path) -> None:
    """The same code with a name that is bound to another thing."""
    step = f"from steps.chapter.a import {name}\n\n\ndef main(x):\n    return {name}(x)\n"
    others = {
        "steps/chapter/a.py": f"from one import {name}\n",
        "steps/chapter/b.py": f"from two import {name}\n",
    }
    assert changes(others | {STEP: step}, tmp_path / "1", STEP, "chapter.a", "chapter.b")
    assert changes(others | {STEP: step}, tmp_path / "2", "steps/chapter/a.py", "from one", "from two")
    swapped = "from steps.chapter.c import f as g, g as f\n\n\ndef main(x):\n    return f(g(x))\n"
    c = {"steps/chapter/c.py": "def f(x):\n    return x\n\n\ndef g(x):\n    return -x\n"}
    assert changes(c | {STEP: swapped}, tmp_path / "3", STEP, "f as g, g as f", "f, g")


STARTED = {
    *("steps.audit.gateway.server", "steps.audit.methods.catalogue"),
    *("steps.audit.evidence.verify", "steps.dafny.verifier.guard"),
}
"""What a step starts as a process of its own, by its name or its path."""


def test_our_own_steps_are_followed_in_no_time() -> None:
    """Nothing else of ours counts whole: where something must, it is worth a look."""
    steps = [path for path in (ROOT / "steps").rglob("*.py") if "\ndef main(" in path.read_text()]
    steps = [path for path in steps if path.parent != ROOT / "steps"]
    assert len(steps) > 30
    for path in steps:
        reach = digest._reach(".".join(path.relative_to(ROOT / "steps").with_suffix("").parts), ROOT)
        assert reach._whole.keys() <= STARTED, path
        assert f"steps.{'.'.join(path.relative_to(ROOT / 'steps').with_suffix('').parts)}.main" in set(
            reach.definitions
        )
