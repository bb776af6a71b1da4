"""Fingerprints of files, settings and code, and the seeds derived from them.

The digest of a step's code covers the definitions that its ``main`` reaches: every top-level statement of
``steps`` that binds a name which ``main``, or something reached before, uses. It reads sources and imports
nothing. Where it cannot tell which definitions are used, it takes all of a module.

- Imports are followed wherever they stand, through the ``__init__``s of packages, and ``module.name`` to the
  name. A module that is used otherwise (passed on, in ``getattr``, ``from module import *``) counts whole.
- Annotations are followed, since pydantic and the runner build classes from them, but are no part of the text
  outside class bodies. Those of ``main`` are: the runner reads the command line by them.
- What acts on import (calls, assignments to attributes and items, whatever registers something) counts for
  every module that is imported. A module with a decorator that is not known to be harmless counts whole.
- Left out, names in them too: docstrings, arguments of raised errors, messages of asserts, calls of loggers,
  descriptions and bounds of pydantic fields, labels of progress.
- Names of local variables decide nothing and are numbered.
- A file that a reached definition names, beside its module, counts: JSON by content, others by bytes.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
import os
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = "steps"
_NOT_PART_OF_RESULTS = {
    "steps.core.digest.code_definitions",
    "steps.core.digest.code_digest",
    "steps.core.digest.code_files",
    "steps.core.errors",
    "steps.core.locks",
    "steps.core.runner",
}
"""Modules and definitions that decide how a result is reported or known again, not what it is.

A change of the digest's own code that matters changes the digests themselves.
"""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the paths, sizes and modification times of files, whose contents are not read.

    For folders of so many files that reading or declaring each would take too long.

    Raises:
        OSError: a file is missing.
    """
    digest = hashlib.sha256()
    for path in paths:
        about = path.stat()
        digest.update(os.fsencode(path) + f"\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seed(*parts: Any) -> int:
    """A 63-bit seed from the configured seed, the step's name and what the job works on.

    Never pass a tile or range number: another cut must see the same random numbers.
    """
    return int(fingerprint([str(part) for part in parts])[:16], 16) >> 1


@functools.cache
def code_digest(step: str, root: Path = _ROOT) -> str:
    """SHA-256 over the definitions that a step's ``main`` reaches; see the module's docstring.

    Args:
        step: the module under ``steps``, such as ``neurons.correlate``. One without ``main`` counts whole.
        root: the folder in which ``steps`` lies; read once.

    The definitions are compared as ``ast.unparse`` prints them, by their names: neither comments, layout and
    order in a file decide, nor the Python version.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    collects = gc.isenabled()
    gc.disable()  # a quarter of the time would go into looking at trees that stay
    try:
        return fingerprint(_reach(step, root).texts)
    finally:
        if collects:
            gc.enable()


def code_definitions(step: str, root: Path = _ROOT) -> frozenset[str]:
    """The names of the definitions that a step's digest covers, such as ``steps.core.digest.seed``."""
    return frozenset(_reach(step, root).definitions)


def code_files(step: str, root: Path = _ROOT) -> list[str]:
    """The files in which a change can change a step's digest, relative to ``root``, sorted."""
    return sorted(set(_reach(step, root).files))


@functools.cache
def _reach(step: str, root: Path) -> _Reach:
    return _Reach(_sources(root), f"{_PACKAGE}.{step}")


@functools.cache
def _sources(root: Path) -> _Sources:
    return _Sources(root)


# What a source says

_HARMLESS = {
    *("abc.abstractmethod", "builtins.classmethod", "builtins.property", "builtins.staticmethod"),
    *("contextlib.asynccontextmanager", "contextlib.contextmanager", "dataclasses.dataclass", "enum.unique"),
    *("functools.cache", "functools.cached_property", "functools.lru_cache", "functools.singledispatch"),
    *("functools.singledispatchmethod", "functools.total_ordering", "functools.wraps"),
    *("torch.enable_grad", "torch.inference_mode", "torch.no_grad"),
    *("typing.final", "typing.no_type_check", "typing.overload", "typing.override"),
    *("typing.runtime_checkable", "typing_extensions.deprecated", "typing_extensions.override"),
    *("warnings.deprecated",),
}
"""Decorators that register nothing and do not look at annotations."""

_OF_PYDANTIC = {
    *("pydantic.field_validator", "pydantic.model_validator", "pydantic.validate_call"),
    *("pydantic.computed_field", "pydantic.field_serializer", "pydantic.model_serializer"),
    *("pydantic.dataclasses.dataclass", "pydantic.with_config"),
}
"""Decorators that register nothing outside the class, and may look at annotations."""

_OF_LOGGERS = {"critical", "debug", "error", "exception", "info", "log", "warn", "warning"}
_OF_FIELDS = {
    *("description", "examples", "title"),
    *("ge", "gt", "le", "lt", "max_digits", "max_length", "min_length", "multiple_of", "pattern"),
}
"""Arguments of a pydantic field that explain or refuse values, and change none."""

_NO_ERRORS = {"GeneratorExit", "StopAsyncIteration", "StopIteration", "SystemExit"}
"""What is raised to say something, with a value as its argument."""

_NAMELESS = {"currentframe", "_getframe", "dir", "eval", "exec", "locals", "query", "vars"}
"""What may see the names of local variables (``DataFrame.query`` does)."""

_SEES_ALL = {"builtins.eval", "builtins.exec", "builtins.globals", "builtins.vars"}
"""What may use any name of its module."""

_IMPORTS = {
    *("builtins.__import__", "importlib.import_module", "pkgutil.iter_modules", "pkgutil.walk_packages"),
    *("runpy.run_module", "runpy.run_path", "sys.modules"),
}
"""What may use any module."""

_MUTATORS = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "register"),
    *("remove", "setdefault", "sort", "update"),
}
_REGISTERS = {"__init_subclass__", "__pydantic_init_subclass__"}
_OF_MODULES = {"__builtins__", "__file__", "__name__", "__package__", "__path__", "__spec__"}


