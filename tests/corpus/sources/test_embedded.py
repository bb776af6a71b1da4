"""Taking sources apart: every part is found, and nothing is in two of them."""

from __future__ import annotations

import ast
import io
import logging
import tokenize
from pathlib import Path

import pytest

from steps.corpus import freeze
from steps.corpus.sources.embedded import Embedded, documents, python_version, split_source

SOURCE = '''"""Module text.

    indented
"""  # after the docstring
# first
# second

    # another column
import os  # trailing
x = "# no comment"
y = ("a"  # between
     "b")


@decorator  # of the class
class A:
    """Class text."""

    def one(self): "One."; return 1

    def two(self):
        """Two: \u00e9\u00e8, """

    def three(self):
        'not' + 'a docstring'
        text = """
# inside a string

"""
        return f"{text}#"

z = 3
async def four(): "Four"
'''


def parts(kind: str, source: str = SOURCE) -> dict[int, str]:
    return {part.line: part.text for part in split_source(source) if part.kind == kind}


def test_docstrings() -> None:
    assert parts("docstring") == {
        1: "Module text.\n\nindented",
        17: "Class text.",
        19: "One.",
        22: "Two: \u00e9\u00e8, ",
        33: "Four",
    }


def test_comments_on_neighbouring_lines_are_one() -> None:
    assert parts("comment") == {
        4: "# after the docstring",
        5: "# first\n# second",
        8: "# another column",
        9: "# trailing",
        11: "# between",
        15: "# of the class",
    }


def test_code_is_what_remains() -> None:
    assert parts("code") == {
        9: 'import os\nx = "# no comment"\ny = ("a"\n     "b")',
        15: "@decorator\nclass A:\n\n    def one(self): return 1\n\n    def two(self):\n        pass\n\n"
        "    def three(self):\n        'not' + 'a docstring'\n"
        '        text = """\n# inside a string\n\n"""\n'
        '        return f"{text}#"',
        32: "z = 3",
        33: "async def four(): pass",
    }


@pytest.mark.parametrize(
    "source",
    [
        "",
        "\n\n",
        '"only"',
        '("in brackets")\nx = 1\n',
        '"joined" " from two"\nx = 1\n',
        'class A: "one"\nclass B:\n\t"""tab"""\n\tx = 1\n',
        'def f():\n    "a"; "b"; return 1\n',
        'def f():\n    "a" ;\n',
        "if x:\n    def f():\n        '''nested'''\nelse:\n    # only a comment\n    pass\n",
        "x = 1\n\x0c\ndef f():\n    '''after a form feed'''\n    return '\\x0c'\n",
        "x = '\u2028# no line end'  # \u2028 comment\n",
        "match x:\n    case 1:\n        def f():\n            '''in a case'''\n",
    ],
)
def test_code_means_the_same_without_docstrings(source: str) -> None:
    check_code(source)


def test_the_same_for_real_modules() -> None:
    rows = [
        row for row in freeze.modules(Path(ast.__file__).parent) if row.key.startswith(("email/", "json/"))
    ]
    assert len(rows) > 20
    for row in rows:
        check_code(row.text)


def without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def check_code(source: str) -> None:
    pieces = list(parts("code", source).values())
    for piece in pieces:
        ast.parse(piece)
    code = "\n".join(pieces)
    expected = without_docstrings(source)
    assert ast.unparse(ast.parse(code)) == ("" if expected == "pass" and not code else expected)
    assert tokenize.COMMENT not in {
        token.type for token in tokenize.generate_tokens(io.StringIO(code).readline)
    }


def frozen(path: Path, rows: dict[tuple[str, str], str]) -> Path:
    freeze.write([freeze.Frozen(kind, key, text, "") for (kind, key), text in rows.items()], path)
    return path


def test_kinds_are_chosen_and_a_file_is_one_unit(tmp_path: Path) -> None:
    snapshot = frozen(
        tmp_path / "s.parquet",
        {("module", "a.py"): SOURCE, ("topic", "if"): "The if statement", ("names", "U+0000"): "LETTER A"},
    )
    found = list(documents(Embedded(kinds=["docstring", "topic"]), snapshot))
    assert [(d.unit, d.source) for d in found] == [("a.py", "docstring")] * 5 + [("if", "topic")]
    everything = list(documents(Embedded(), snapshot))
    assert {d.source for d in everything} == {"docstring", "comment", "code", "topic", "names"}
    assert len({d.key for d in everything}) == len(everything)


def test_a_file_that_does_not_parse_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {
        ("module", "syntax.py"): "def f(:\n",
        ("module", "nul.py"): "x = '\0'\n",
        ("module", "deep.py"): "x = " + "(" * 5000 + ")" * 5000,
        ("module", "fine.py"): "x = 1\n",
    }
    with caplog.at_level(logging.WARNING, "reprise"):
        found = list(documents(Embedded(), frozen(tmp_path / "s.parquet", rows)))
    assert [d.unit for d in found] == ["fine.py"]
    for name in ("syntax.py", "nul.py", "deep.py"):
        assert f"{name}: left out" in caplog.text


def test_the_snapshot_knows_its_python(tmp_path: Path) -> None:
    import platform

    assert python_version(frozen(tmp_path / "s.parquet", {})) == platform.python_version()
