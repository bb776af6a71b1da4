"""Candidate invariants of a loop: what its guard, its variables and the contract suggest.

Five families, blind to the names in a program (what paid in trials):

``bounds``     of the variables that the loop assigns: their first values, zero, lengths, parameters, each
               other; sums and differences that stay the same
``guards``     the guard of the loop, one step weaker
``frames``     what of an array is as it was, and the multiset of its elements
``posts``      conditions of the contract: as they are, and with a length, parameter or result replaced by a
               variable of the loop, everywhere or as upper or lower bound; their consequents; sequences cut
               off at a variable
``recursion``  of a function in the contract: what is done and what is left make up the whole; neighbours

Each is one line that Dafny may refuse to resolve or to prove: :mod:`steps.dafny.prover.houdini` drops those.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from steps.dafny.syntax.program import Declaration, Program, Statement
from steps.dafny.syntax.tokens import tokens

FAMILIES = ("bounds", "guards", "frames", "posts", "recursion")

Expression = tuple[str, ...]
"""The texts of an expression's tokens."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An invariant that may hold."""

    family: str
    text: str


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop and what is known around it."""

    owner: Declaration
    statement: Statement
    types: dict[str, str]
    """Of the variables in scope, as written or guessed; ``?`` where nothing is known."""
    first: dict[str, Expression]
    """What variables were before the loop, in terms that it does not assign."""
    assigned: tuple[str, ...]
    """Variables that it assigns and that are declared before it, in the order of their declaration."""
    written: tuple[str, ...]
    """Arrays whose elements it writes."""
    outer: tuple[str, ...]
    """Variables that loops around it assign, too."""


def show(expression: Sequence[str]) -> str:
    """An expression as text."""
    text, before, open_bar = "", "", False
    for token in expression:
        tight = before in ("", "(", "[", ".", "!", "..") or token in (")", "]", ".", ",", ";", "..")
        if before in ("{",) or token == "}":
            tight = True
        if token == "(" or token == "[":
            tight = (
                tight
                or before.replace("_", "a").replace("'", "a").replace("?", "a").isalnum()
                or before in (")", "]")
            )
            tight = tight and before not in ("in", "then", "else", "if", "&&", "||")
        if token == "|":
            open_bar = not open_bar
            tight = tight or not open_bar
        elif before == "|" and open_bar:
            tight = True
        text += token if tight else f" {token}"
        before = token
    return text


def read(text: str) -> Expression:
    """The tokens of an expression."""
    return tuple(token.text for token in tokens(text))


def loops(program: Program) -> Iterator[Loop]:
    """The loops of a program, outer ones first, with what is in scope."""
    results = {
        one.name: show(_texts(program, *one.result)) for one in program.all() if one.expression is not None
    }
    for around in [None, *program.all()]:
        members = program.declarations if around is None else around.members
        fields = {
            one.name: _type_of_field(program, one)
            for one in members
            if one.kind in ("var", "const") and one.name
        }
        for one in members:
            if not one.body or one.kind not in ("method", "constructor", "lemma"):
                continue
            types = dict(fields)
            for start, end in (one.parameters, one.result):
                types |= _declared(_texts(program, start, end))
            first: dict[str, Expression] = {
                name: (name,) for name in _declared(_texts(program, *one.parameters))
            }
            yield from _inside(program, one, one.body, types, first, (), results)


def _type_of_field(program: Program, one: Declaration) -> str:
    texts = _texts(program, one.start, one.end)
    return show(texts[texts.index(":") + 1 :]).split(":=")[0].strip() if ":" in texts else "?"


def _texts(program: Program, start: int, end: int) -> Expression:
    return tuple(program.tokens[index].text for index in range(start, end))


def split(expression: Sequence[str], separator: str) -> list[Expression]:
    """The parts of an expression between separators that stand in no brackets."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in expression:
        depth += (token in ("(", "[", "{", "{:")) - (token in (")", "]", "}"))
        if token == separator and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return [tuple(part) for part in parts if part]


