"""A source file as its top-level statements: what each binds, imports and does."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

from steps.core.definitions.names import (
    COMPREHENSIONS,
    SCOPES,
    Names,
    Stripped,
    Target,
    bound_names,
    children,
    is_get_logger,
    walk,
    walk_outside_functions,
)


@dataclasses.dataclass(eq=False)
class Statement:
    """A statement at the top level of a module."""

    module: Module
    node: ast.stmt
    typing_only: bool = False
    """Under ``if TYPE_CHECKING``: nothing that runs on import."""
    targets: dict[str, list[Target]] = dataclasses.field(default_factory=dict)
    """What the names that it imports are bound to."""
    imported: list[str] = dataclasses.field(default_factory=list)
    """The modules that it imports."""

    @property
    def is_import(self) -> bool:
        return isinstance(self.node, ast.Import | ast.ImportFrom)

    @functools.cached_property
    def bound(self) -> dict[str, str]:
        """The names that it binds."""
        return bound_names([self.node])

    @functools.cached_property
    def code(self) -> Names:
        """Its references; its node becomes what the digest compares."""
        stripped = Stripped(self.module).visit(self.node) or ast.Pass()
        names = Names(self.module, stripped)
        self.node = names.visit(stripped) or ast.Pass()
        return names

    @functools.cached_property
    def text(self) -> str:
        assert self.code
        return ast.unparse(self.node)

    @functools.cached_property
    def acts(self) -> bool:
        """Whether it does more, when it runs, than bind names."""
        if not self.is_import and not isinstance(self.node, SCOPES):
            assert self.code  # without calls of loggers
        return not self.typing_only and _acts(self.node, self.module)


class Module:
    """A source file by its top-level statements."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.is_package = path.name == "__init__.py"
        self.package = name if self.is_package else name.rpartition(".")[0]
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        self.docstring = ast.get_docstring(tree, clean=False)
        self.statements: list[Statement] = []
        self.as_main: list[Statement] = []
        """What runs only where the module is the program."""
        self._split(tree.body, typing_only=False)
        self.bound: dict[str, list[Statement]] = {}
        self.defined = frozenset(name for statement in self.statements for name in statement.bound)
        for statement in self.statements:
            for name in statement.bound:
                self.bound.setdefault(name, []).append(statement)
        for statement in self.statements if "global " in source else ():  # names that only a function binds
            for node in walk(statement.node):
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

    def _statement(self, node: ast.stmt, typing_only: bool) -> Statement:
        statement = Statement(self, node, typing_only)
        for part in walk_outside_functions(node):
            if isinstance(part, ast.Import | ast.ImportFrom):
                for name, target in self.imports(part):
                    statement.imported.append(target.module)
                    if name:
                        statement.targets.setdefault(name, []).append(target)
                    if target.name:
                        statement.imported.append(str(target))
        return statement

    def imports(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str | None, Target]]:
        """The names that an import binds (none: only imported), and to what."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield alias.asname, Target(alias.name)
                else:
                    yield None, Target(alias.name)
                    top = alias.name.partition(".")[0]
                    yield top, Target(top)
            return
        module = node.module or ""
        if node.level:
            above = self.package.split(".")[: -(node.level - 1) or None]
            module = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            name = alias.asname or alias.name
            yield (None, Target(module)) if name == "*" else (name, Target(module, alias.name))

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
        parts = [p for s in self.statements if not s.typing_only for p in walk_outside_functions(s.node)]
        return {self.decorator(one) for part in parts for one in getattr(part, "decorator_list", ())}

    def decorator(self, node: ast.expr) -> str | None:
        """The full name of a decorator, None for one that is not known."""
        called = node.func if isinstance(node, ast.Call) else node
        match called:
            case ast.Attribute(value=ast.Name(id=name), attr="deleter" | "getter" | "setter"):
                if name not in self.bound:
                    return "builtins.property"
        return self.dotted(called)


def _makes_logger(statement: Statement) -> bool:
    node = statement.node
    return isinstance(node, ast.Assign) and is_get_logger(node.value)


def _acts(node: ast.AST, module: Module) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Pass():
            return False
        case ast.Expr():
            return not isinstance(node.value, ast.Constant)
        case ast.Assign() | ast.AnnAssign():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = [part for target in targets for part in walk(target)]
            return any(isinstance(part, ast.Attribute | ast.Subscript) for part in stored)
        case ast.AugAssign(target=ast.Name(id=name)):  # in place, on an object that may be another's
            return not all(map(_is_fresh, module.bound.get(name, ())))
        case ast.ClassDef() | ast.If() | ast.Try() | ast.For() | ast.ExceptHandler():
            return any(_acts(part, module) for part in children(node) if _is_statement(part))
    return True


def _is_statement(node: ast.AST) -> bool:
    return isinstance(node, ast.stmt | ast.ExceptHandler)


def _is_fresh(statement: Statement) -> bool:
    """Whether a statement binds its name to a value that nobody else holds."""
    node = statement.node
    if isinstance(node, ast.AugAssign):
        return True
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    displays = (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Constant, ast.JoinedStr, ast.BinOp)
    return isinstance(value, (*displays, *COMPREHENSIONS))