class _Target(typing.NamedTuple):
    """What an import binds a name to: a module, or a name in one."""

    module: str
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


class _Reference(typing.NamedTuple):
    """A use of something that a module's top level or an import gives."""

    base: str | _Target
    attributes: tuple[str, ...] = ()
    read: bool = True
    """Not the case where it is only imported."""
    annotation: bool = False


@dataclasses.dataclass(eq=False)
class _Statement:
    """A statement at the top level of a module."""

    module: _Module
    node: ast.stmt
    typing_only: bool = False
    """Under ``if TYPE_CHECKING``: nothing that runs on import."""
    targets: dict[str, list[_Target]] = dataclasses.field(default_factory=dict)
    """What the names that it imports are bound to."""
    imported: list[str] = dataclasses.field(default_factory=list)
    """The modules that it imports."""

    @property
    def is_import(self) -> bool:
        return isinstance(self.node, ast.Import | ast.ImportFrom)

    @functools.cached_property
    def bound(self) -> dict[str, str]:
        """The names that it binds."""
        return _bound([self.node])

    @functools.cached_property
    def code(self) -> _Names:
        """Its references; its node becomes what the digest compares."""
        stripped = _Stripped(self.module).visit(self.node) or ast.Pass()
        names = _Names(self.module, stripped)
        self.node = names.visit(stripped) or ast.Pass()
        return names

    @functools.cached_property
    def text(self) -> str:
        assert self.code
        return ast.unparse(self.node)

    @functools.cached_property
    def acts(self) -> bool:
        """Whether it does more, when it runs, than bind names."""
        if not self.is_import and not isinstance(self.node, _SCOPES):
            assert self.code  # without calls of loggers
        return not self.typing_only and _acts(self.node, self.module)


class _Module:
    """A source file by its top-level statements."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.is_package = path.name == "__init__.py"
        self.package = name if self.is_package else name.rpartition(".")[0]
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        self.docstring = ast.get_docstring(tree, clean=False)
        self.statements: list[_Statement] = []
        self.as_main: list[_Statement] = []
        """What runs only where the module is the program."""
        self._split(tree.body, typing_only=False)
        self.bound: dict[str, list[_Statement]] = {}
        self.defined = frozenset(name for statement in self.statements for name in statement.bound)
        for statement in self.statements:
            for name in statement.bound:
                self.bound.setdefault(name, []).append(statement)
        for statement in self.statements if "global " in source else ():  # names that only a function binds
            for node in _walk(statement.node):
                for name in node.names if isinstance(node, ast.Global) else ():
                    if name not in self.defined:
                        self.bound.setdefault(name, []).append(statement)

    def _split(self, body: list[ast.stmt], typing_only: bool) -> None:
        for node in body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            test = ast.unparse(node.test) if isinstance(node, ast.If) else ""
            if isinstance(node, ast.If) and test in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                self._split(node.body, typing_only=True)
                self._split(node.orelse, typing_only=typing_only)
            elif isinstance(node, ast.If) and test == "__name__ == '__main__'" and not node.orelse:
                self.as_main += [self._statement(part, typing_only=False) for part in node.body]
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    single = (
                        ast.Import([alias])
                        if isinstance(node, ast.Import)
                        else ast.ImportFrom(node.module, [alias], node.level)
                    )
                    self.statements.append(self._statement(single, typing_only))
            else:
                self.statements.append(self._statement(node, typing_only))

    def _statement(self, node: ast.stmt, typing_only: bool) -> _Statement:
        statement = _Statement(self, node, typing_only)
        for part in _walk_outside_functions(node):
            if isinstance(part, ast.Import | ast.ImportFrom):
                for name, target in self.imports(part):
                    statement.imported.append(target.module)
                    if name:
                        statement.targets.setdefault(name, []).append(target)
                    if target.name:
                        statement.imported.append(str(target))
        return statement

    def imports(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str | None, _Target]]:
        """The names that an import binds (none: only imported), and to what."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield alias.asname, _Target(alias.name)
                else:
                    yield None, _Target(alias.name)
                    top = alias.name.partition(".")[0]
                    yield top, _Target(top)
            return
        module = node.module or ""
        if node.level:
            above = self.package.split(".")[: -(node.level - 1) or None]
            module = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            name = alias.asname or alias.name
            yield (None, _Target(module)) if name == "*" else (name, _Target(module, alias.name))

    def dotted(self, node: ast.expr) -> str | None:
        """The full name of an imported or built-in thing: ``pydantic.Field``; None for any other."""
        attributes = []
        while isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        targets = [t for s in self.bound.get(node.id, ()) for t in s.targets.get(node.id, ())]
        if node.id in self.bound:
            return ".".join([str(targets[0]), *reversed(attributes)]) if targets else None
        return ".".join(["builtins", node.id, *reversed(attributes)])

    @functools.cached_property
    def loggers(self) -> set[str]:
        """The names at its top level that are loggers."""
        return {name for name, statements in self.bound.items() if all(map(_makes_logger, statements))}

    @functools.cached_property
    def decorators(self) -> set[str | None]:
        """The decorators that are applied on import."""
        parts = [p for s in self.statements if not s.typing_only for p in _walk_outside_functions(s.node)]
        return {self.decorator(one) for part in parts for one in getattr(part, "decorator_list", ())}

    def decorator(self, node: ast.expr) -> str | None:
        """The full name of a decorator, None for one that is not known."""
        called = node.func if isinstance(node, ast.Call) else node
        match called:
            case ast.Attribute(value=ast.Name(id=name), attr="deleter" | "getter" | "setter"):
                if name not in self.bound:
                    return "builtins.property"
        return self.dotted(called)