def _split_types(expression: Sequence[str]) -> list[Expression]:
    parts: list[list[str]] = [[]]
    depth = 0
    for token in expression:
        depth += (token in ("(", "[", "<")) - (token in (")", "]", ">"))
        if token == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return [tuple(part) for part in parts if part]


def _declared(expression: Sequence[str]) -> dict[str, str]:
    """Names and types of ``x: int, y: array<int>``; names without a type take that of the next."""
    found: dict[str, str] = {}
    waiting: list[str] = []
    for part in _split_types(expression):
        if ":" in part:
            at = part.index(":")
            if at:
                waiting.append(part[at - 1])
            kind = show(part[at + 1 :]).replace(" ", "")
            found |= dict.fromkeys(waiting, kind)
            waiting = []
        else:
            waiting.append(part[-1])
    return found | dict.fromkeys(waiting, "?")


def _inside(
    program: Program,
    owner: Declaration,
    statements: Iterable[Statement],
    types: dict[str, str],
    first: dict[str, Expression],
    outer: tuple[str, ...],
    results: dict[str, str],
) -> Iterator[Loop]:
    types, first = dict(types), dict(first)
    for one in statements:
        if one.kind in ("while", "for"):
            local = dict(types)
            index: tuple[str, ...] = ()
            if one.kind == "for":
                index = (program.at(one.guard[0]),)
                local[index[0]] = "int"
            assigned = _assigned(program, one)
            known = tuple(name for name in local if name in assigned or name in index)
            fixed = {name: value for name, value in first.items() if not set(value) & set(known) - {name}}
            fixed = {name: value for name, value in fixed.items() if value != (name,) or name not in known}
            if one.kind == "for":
                fixed[index[0]] = _start_of_for(program, one)
            written = tuple(dict.fromkeys(_written(program, one)))
            yield Loop(owner, one, local, fixed, known, written, outer)
            inner = {name: value for name, value in first.items() if not set(value) & set(known)}
            inner = {name: value for name, value in inner.items() if name not in known}
            yield from _inside(program, owner, one.body, local, inner, outer + known, results)
            first = {
                name: value
                for name, value in first.items()
                if name not in known and not set(value) & set(known)
            }
        else:
            if one.kind in ("if", "match", "block", "label"):
                yield from _inside(program, owner, one.body, types, first, outer, results)
            for name in _assigned(program, one):
                first.pop(name, None)
                first = {key: value for key, value in first.items() if name not in value or key == name}
            for name, kind, value in _assignments(program, one, types, results):
                if kind is not None:
                    types[name] = kind
                if value is not None:
                    first[name] = (
                        tuple(itertools.chain(*(first.get(token, (token,)) for token in value)))
                        if len(value) == 1
                        else value
                    )


def _start_of_for(program: Program, loop: Statement) -> Expression:
    texts = _texts(program, *loop.guard)
    start = texts.index(":=") + 1
    end = next((i for i, token in enumerate(texts) if token in ("to", "downto")), len(texts))
    return texts[start:end]


def _assignments(
    program: Program, one: Statement, types: dict[str, str], results: dict[str, str]
) -> Iterator[tuple[str, str | None, Expression | None]]:
    """Name, type and value of what a statement declares or assigns; nothing where they are not known."""
    if one.kind not in ("var", "ghost var", "call"):
        return
    texts = _texts(program, *one.guard)
    if ":=" not in texts:
        if one.kind != "call":
            for name, kind in _declared(texts).items():
                yield name, kind, None
        return
    at = texts.index(":=")
    left, right = texts[:at], split(texts[at + 1 :], ",")
    declared = (
        _declared(left)
        if one.kind != "call"
        else {part[0]: "?" for part in split(left, ",") if len(part) == 1}
    )
    whole = len(right) == len(declared) == len(split(left, ","))
    for number, (name, kind) in enumerate(declared.items()):
        value = right[number] if whole else None
        guessed = kind if kind != "?" else guess(value or (), types, results)
        known = None if one.kind == "call" else guessed
        pure = value is not None and "new" not in value and show(value) != "*" and not _calls(value, results)
        yield name, known, value if pure and value and len(value) <= 12 else None


