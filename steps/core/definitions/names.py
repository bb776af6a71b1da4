"""What a top-level statement refers to, and its text without what decides no result."""

from __future__ import annotations

import ast
import contextlib
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

if typing.TYPE_CHECKING:
    from steps.core.definitions.modules import Module

HARMLESS = {
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


class Target(typing.NamedTuple):
    """What an import binds a name to: a module, or a name in one."""

    module: str
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


class Reference(typing.NamedTuple):
    """A use of something that a module's top level or an import gives."""

    base: str | Target
    attributes: tuple[str, ...] = ()
    read: bool = True
    """Not the case where it is only imported."""
    annotation: bool = False


SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


_NO_NODES = {"ctx", "kind", "level", "op", "ops", "simple", "type_comment", "type_ignores"}
_FIELDS = {
    kind: tuple(field for field in kind._fields if field not in _NO_NODES)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
_FIELDS |= {ast.Constant: (), ast.Name: ()}
"""The fields of a kind of node in which code stands (operators name nothing and cost time)."""


def children(node: ast.AST) -> list[ast.AST]:
    """The nodes right below a node, but for operators and contexts."""
    found: list[ast.AST] = []
    for field in _FIELDS[type(node)]:
        value = getattr(node, field, None)
        if isinstance(value, list):
            found += [part for part in value if isinstance(part, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


def walk(node: ast.AST) -> list[ast.AST]:
    """A node and all that lies below it."""
    found = [node]
    for part in found:
        found += children(part)
    return found


def walk_outside_functions(node: ast.AST) -> list[ast.AST]:
    """A node and what lies below it, but for the bodies of functions."""
    found = [node]
    for part in found:
        found += _of_definition(part) if isinstance(part, SCOPES) else children(part)
    return found


def _of_definition(node: ast.AST) -> list[ast.AST]:
    """The parts of a definition that belong to the scope in which it stands, but for annotations."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    if isinstance(node, ast.ClassDef):
        return [*decorators, *node.bases, *(word.value for word in node.keywords)]
    assert isinstance(node, SCOPES)
    return [*decorators, *node.args.defaults, *filter(None, node.args.kw_defaults)]


def bound_names(nodes: Iterable[ast.AST]) -> dict[str, str]:
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

    if isinstance(node, (*SCOPES, ast.ClassDef)):
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
    inside = inside or isinstance(node, COMPREHENSIONS)
    for part in children(node):
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


class Stripped(_Transformer):
    """Takes away what decides nothing: docstrings, texts of errors and logs, descriptions and bounds."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self._module = module
        self._functions: list[ast.AST] = []

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, SCOPES):
            self._functions.append(node)
        kept = super().visit(node)
        if isinstance(node, SCOPES):
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
        return is_get_logger(node)

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
    assert isinstance(node, SCOPES)
    found = {argument.arg: {False} for argument in _arguments(node.args)}
    body = node.body if isinstance(node.body, list) else [node.body]
    for name, kind in bound_names(body).items():
        if kind not in ("global", "nonlocal"):
            found[name] = {False}
    for part in walk(node):
        match part:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if is_get_logger(value):
                others = [p for p in walk(node) if isinstance(p, ast.Name) and p.id == name]
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
        self.targets: dict[str, list[Target]] = {}
        self.renamed: dict[str, str] = {}


class Names(_Transformer):
    """Notes what a statement refers to, numbers its local variables and drops its annotations."""

    def __init__(self, module: Module, node: ast.stmt) -> None:
        super().__init__()
        self._module = module
        self._scopes: list[_Scope] = []
        self._annotation = 0
        self._count = 0
        self._is_main = isinstance(node, SCOPES[:2]) and node.name == "main"
        used = {getattr(part, "id", getattr(part, "attr", None)) for part in walk(node)}
        self._renames = _NAMELESS.isdisjoint(used)
        self.references: dict[Reference, None] = {}
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

    def _refer(self, base: str | Target, attributes: tuple[str, ...] = (), read: bool = True) -> None:
        self.references[Reference(base, attributes, read, bool(self._annotation))] = None

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
            keep = known - HARMLESS or (self._is_main and not self._scopes)
            self._annotations(node, bool(keep))
            for parameter in getattr(node, "type_params", ()):
                self.generic_visit(parameter)
        node.args.defaults = [self.visit(part) for part in node.args.defaults]
        node.args.kw_defaults = [part and self.visit(part) for part in node.args.kw_defaults]
        body = node.body if isinstance(node.body, list) else [node.body]
        kinds = bound_names(body)
        mine = [argument.arg for argument in _arguments(node.args)]
        mine += [parameter.name for parameter in getattr(node, "type_params", ())]
        kinds |= dict.fromkeys(mine, "parameter")
        self._open(kinds)
        if "import" in kinds.values():
            self._note_imports(body)
        if isinstance(node.body, list):
            self.mutates |= any(isinstance(part, ast.Global) for part in walk(node))
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
            for part in children(annotation):
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
        for part in (part for statement in body for part in walk_outside_functions(statement)):
            if isinstance(part, ast.Import | ast.ImportFrom):
                for name, target in self._module.imports(part):
                    if name and target not in self._scopes[-1].targets.setdefault(name, []):
                        self._scopes[-1].targets[name].append(target)

    def _visit_classdef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = [self.visit(part) for part in node.decorator_list]
        node.bases = [self.visit(part) for part in node.bases]
        node.keywords = [self.visit(part) for part in node.keywords]
        kinds = bound_names(node.body) | {p.name: "parameter" for p in getattr(node, "type_params", ())}
        self._open(kinds, is_class=True)
        self._note_imports(node.body)
        node.body = self._body(node.body)
        self._scopes.pop()
        return node

    def _comprehension(self, node: Any) -> ast.AST:
        first = node.generators[0]
        first.iter = self.visit(first.iter)
        self._open(bound_names([generator.target for generator in node.generators]))
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


def is_get_logger(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("getLogger", "logging.getLogger")