def _makes_logger(statement: _Statement) -> bool:
    node = statement.node
    return isinstance(node, ast.Assign) and _is_get_logger(node.value)


def _is_get_logger(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("getLogger", "logging.getLogger")


def _acts(node: ast.AST, module: _Module) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Pass():
            return False
        case ast.Expr():
            return not isinstance(node.value, ast.Constant)
        case ast.Assign() | ast.AnnAssign():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = [part for target in targets for part in _walk(target)]
            return any(isinstance(part, ast.Attribute | ast.Subscript) for part in stored)
        case ast.AugAssign(target=ast.Name(id=name)):  # in place, on an object that may be another's
            return not all(map(_is_fresh, module.bound.get(name, ())))
        case ast.ClassDef() | ast.If() | ast.Try() | ast.For() | ast.ExceptHandler():
            return any(_acts(part, module) for part in _children(node) if _is_statement(part))
    return True


def _is_statement(node: ast.AST) -> bool:
    return isinstance(node, ast.stmt | ast.ExceptHandler)


def _is_fresh(statement: _Statement) -> bool:
    """Whether a statement binds its name to a value that nobody else holds."""
    node = statement.node
    if isinstance(node, ast.AugAssign):
        return True
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    displays = (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Constant, ast.JoinedStr, ast.BinOp)
    return isinstance(value, (*displays, *_COMPREHENSIONS))


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


_NO_NODES = {"ctx", "kind", "level", "op", "ops", "simple", "type_comment", "type_ignores"}
_FIELDS = {
    kind: tuple(field for field in kind._fields if field not in _NO_NODES)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
_FIELDS |= {ast.Constant: (), ast.Name: ()}
"""The fields of a kind of node in which code stands (operators name nothing and cost time)."""


def _children(node: ast.AST) -> list[ast.AST]:
    """The nodes right below a node, but for operators and contexts."""
    found: list[ast.AST] = []
    for field in _FIELDS[type(node)]:
        value = getattr(node, field, None)
        if isinstance(value, list):
            found += [part for part in value if isinstance(part, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


def _walk(node: ast.AST) -> list[ast.AST]:
    """A node and all that lies below it."""
    found = [node]
    for part in found:
        found += _children(part)
    return found


def _walk_outside_functions(node: ast.AST) -> list[ast.AST]:
    """A node and what lies below it, but for the bodies of functions."""
    found = [node]
    for part in found:
        found += _of_definition(part) if isinstance(part, _SCOPES) else _children(part)
    return found


def _of_definition(node: ast.AST) -> list[ast.AST]:
    """The parts of a definition that belong to the scope in which it stands, but for annotations."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    if isinstance(node, ast.ClassDef):
        return [*decorators, *node.bases, *(word.value for word in node.keywords)]
    assert isinstance(node, _SCOPES)
    return [*decorators, *node.args.defaults, *filter(None, node.args.kw_defaults)]


def _bound(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """The names that a scope with these nodes binds, and how, in the order of the source."""
    found: dict[str, str] = {}
    for node in nodes:
        _note_bound(node, found, inside=False)
    return found


def _note_bound(node: ast.AST, found: dict[str, str], inside: bool) -> None:
    """``inside``: in a comprehension, whose own targets are not the scope's."""

    def note(name: str | None, kind: str) -> None:
        # A name that is bound in several ways keeps the one that forbids most.
        order = ("local", "definition", "import", "nonlocal", "global")
        if name is not None and order.index(found.get(name, "local")) <= order.index(kind):
            found[name] = kind

    if isinstance(node, (*_SCOPES, ast.ClassDef)):
        if not isinstance(node, ast.Lambda):
            note(node.name, "definition")
        for part in _of_definition(node):
            _note_bound(part, found, inside)
        return
    if isinstance(node, ast.Name):
        if not inside and not isinstance(node.ctx, ast.Load):
            note(node.id, "local")
        return
    match node:
        case ast.NamedExpr(target=ast.Name(id=name)):
            note(name, "local")
        case ast.Import() | ast.ImportFrom():
            for alias in node.names:
                if alias.name != "*":
                    top = alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name
                    note(alias.asname or top, "import")
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
            note(name, "local")
        case ast.MatchMapping(rest=name):
            note(name, "local")
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            for name in names:
                note(name, "global" if isinstance(node, ast.Global) else "nonlocal")
    inside = inside or isinstance(node, _COMPREHENSIONS)
    for part in _children(node):
        _note_bound(part, found, inside)


class _Transformer:
    """``ast.NodeTransformer``, but for operators and contexts, which it does not visit: in half the time."""

    def __init__(self) -> None:
        self._visitors: dict[type[ast.AST], Callable[[Any], Any]] = {}

    def visit(self, node: ast.AST) -> Any:
        """What takes the place of a node; None where nothing does."""
        kind = type(node)
        if kind not in self._visitors:
            self._visitors[kind] = getattr(self, f"_visit_{kind.__name__.lower()}", self.generic_visit)
        return self._visitors[kind](node)

    def generic_visit(self, node: ast.AST) -> Any:
        """Replace what lies right below a node."""
        for field in _FIELDS[type(node)]:
            value = getattr(node, field, None)
            if isinstance(value, list):
                kept = [self.visit(part) if isinstance(part, ast.AST) else part for part in value]
                value[:] = [new for new, old in zip(kept, value, strict=True) if new or old is None]
            elif isinstance(value, ast.AST):
                setattr(node, field, self.visit(value))
        return node


class _Stripped(_Transformer):
    """Takes away what decides nothing: docstrings, texts of errors and logs, descriptions and bounds."""

    def __init__(self, module: _Module) -> None:
        super().__init__()
        self._module = module
        self._functions: list[ast.AST] = []

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, _SCOPES):
            self._functions.append(node)
        kept = super().visit(node)
        if isinstance(node, _SCOPES):
            self._functions.pop()
        if kept is node and getattr(node, "body", None) == []:
            node.body = [ast.Pass()]
        return kept

    def _visit_expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) or self._logs(node.value):
            return None
        return self.generic_visit(node)

    def _logs(self, node: ast.expr) -> bool:
        match node:
            case ast.Call(func=ast.Attribute(value=of, attr=attribute)) if attribute in _OF_LOGGERS:
                return self._is_logger(of)
        return False

    def _is_logger(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            for function in reversed(self._functions):
                names = _loggers_or_not(function)
                if node.id in names:
                    return names[node.id] == {True}
            return node.id in self._module.loggers or self._module.dotted(node) == "logging"
        return _is_get_logger(node)

    def _visit_raise(self, node: ast.Raise) -> ast.AST:
        match node.exc:
            case ast.Call(func=ast.Name(id=name)) if name in _NO_ERRORS:
                pass
            case ast.Call():
                node.exc = node.exc.func
        return self.generic_visit(node)

    def _visit_assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def _visit_call(self, node: ast.Call) -> ast.AST:
        match self._module.dotted(node.func):
            case "pydantic.Field" | "pydantic.fields.Field":
                node.keywords = [word for word in node.keywords if word.arg not in _OF_FIELDS]
            case "steps.core.runner.progress":  # passes its first argument on, and logs
                node.args, node.keywords = node.args[:1], [w for w in node.keywords if w.arg == "work"]
        return self.generic_visit(node)


def _loggers_or_not(node: ast.AST) -> dict[str, set[bool]]:
    """Of each name that a function binds, whether that is to loggers, or to other things."""
    assert isinstance(node, _SCOPES)
    found = {argument.arg: {False} for argument in _arguments(node.args)}
    body = node.body if isinstance(node.body, list) else [node.body]
    for name, kind in _bound(body).items():
        if kind not in ("global", "nonlocal"):
            found[name] = {False}
    for part in _walk(node):
        match part:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _is_get_logger(value):
                others = [p for p in _walk(node) if isinstance(p, ast.Name) and p.id == name]
                stored = [p for p in others if not isinstance(p.ctx, ast.Load)]
                if len(stored) == 1 and name in found:
                    found[name] = {True}
    return found


def _arguments(node: ast.arguments) -> list[ast.arg]:
    further = [argument for argument in (node.vararg, node.kwarg) if argument]
    return [*node.posonlyargs, *node.args, *node.kwonlyargs, *further]


class _Scope:
    def __init__(self, kinds: dict[str, str], is_class: bool = False) -> None:
        self.kinds, self.is_class = kinds, is_class
        self.targets: dict[str, list[_Target]] = {}
        self.renamed: dict[str, str] = {}


class _Names(_Transformer):
    """Notes what a statement refers to, numbers its local variables and drops its annotations."""

    def __init__(self, module: _Module, node: ast.stmt) -> None:
        super().__init__()
        self._module = module
        self._scopes: list[_Scope] = []
        self._annotation = 0
        self._count = 0
        self._is_main = isinstance(node, _SCOPES[:2]) and node.name == "main"
        used = {getattr(part, "id", getattr(part, "attr", None)) for part in _walk(node)}
        self._renames = _NAMELESS.isdisjoint(used)
        self.references: dict[_Reference, None] = {}
        self.strings: dict[str, None] = {}
        self.uses_folder = "__file__" in used and not {"dirname", "parent"}.isdisjoint(used)
        """Of the module; where it names no file, all may be meant."""
        self.sees_subclasses = "__subclasses__" in used
        self.sees_module = False
        """All names of its module."""
        self.sees_all = False
        """All modules."""
        self.mutates = False
        """Something at the top level of a module."""

    # Names

    def _refer(self, base: str | _Target, attributes: tuple[str, ...] = (), read: bool = True) -> None:
        self.references[_Reference(base, attributes, read, bool(self._annotation))] = None

    def _find(self, name: str) -> Iterator[_Scope]:
        """The scopes that may give a name its value, from the inside, up to a function's."""
        for depth, scope in enumerate(reversed(self._scopes)):
            if scope.is_class and depth:
                continue
            kind = scope.kinds.get(name)
            if kind == "global":
                return
            if kind not in (None, "nonlocal"):
                yield scope
                if not scope.is_class:
                    return

    def _is_top_level(self, name: str) -> bool:
        return all(scope.is_class for scope in self._find(name))

    def _name(self, name: str, attributes: tuple[str, ...] = (), stored: bool = False) -> str:
        """Note a use of a name; what to print for it."""
        shown = name
        at = self._scopes[-1] if self._scopes else None
        of_class = at is not None and at.is_class and at.kinds.get(name) not in (None, "global", "nonlocal")
        if of_class and (stored or name not in self._module.bound):
            return name
        for scope in self._find(name):
            for target in scope.targets.get(name, ()):
                self._refer(target, attributes)
                self._note_use(".".join([str(target), *attributes]))
            shown = scope.renamed.get(name, shown)
        if self._is_top_level(name):
            self._refer(name, attributes)
            used: ast.expr = ast.Name(name)
            for attribute in attributes:
                used = ast.Attribute(used, attribute)
            self._note_use(self._module.dotted(used) or "")
        return name if of_class else shown

    def _note_use(self, full: str) -> None:
        """Of something imported or built in that may use other things by their names."""
        self.sees_module |= full in _SEES_ALL
        self.sees_all |= any(full == one or full.startswith(f"{one}.") for one in _IMPORTS)
        self.uses_folder |= full.startswith("importlib.resources")

    def _visit_name(self, node: ast.Name) -> ast.AST:
        node.id = self._name(node.id, stored=not isinstance(node.ctx, ast.Load))
        return node

    def _visit_attribute(self, node: ast.Attribute) -> ast.AST:
        attributes = [node.attr]
        inner = node.value
        while isinstance(inner, ast.Attribute):
            attributes.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            return self.generic_visit(node)
        root = inner.id
        if not isinstance(node.ctx, ast.Load):
            self.mutates |= self._is_top_level(root)
        inner.id = self._name(root, tuple(reversed(attributes)))
        return node

    def _visit_subscript(self, node: ast.Subscript) -> ast.AST:
        root: ast.expr = node
        while isinstance(root, ast.Attribute | ast.Subscript):
            root = root.value
        if not isinstance(node.ctx, ast.Load) and isinstance(root, ast.Name):
            self.mutates |= self._is_top_level(root.id)
        if self._annotation and self._is_literal(node):
            return node
        return self.generic_visit(node)

    def _visit_call(self, node: ast.Call) -> ast.AST:
        match node.func:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if attribute in _MUTATORS:
                self.mutates |= self._is_top_level(name) and not self._module.dotted(node.func.value)
        before = self.sees_module, self.sees_all
        node.func = self.visit(node.func)
        if node.args and isinstance(node.args[0], ast.Constant) and str(node.args[0].value)[:1] != ".":
            self.sees_all = before[1]  # import_module("json")
        if node.args and self._module.dotted(node.func) == "builtins.vars":
            self.sees_module = before[0]
        node.args = [self.visit(argument) for argument in node.args]
        node.keywords = [self.visit(word) for word in node.keywords]
        return node

    def _visit_compare(self, node: ast.Compare) -> ast.AST:
        before = self.sees_all
        self.generic_visit(node)
        if any(self._module.dotted(part) == "sys.modules" for part in node.comparators):
            self.sees_all = before  # "torch" in sys.modules
        return node

    def _visit_constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            if self._annotation:
                self._read_annotation(node.value)
            else:
                self.strings[node.value] = None
        return node

    def _read_annotation(self, text: str) -> None:
        with contextlib.suppress(SyntaxError, ValueError):  # a string that names no type
            self.visit(ast.parse(text.strip(), mode="eval").body)

    # Imports

    def _import(self, node: ast.Import | ast.ImportFrom) -> ast.AST:
        for name, target in self._module.imports(node):
            star = isinstance(node, ast.ImportFrom) and name is None
            at = self._scopes[-1] if self._scopes else None
            kept = at is not None and (at.is_class or at.kinds.get(name or "") == "global")
            self._refer(target, read=star or kept)
            if name and self._scopes:
                self._scopes[-1].targets.setdefault(name, []).append(target)
        return node

    _visit_import = _import
    _visit_importfrom = _import

    # Scopes

    def _open(self, kinds: dict[str, str], is_class: bool = False) -> None:
        scope = _Scope(kinds, is_class)
        for name, kind in kinds.items():
            if kind == "local" and not is_class and self._renames:
                self._count += 1
                scope.renamed[name] = f"${self._count}"
        self._scopes.append(scope)

    def _function(self, node: Any) -> ast.AST:
        if not isinstance(node, ast.Lambda):
            node.decorator_list = [self.visit(part) for part in node.decorator_list]
            known = {self._module.decorator(part) for part in node.decorator_list}
            keep = known - _HARMLESS or (self._is_main and not self._scopes)
            self._annotations(node, bool(keep))
            for parameter in getattr(node, "type_params", ()):
                self.generic_visit(parameter)
        node.args.defaults = [self.visit(part) for part in node.args.defaults]
        node.args.kw_defaults = [part and self.visit(part) for part in node.args.kw_defaults]
        body = node.body if isinstance(node.body, list) else [node.body]
        kinds = _bound(body)
        mine = [argument.arg for argument in _arguments(node.args)]
        mine += [parameter.name for parameter in getattr(node, "type_params", ())]
        kinds |= dict.fromkeys(mine, "parameter")
        self._open(kinds)
        if "import" in kinds.values():
            self._note_imports(body)
        if isinstance(node.body, list):
            self.mutates |= any(isinstance(part, ast.Global) for part in _walk(node))
            node.body = self._body(node.body)
        else:
            node.body = self.visit(node.body)
        self._scopes.pop()
        return typing.cast(ast.AST, node)

    _visit_functiondef = _function
    _visit_asyncfunctiondef = _function
    _visit_lambda = _function

    def _annotations(self, node: ast.FunctionDef | ast.AsyncFunctionDef, keep: bool) -> None:
        for holder, field in (*((a, "annotation") for a in _arguments(node.args)), (node, "returns")):
            annotation = getattr(holder, field)
            if annotation is not None and not keep:
                self._drop(annotation)
            if annotation is not None:
                setattr(holder, field, self._code(annotation) if keep else None)

    def _code(self, annotation: ast.expr) -> Any:
        """An annotation that is code; what a string in it names is reached, too."""
        for text in self._quoted(annotation):
            self._read_annotation(text)
        return self.visit(annotation)

    def _quoted(self, annotation: ast.AST) -> Iterator[str]:
        """The types that stand in an annotation as strings."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            yield annotation.value
        elif not self._is_literal(annotation):
            for part in _children(annotation):
                yield from self._quoted(part)

    def _is_literal(self, node: ast.AST) -> bool:
        named = self._module.dotted(node.value) if isinstance(node, ast.Subscript) else None
        return named in ("typing.Literal", "typing_extensions.Literal")

    def _drop(self, annotation: ast.expr) -> None:
        self._annotation += 1
        self.visit(annotation)
        self._annotation -= 1

    def _body(self, body: list[ast.stmt]) -> list[ast.stmt]:
        return [kept for part in body if (kept := self.visit(part))] or [ast.Pass()]

    def _note_imports(self, body: list[Any]) -> None:
        """Imports of a scope count wherever they stand in it: a use may come before, in a nested function."""
        for part in (part for statement in body for part in _walk_outside_functions(statement)):
            if isinstance(part, ast.Import | ast.ImportFrom):
                for name, target in self._module.imports(part):
                    if name and target not in self._scopes[-1].targets.setdefault(name, []):
                        self._scopes[-1].targets[name].append(target)

    def _visit_classdef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = [self.visit(part) for part in node.decorator_list]
        node.bases = [self.visit(part) for part in node.bases]
        node.keywords = [self.visit(part) for part in node.keywords]
        kinds = _bound(node.body) | {p.name: "parameter" for p in getattr(node, "type_params", ())}
        self._open(kinds, is_class=True)
        self._note_imports(node.body)
        node.body = self._body(node.body)
        self._scopes.pop()
        return node

    def _comprehension(self, node: Any) -> ast.AST:
        first = node.generators[0]
        first.iter = self.visit(first.iter)
        self._open(_bound([generator.target for generator in node.generators]))
        for generator in node.generators:
            generator.target = self.visit(generator.target)
            if generator is not first:
                generator.iter = self.visit(generator.iter)
            generator.ifs = [self.visit(part) for part in generator.ifs]
        for field in ("elt", "key", "value"):
            if hasattr(node, field):
                setattr(node, field, self.visit(getattr(node, field)))
        self._scopes.pop()
        return typing.cast(ast.AST, node)

    _visit_listcomp = _comprehension
    _visit_setcomp = _comprehension
    _visit_dictcomp = _comprehension
    _visit_generatorexp = _comprehension

    # Other places where a name stands

    def _visit_annassign(self, node: ast.AnnAssign) -> ast.AST | None:
        if self._scopes and self._scopes[-1].is_class:
            node.annotation = self._code(node.annotation)
            node.target = self.visit(node.target)
            node.value = node.value and self.visit(node.value)
            return node
        self._drop(node.annotation)
        target = self.visit(node.target)
        return ast.copy_location(ast.Assign([target], self.visit(node.value)), node) if node.value else None

    def _filled(self, node: Any) -> ast.AST:
        """A statement whose body may have lost all that it held."""
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return typing.cast(ast.AST, node)

    _visit_if = _filled
    _visit_for = _filled
    _visit_asyncfor = _filled
    _visit_while = _filled
    _visit_with = _filled
    _visit_asyncwith = _filled
    _visit_try = _filled
    _visit_match_case = _filled

    def _binds(self, node: Any) -> ast.AST:
        field = "rest" if isinstance(node, ast.MatchMapping) else "name"
        name = getattr(node, field)
        if name is not None:
            setattr(node, field, self._name(name, stored=True))
        return self._filled(node) if isinstance(node, ast.ExceptHandler) else self.generic_visit(node)

    _visit_excepthandler = _binds
    _visit_matchas = _binds
    _visit_matchstar = _binds
    _visit_matchmapping = _binds

    def _visit_nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        node.names = [self._name(name, stored=True) for name in node.names]
        return node

    def _visit_global(self, node: ast.Global) -> ast.AST:
        for name in node.names:
            self._refer(name)
        return node


# What a step reaches


class _Sources:
    """The modules of a project and the files beside them, each read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, _Module | None] = {}
        self._folders: dict[Path, set[str]] = {}
        self._contents: dict[Path, str] = {}
        self._registering: dict[_Statement, bool] = {}

    def module(self, name: str) -> _Module | None:
        """A module by its name; None where there is none."""
        if name not in self._modules:
            path = self._path(name)
            self._modules[name] = _Module(name, path) if path else None
        return self._modules[name]

    def _path(self, name: str) -> Path | None:
        path = self.root.joinpath(*name.split("."))
        candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
        return next((candidate for candidate in candidates if candidate.is_file()), None)

    def names(self) -> list[str]:
        """The names of all modules."""
        paths = sorted((self.root / _PACKAGE).rglob("*.py"))
        parts = [path.relative_to(self.root).with_suffix("").parts for path in paths]
        return [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]

    def files_named(self, statement: _Statement) -> set[Path]:
        """The files beside its module that a statement names."""
        folder, stem = statement.module.path.parent, statement.module.path.stem
        if folder not in self._folders:
            names = {path.name for path in folder.iterdir() if path.is_file()}
            self._folders[folder] = {name for name in names if not name.endswith((".py", ".pyc"))}
        beside = self._folders[folder]
        found = set()
        for text in statement.code.strings:
            if text in beside:
                found.add(folder / text)
            elif text.startswith(".") and stem + text in beside:  # Path(__file__).with_suffix(".html")
                found.add(folder / (stem + text))
            elif "/" in text and "\0" not in text and len(text) < 200 and ".." not in text:
                path = folder / text
                if path.parent != folder and folder in path.parents and path.is_file():
                    found.add(path)
        return found or ({folder / name for name in beside} if statement.code.uses_folder else set())

    def content(self, path: Path) -> str:
        """Digest of a file: of what it says where it is JSON, else of its bytes."""
        if path not in self._contents:
            self._contents[path] = file_digest(path)
            if path.suffix == ".json":
                with contextlib.suppress(ValueError, RecursionError):  # no JSON
                    self._contents[path] = fingerprint(json.loads(path.read_bytes()))
        return self._contents[path]

    def meant(self, module: _Module, name: str, attributes: tuple[str, ...] = ()) -> Iterator[_Statement]:
        """The statements that define what a name in a module stands for, through imports."""
        for statement in module.bound.get(name, ()):
            targets = statement.targets.get(name)
            if not targets:
                yield statement
            for target in targets or ():
                yield from self.at(target, attributes)

    def at(self, target: _Target, attributes: tuple[str, ...]) -> Iterator[_Statement]:
        """The same for what an import gives."""
        path = [*str(target).split("."), *attributes]
        if path[0] != _PACKAGE or any(
            ".".join(path[:n]) in _NOT_PART_OF_RESULTS for n in range(len(path) + 1)
        ):
            return
        for length in range(len(path) - 1, 0, -1):  # the longest part that is a module
            module = self.module(".".join(path[:length]))
            if module is not None:
                yield from self.meant(module, path[length], tuple(path[length + 1 :]))
                return

    def registers(self, statement: _Statement) -> bool:
        """Whether a definition may leave something elsewhere while it is made."""
        if statement not in self._registering:
            self._registering[statement] = self._registers(statement)
        return self._registering[statement]

    def _registers(self, statement: _Statement) -> bool:
        if statement.is_import or isinstance(statement.node, _SCOPES):
            return False
        parts = _walk_outside_functions(statement.node)
        calls = [part.func for part in parts if isinstance(part, ast.Call)]
        seen: set[_Statement] = set()
        return self._notes_subclasses(statement.module, parts, seen) or any(
            self._mutates(found, seen) for call in calls for found in self._meant(statement.module, call)
        )

    def _meant(self, module: _Module, node: ast.expr) -> Iterator[_Statement]:
        name, *attributes = ast.unparse(node).split(".")
        yield from self.meant(module, name, tuple(attributes))

    def _notes_subclasses(self, module: _Module, parts: Iterable[ast.AST], seen: set[_Statement]) -> bool:
        """Whether a class among ``parts`` has a base or metaclass of ours that is told of it."""
        classes = [part for part in parts if isinstance(part, ast.ClassDef)]
        bases = [base for one in classes for base in one.bases]
        bases += [w.value for one in classes for w in one.keywords if w.arg == "metaclass"]
        for found in (found for base in bases for found in self._meant(module, base)):
            if found not in seen:
                seen.add(found)
                inside = _walk_outside_functions(found.node)
                methods = {part.name for part in inside if isinstance(part, ast.FunctionDef)}
                is_metaclass = any(isinstance(part, ast.Name) and part.id == "type" for part in inside)
                if methods & _REGISTERS or is_metaclass:
                    return True
                if self._notes_subclasses(found.module, inside, seen):
                    return True
        return False

    def _mutates(self, statement: _Statement, seen: set[_Statement]) -> bool:
        """Whether calling something may change what lies at the top level of a module."""
        if statement in seen or statement.is_import:
            return False
        seen.add(statement)
        if statement.code.mutates:
            return True
        for reference in statement.code.references:
            if not reference.annotation and isinstance(reference.base, str):
                meant = self.meant(statement.module, reference.base, reference.attributes)
            elif isinstance(reference.base, _Target):
                meant = self.at(reference.base, reference.attributes)
            else:
                continue
            if any(isinstance(f.node, (*_SCOPES, ast.ClassDef)) and self._mutates(f, seen) for f in meant):
                return True
        return False


class _Reach:
    """All that a step's ``main`` reaches."""

    def __init__(self, sources: _Sources, step: str) -> None:
        self._sources = sources
        self._imported: dict[str, _Module] = {}
        self._whole: dict[str, _Module] = {}
        self._seen: set[tuple[str, _Reference]] = set()
        self._taken: set[_Statement] = set()
        self._for_types: set[_Statement] = set()
        self._docstrings: set[str] = set()
        self._files: set[Path] = set()
        self._sees_all = self._sees_subclasses = False
        self._waiting: list[Callable[[], None]] = []
        module = self._import(step)
        if module is None:
            raise ModuleNotFoundError(f"no module named {step!r}", name=step)
        if "main" in module.bound:
            self._follow(module, _Reference("main"))
            for statement in module.as_main:
                self._take(statement)
        else:
            self._take_whole(module)
        self._finish()

    def _finish(self) -> None:
        while self._waiting:
            while self._waiting:
                self._waiting.pop()()
            if self._sees_all:
                for name in self._sources.names():
                    self._follow_target(_Target(name), _Reference(""))
            if self._sees_subclasses:
                for module in list(self._imported.values()):
                    self._take_whole(module)

    @functools.cached_property
    def texts(self) -> dict[str, list[str]]:
        """What is reached, as it is compared, by name."""
        texts: dict[str, list[str]] = {}
        for name, module in self._imported.items():
            for statement in (*module.statements, *module.as_main):
                if statement in self._taken:
                    for bound in statement.bound or ("",):
                        texts.setdefault(f"{name}.{bound}", []).append(statement.text)
            if name in self._whole:
                texts[f"{name}.*"] = list(module.bound)
            if name in self._docstrings:
                texts[f"{name}.__doc__"] = [module.docstring or ""]
        for path in self._files:
            texts[path.relative_to(self._sources.root).as_posix()] = [self._sources.content(path)]
        return texts

    @property
    def definitions(self) -> Iterator[str]:
        """The names of what is reached, imports excepted."""
        for statement in self._taken:
            if not statement.is_import:
                yield from (f"{statement.module.name}.{name}" for name in statement.bound)

    @property
    def files(self) -> Iterator[str]:
        """The files that are read for this, relative to the project."""
        for path in (*(module.path for module in self._imported.values()), *self._files):
            yield path.relative_to(self._sources.root).as_posix()

    # Modules

    def _import(self, name: str) -> _Module | None:
        """A module of the project that is imported here, the packages that it lies in first."""
        if name in self._imported:
            return self._imported[name]
        above, _, _ = name.rpartition(".")
        if name.partition(".")[0] != _PACKAGE:
            return None
        if above:
            self._import(above)
        if name in _NOT_PART_OF_RESULTS:
            return None
        module = self._sources.module(name)
        if module is not None:
            self._imported[name] = module
            self._waiting.append(lambda: self._run(module))
        return module

    def _run(self, module: _Module) -> None:
        """What happens when a module is imported."""
        for statement in module.statements:
            if statement.typing_only:
                continue
            for name in statement.imported:
                self._import(name)
            if statement.acts or self._sources.registers(statement):
                self._take(statement)
        if module.decorators - _HARMLESS - _OF_PYDANTIC:
            self._take_whole(module)

    def _take_whole(self, module: _Module) -> None:
        if module.name in self._whole:
            return
        self._whole[module.name] = module
        for statement in (*module.statements, *module.as_main):
            if statement.typing_only:
                continue
            self._take(statement)
            for target in (target for targets in statement.targets.values() for target in targets):
                # What a module only uses itself is followed there; a package passes on what it imports.
                if module.is_package or any(self._sources.at(target, ())):
                    self._follow_target(target, _Reference(target))

    # Definitions

    def _take(self, statement: _Statement) -> None:
        """Make a statement part of the digest."""
        if statement in self._taken:
            return
        self._taken.add(statement)
        self._waiting.append(lambda: self._read(statement))

    def _read(self, statement: _Statement) -> None:
        code = statement.code
        for reference in code.references:
            self._follow(statement.module, reference)
        for text in code.strings:
            if text.startswith(f"{_PACKAGE}.") and all(part.isidentifier() for part in text.split(".")):
                self._follow_target(_Target(text), _Reference(""))  # python -m, import_module
        self._files |= self._sources.files_named(statement)
        self._sees_all |= code.sees_all
        self._sees_subclasses |= code.sees_subclasses
        if code.sees_module:
            self._take_whole(statement.module)

    def _follow(self, module: _Module, reference: _Reference) -> None:
        """Reach what a reference in a module stands for."""
        if (module.name, reference) in self._seen:
            return
        self._seen.add((module.name, reference))
        name = reference.base
        if isinstance(name, _Target):
            self._follow_target(name, reference)
        elif f"{module.name}.{name}" in _NOT_PART_OF_RESULTS:
            return
        elif name in module.bound:
            for statement in module.bound[name]:
                self._use(statement, name, reference)
        elif name == "__doc__":
            self._docstrings.add(module.name)
        elif name not in _OF_MODULES and not hasattr(builtins, name) and not reference.annotation:
            self._take_whole(module)  # whatever binds it

    def _use(self, statement: _Statement, name: str, reference: _Reference) -> None:
        targets = statement.targets.get(name, ())
        for target in targets:
            self._follow_target(target, reference)
        if not reference.annotation or isinstance(statement.node, (*_SCOPES, ast.ClassDef)):
            self._take(statement)
        elif not targets and statement not in self._for_types:  # the name of a type: only what it is made of
            self._for_types.add(statement)
            for inner in statement.code.references:
                self._follow(statement.module, inner._replace(annotation=True))

    def _follow_target(self, target: _Target, reference: _Reference) -> None:
        """Reach what an import of ``target`` gives, or its attributes where a reference has some."""
        module = self._import(target.module)
        if module is None:
            return
        names = [*([target.name] if target.name else []), *reference.attributes]
        while names:
            name, *names = names
            if f"{module.name}.{name}" in _NOT_PART_OF_RESULTS:
                return
            if name in module.bound:
                if reference.read:
                    self._follow(module, reference._replace(base=name, attributes=tuple(names)))
                return
            inner = self._import(f"{module.name}.{name}")
            if inner is None:
                if name == "__doc__":
                    self._docstrings.add(module.name)
                elif name not in _OF_MODULES:
                    self._take_whole(module)
                return
            module = inner
        if reference.read:
            self._take_whole(module)