def _calls(expression: Sequence[str], results: dict[str, str]) -> bool:
    """Whether an expression calls what is no function of the program."""
    return any(
        after == "(" and name[:1].isalpha() and name not in results and name not in ("in", "old", "multiset")
        for name, after in itertools.pairwise(expression)
    )


def guess(value: Sequence[str], types: dict[str, str], results: dict[str, str]) -> str:
    """The type of an expression by its looks; ``?`` where they say nothing."""
    if not value:
        return "?"
    depth, top = 0, []
    for token in value:
        depth -= token in (")", "]", "}")
        if depth == 0:
            top.append(token)
        depth += token in ("(", "[", "{")
    if {"==", "!=", "<", ">", "<=", ">=", "&&", "||", "!", "==>", "in", "!in"} & set(top) or value[0] in (
        "true",
        "false",
    ):
        return "bool"
    for operator in ("+", "-", "*", "/", "%"):
        parts = split(value, operator)
        if len(parts) > 1:
            return guess(parts[0], types, results)
    if value[0] == "new":
        kind = show(value[1:]).split("[")[0].split("(")[0].strip()
        return f"array<{kind}>" if "[" in value else kind
    if value[0] in ("set", "map", "multiset"):
        return "?"
    if value[0] == "|" or value[-1] in ("Length", "Length0", "Length1") or value[0][0].isdigit():
        return "int"
    if value[0] == "[":
        return "seq<?>"
    if value[0] == "{":
        return "set<?>"
    if value[0].startswith('"'):
        return "seq<char>"
    if value[0] == "-" or value[0] == "(":
        return guess(value[1:], types, results)
    kind = results.get(value[0], types.get(value[0], "?"))
    if (
        len(value) > 1
        and value[1] == "["
        and value[0] in types
        and ".." not in value[: value.index("]") if "]" in value else 1]
    ):
        inner = kind[kind.find("<") + 1 : -1] if "<" in kind else "?"
        return {"string": "char"}.get(kind, inner)
    if len(value) > 1 and value[1] == ".":
        return types.get(value[2], "?") if len(value) == 3 else "?"
    return kind


def _assigned(program: Program, loop: Statement) -> set[str]:
    """Variables and fields that a statement assigns, those inside others included."""
    found: set[str] = set()
    for one in loop.walk():
        if one.kind not in ("call", "var", "ghost var"):
            continue
        texts = _texts(program, *one.guard)
        for operator in (":=", ":|", ":-"):
            if operator in texts:
                for part in split(texts[: texts.index(operator)], ","):
                    if len(part) == 1:
                        found.add(part[0])
                    elif "." in part and "[" not in part:
                        found.add(part[-1])
    return found


def _written(program: Program, loop: Statement) -> Iterator[str]:
    """Arrays to whose elements a loop assigns."""
    for one in loop.walk():
        texts = _texts(program, *one.guard) if one.kind == "call" else ()
        if ":=" in texts:
            for part in split(texts[: texts.index(":=")], ","):
                if "[" in part and part[-1] == "]":
                    yield show(part[: part.index("[")])


def is_number(kind: str) -> bool:
    """Whether a type is one of integers."""
    return kind in ("int", "nat", "?")


def is_array(kind: str) -> bool:
    return kind.startswith("array<") or kind == "array"


def is_sequence(kind: str) -> bool:
    return kind.startswith("seq<") or kind in ("string", "seq")


def of_loop(program: Program, loop: Loop) -> list[Candidate]:
    """The candidates of a loop, bounds first, since conditions are checked under those before them."""
    found: dict[str, Candidate] = {}
    makers = (_bounds, _guards, _frames, _posts, _recursion)
    for family, make in zip(FAMILIES, makers, strict=True):
        for text in make(program, loop):
            found.setdefault(text, Candidate(family, text))
    return list(found.values())


def _numbers(loop: Loop) -> list[str]:
    return [name for name in loop.assigned if loop.types.get(name) in ("int", "nat")]


def _lengths(loop: Loop) -> list[str]:
    """Lengths in scope that the loop does not change."""
    found = []
    for name, kind in loop.types.items():
        if is_array(kind):
            found.append(f"{name}.Length")
        elif kind.startswith("array2"):
            found += [f"{name}.Length0", f"{name}.Length1"]
        elif is_sequence(kind) and name not in loop.assigned:
            found.append(f"|{name}|")
    return found


def _bounds(program: Program, loop: Loop) -> Iterator[str]:
    numbers = _numbers(loop)
    fixed = [
        name
        for name, kind in loop.types.items()
        if kind in ("int", "nat") and name not in loop.assigned and name in loop.first
    ]
    uppers = [
        *_lengths(loop),
        *fixed,
        *(name for name in loop.outer if loop.types.get(name) in ("int", "nat")),
    ]
    uppers = [name for name in dict.fromkeys(uppers) if name not in loop.assigned]
    for name in numbers:
        yield f"0 <= {name}"
        start = loop.first.get(name)
        if start is not None and start != (name,):
            shown = show(start)
            if shown != "0":
                yield f"{shown} <= {name}"
            yield f"{name} <= {shown}"
        for upper in uppers[:8]:
            if upper != name:
                yield f"{name} <= {upper}"
                yield f"{name} < {upper}"
        yield f"-1 <= {name}"
    for name, kind in loop.types.items():
        if name in loop.assigned and is_sequence(kind):
            for number in dict.fromkeys([*numbers, *fixed]):
                yield f"|{name}| == {number}"
                yield f"|{name}| <= {number}"
            for upper in uppers[:8]:
                yield f"|{name}| <= {upper}"
                for number in numbers:
                    yield f"|{name}| == {upper} - {number}"
                    yield f"|{name}| + {number} == {upper}"
    for a, b in itertools.combinations(numbers[:6], 2):
        yield f"{a} <= {b}"
        yield f"{b} <= {a}"
        first, second = loop.first.get(a), loop.first.get(b)
        if first is not None and second is not None:
            yield f"{a} + {b} == {_sum(first, '+', second)}"
            yield f"{a} - {b} == {_sum(first, '-', second)}"
    if loop.statement.kind == "for":
        return
    for name in numbers:
        if (
            (start := loop.first.get(name)) is not None
            and start != (name,)
            and len(start) == 1
            and start[0] in fixed
        ):
            yield f"{name} <= {start[0]}"


def _sum(first: Expression, operator: str, second: Expression) -> str:
    a, b = show(first), show(second)
    if b == "0":
        return a
    if a == "0" and operator == "+":
        return b
    return f"{a} {operator} {b}" if len(second) == 1 or operator == "+" else f"{a} {operator} ({b})"


def _guards(program: Program, loop: Loop) -> Iterator[str]:
    if loop.statement.kind == "for":
        return
    texts = _texts(program, *loop.statement.guard)
    while len(texts) > 2 and texts[0] == "(" and _matches(texts):
        texts = texts[1:-1]
    for part in split(texts, "&&"):
        while len(part) > 2 and part[0] == "(" and _matches(part):
            part = part[1:-1]
        for operator, weaker in (
            ("<", ("{a} <= {b}",)),
            (">", ("{a} >= {b}",)),
            ("!=", ("{a} <= {b}", "{a} >= {b}")),
            ("<=", ("{a} <= {b} + 1",)),
            (">=", ("{a} + 1 >= {b}",)),
        ):
            sides = split(part, operator)
            if len(sides) == 2 and part.count(operator) == 1:
                for form in weaker:
                    yield form.format(a=show(sides[0]), b=show(sides[1]))


def _matches(texts: Sequence[str]) -> bool:
    """Whether the first bracket is closed by the last token."""
    depth = 0
    for index, token in enumerate(texts):
        depth += (token in ("(", "[", "{")) - (token in (")", "]", "}"))
        if depth == 0:
            return index == len(texts) - 1
    return False


def _frames(program: Program, loop: Loop) -> Iterator[str]:
    modified = {
        token
        for clause in loop.owner.clauses
        if clause.kind == "modifies"
        for token in _texts(program, *clause.expression)
    }
    numbers = [*_numbers(loop), *(name for name in loop.outer if loop.types.get(name) in ("int", "nat"))]
    for name in loop.written:
        if loop.types.get(name, "").startswith("array2"):
            continue
        if name in modified or "this" in modified:
            yield f"multiset({name}[..]) == old(multiset({name}[..]))"
            for number in dict.fromkeys(numbers):
                yield f"forall k :: {number} <= k < {name}.Length ==> {name}[k] == old({name}[k])"
                yield f"forall k :: 0 <= k < {number} ==> {name}[k] == old({name}[k])"
                yield f"forall k :: 0 <= k <= {number} && k < {name}.Length ==> {name}[k] == old({name}[k])"
            for a, b in itertools.permutations(list(dict.fromkeys(numbers))[:3], 2):
                yield f"forall k :: {a} <= k <= {b} ==> {name}[k] == old({name}[k])"


MOST_POSTS = 90
"""Candidates of the family ``posts`` of one loop."""


def _posts(program: Program, loop: Loop) -> Iterator[str]:
    yield from itertools.islice(dict.fromkeys(_mutations(program, loop)), MOST_POSTS)


def _recursion(program: Program, loop: Loop) -> Iterator[str]:
    for post in _contract(program, loop):
        yield from _conserved(post, loop, _places(loop))


def conjuncts(expression: Expression) -> list[Expression]:
    """The parts of a condition that must all hold."""
    while len(expression) > 2 and expression[0] == "(" and _matches(expression):
        expression = expression[1:-1]
    if expression[:1] in (("forall",), ("exists",)) or any(
        len(split(expression, operator)) > 1 for operator in ("==>", "<==>", "||", "<==")
    ):
        return [expression]
    return [link for part in split(expression, "&&") for link in _links(part)]


def _links(part: Expression) -> list[Expression]:
    """``a <= b < c`` as ``a <= b`` and ``b < c``."""
    found: list[Expression] = []
    terms: list[list[str]] = [[]]
    operators: list[str] = []
    depth = 0
    for token in part:
        depth += (token in ("(", "[", "{")) - (token in (")", "]", "}"))
        if depth == 0 and token in ("<", "<=", ">", ">="):
            operators.append(token)
            terms.append([])
        else:
            terms[-1].append(token)
    if len(operators) < 2 or not all(terms):
        return [part]
    for left, operator, right in zip(terms, operators, terms[1:], strict=False):
        found.append((*left, operator, *right))
    return found


def _contract(program: Program, loop: Loop) -> dict[Expression, None]:
    """The conditions of the contract, their parts and consequents, in order."""
    contract = [
        part
        for kind in ("ensures", "requires")
        for clause in loop.owner.clauses
        if clause.kind == kind
        for part in conjuncts(_texts(program, *clause.expression))
        if kind == "ensures" or "[" in part or "(" in part or "." in part
    ]
    posts = [_apart(part, loop) for part in contract if part]
    variants: dict[Expression, None] = {}
    for post in posts:
        variants[post] = None
        for operator in ("==>", "<==>"):
            parts = split(post, operator)
            if len(parts) > 1 and post[0] not in ("forall", "exists"):
                sides = parts[0], post[len(parts[0]) + 1 :]
                variants[sides[1]] = None
                if operator == "<==>":
                    variants[(*sides[0], "==>", "(", *sides[1], ")")] = None
    aliases = _aliases(program, loop)
    for post in list(variants):
        for old, new in aliases:
            variants.setdefault(_replaced(post, (old,), (new,)), None)
    return variants


def _places(loop: Loop) -> list[str]:
    """The numbers that this loop or one around it assigns."""
    outer = [name for name in loop.outer if loop.types.get(name) in ("int", "nat")]
    return list(dict.fromkeys([*_numbers(loop), *outer]))


def _mutations(program: Program, loop: Loop) -> Iterator[str]:
    variants = _contract(program, loop)
    places = _places(loop)
    lengths = [name for name, kind in loop.types.items() if name in loop.assigned and is_sequence(kind)]
    indices: list[Expression] = [(name,) for name in places] + [("|", name, "|") for name in lengths]
    for post in variants:
        yield show(post)
    for post in variants:
        for index in indices:
            for bound in _bounds_in(post, loop):
                if bound != index:
                    yield show(_upper(post, bound, index))
                    yield show(_replaced(post, bound, index))
            yield show(_lower(post, index))
    for post in variants:
        for index in indices:
            for bound in _bounds_in(post, loop):
                if bound != index and bound[0] not in loop.types:
                    continue
                for step in ("-", "+"):
                    yield show(_replaced(post, bound, ("(", *index, step, "1", ")")))
        for index in indices:
            yield show(_lower(post, (*index, "+", "1")))
            yield from (show(one) for one in _cut(post, loop, index))


def _apart(expression: Expression, loop: Loop) -> Expression:
    """With variables of quantifiers renamed that are called like one of the loop's."""
    found = expression
    for at, token in enumerate(expression):
        if token not in ("forall", "exists", "set", "iset", "map", "seq"):
            continue
        end = next((k for k in range(at, len(expression)) if expression[k] in ("::", "|", "{")), at)
        for name in _declared(expression[at + 1 : end]):
            if name in loop.types:
                found = _replaced(found, (name,), (f"{name}0",))
    return found


def _aliases(program: Program, loop: Loop) -> list[tuple[str, str]]:
    """A result that the loop does not assign and a variable of its type that it does."""
    results = _declared(_texts(program, *loop.owner.result)) if loop.owner.kind != "function" else {}
    return [
        (result, name)
        for result, kind in results.items()
        if result not in loop.assigned
        for name in loop.assigned
        if loop.types.get(name) == kind and name not in results
    ]


def _replaced(expression: Expression, old: Expression, new: Expression) -> Expression:
    """The expression with every ``old`` in it replaced."""
    found: list[str] = []
    index = 0
    while index < len(expression):
        if expression[index : index + len(old)] == old and (index == 0 or expression[index - 1] != "."):
            found += new
            index += len(old)
        else:
            found.append(expression[index])
            index += 1
    return tuple(found)


def _bounds_in(expression: Expression, loop: Loop) -> list[Expression]:
    """Lengths, parameters and results in an expression that the variables of a loop may stand for."""
    found: dict[Expression, None] = {}
    for index, token in enumerate(expression):
        if (token == "|" and expression[index + 2 : index + 3] == ("|",)) or (
            expression[index + 1 : index + 2] == (".",)
            and expression[index + 2 : index + 3]
            and expression[index + 2].startswith("Length")
        ):
            found[expression[index : index + 3]] = None
        elif loop.types.get(token) in ("int", "nat") and expression[index - 1 : index] != (".",):
            found[(token,)] = None
    for at, token in enumerate(expression):
        if token in ("<", "<="):  # a whole term, such as a.Length / 2
            term = _term(expression[at + 1 :])
            if len(term) > 1 and {"+", "-", "*", "/"} & set(term) and term not in found:
                found[term] = None
    return list(found)


def _term(expression: Expression) -> Expression:
    """The beginning of an expression up to a comparison, a connective or the end of its brackets."""
    depth = 0
    for at, token in enumerate(expression):
        if depth == 0 and token in (
            ")",
            "]",
            "}",
            ",",
            "<",
            "<=",
            ">",
            ">=",
            "==",
            "!=",
            "==>",
            "&&",
            "||",
            "::",
        ):
            return expression[:at]
        depth += (token in ("(", "[", "{")) - (token in (")", "]", "}"))
    return expression


def _upper(expression: Expression, bound: Expression, index: Expression) -> Expression:
    """With a bound replaced only where something is below it."""
    found: list[str] = []
    at = 0
    while at < len(expression):
        if expression[at : at + len(bound)] == bound and at and expression[at - 1] in ("<", "<="):
            after = expression[at + len(bound) : at + len(bound) + 1]
            if after not in (("+",), ("-",), ("*",), ("/",), ("%",)):
                found += index
                at += len(bound)
                continue
        found.append(expression[at])
        at += 1
    return tuple(found)


def _lower(expression: Expression, index: Expression) -> Expression:
    """With the first ``0 <=`` replaced, as a backward loop needs it."""
    for at, pair in enumerate(itertools.pairwise(expression)):
        if pair == ("0", "<="):
            return (*expression[:at], *index, "<=", *expression[at + 2 :])
    return expression


def _cut(expression: Expression, loop: Loop, index: Expression) -> Iterator[Expression]:
    """With sequences and arrays as a whole cut off at a variable."""
    for name, kind in loop.types.items():
        if name in index or name not in expression:
            continue
        if is_array(kind):
            whole = (name, "[", "..", "]")
            yield _replaced(expression, whole, (name, "[", "..", *index, "]"))
            yield _replaced(expression, whole, (name, "[", *index, "..", "]"))
        elif is_sequence(kind) and name not in loop.assigned:
            for cut in (("..", *index), (*index, "..")):
                found: list[str] = []
                for at, token in enumerate(expression):
                    bare = token == name and expression[at - 1 : at] not in ((".",), ("|",))
                    bare = bare and expression[at + 1 : at + 2] != ("[",)
                    found += (name, "[", *cut, "]") if bare else (token,)
                yield tuple(found)


def _conserved(expression: Expression, loop: Loop, places: Sequence[str]) -> Iterator[str]:
    """Of ``r == f(n)``: what is done and what is left make up the whole; neighbours in a recursion."""
    sides = split(expression, "==")
    if len(sides) != 2:
        return
    for left, right in (sides, reversed(sides)):
        if len(right) < 3 or right[1] != "(" or not _matches(right[1:]) or right[0] in loop.types:
            continue
        whole, arguments = show(right), split(right[2:-1], ",")
        numbers = [name for name in loop.assigned if loop.types.get(name) in ("int", "nat")]
        for number, argument in enumerate(arguments):
            moving = [name for name in loop.assigned if loop.first.get(name) == argument]
            stands: list[Expression] = [(name,) for name in dict.fromkeys([*moving, *places])]
            if any(is_sequence(loop.types.get(token, "")) for token in argument):
                stands += [(*argument, "[", name, "..", "]") for name in places]
            for stand in stands:
                if stand == left:
                    continue
                part = show(
                    (right[0], "(", *_joined([*arguments[:number], stand, *arguments[number + 1 :]]), ")")
                )
                if len(left) == 1:
                    yield f"{left[0]} + {part} == {whole}"
                    yield f"{left[0]} * {part} == {whole}"
                    yield f"{part} + {left[0]} == {whole}"
                yield f"{part} == {whole}"
                for name in numbers:
                    if (name,) != stand:
                        yield f"{name} == {part}"
                        after = show(
                            (
                                right[0],
                                "(",
                                *_joined([*arguments[:number], (*stand, "+", "1"), *arguments[number + 1 :]]),
                                ")",
                            )
                        )
                        yield f"{name} == {after}"
        moved = [
            next(((name,) for name in loop.assigned if loop.first.get(name) == argument), argument)
            for argument in arguments
        ]
        if moved != arguments:
            yield f"{show((right[0], '(', *_joined(moved), ')'))} == {whole}"


def _joined(arguments: Sequence[Expression]) -> Iterator[str]:
    for number, argument in enumerate(arguments):
        if number:
            yield ","
        yield from argument
