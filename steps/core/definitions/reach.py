"""Following what ``main`` refers to, from definition to definition, through the modules of ``steps``."""

from __future__ import annotations

import ast
import builtins
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from steps.core.definitions.modules import Module, Statement
from steps.core.definitions.names import HARMLESS, SCOPES, Reference, Target, walk_outside_functions

PACKAGE = "steps"
_NOT_PART_OF_RESULTS = {
    "steps.core.definitions.reach",
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

_OF_PYDANTIC = {
    *("pydantic.field_validator", "pydantic.model_validator", "pydantic.validate_call"),
    *("pydantic.computed_field", "pydantic.field_serializer", "pydantic.model_serializer"),
    *("pydantic.dataclasses.dataclass", "pydantic.with_config"),
}
"""Decorators that register nothing outside the class, and may look at annotations."""

_REGISTERS = {"__init_subclass__", "__pydantic_init_subclass__"}
_OF_MODULES = {"__builtins__", "__file__", "__name__", "__package__", "__path__", "__spec__"}


class Sources:
    """The modules of a project and the files beside them, each read once."""

    def __init__(self, root: Path, content: Callable[[Path], str]) -> None:
        """``content`` gives the digest of a file beside a module."""
        self.root = root
        self._content = content
        self._modules: dict[str, Module | None] = {}
        self._folders: dict[Path, set[str]] = {}
        self._contents: dict[Path, str] = {}
        self._registering: dict[Statement, bool] = {}

    def module(self, name: str) -> Module | None:
        """A module by its name; None where there is none."""
        if name not in self._modules:
            path = self._path(name)
            self._modules[name] = Module(name, path) if path else None
        return self._modules[name]

    def _path(self, name: str) -> Path | None:
        path = self.root.joinpath(*name.split("."))
        candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
        return next((candidate for candidate in candidates if candidate.is_file()), None)

    def names(self) -> list[str]:
        """The names of all modules."""
        return [self.name_of(path) for path in sorted((self.root / PACKAGE).rglob("*.py"))]

    def name_of(self, path: Path) -> str:
        """The name of the module in a file."""
        parts = path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def files_named(self, statement: Statement) -> set[Path]:
        """The files beside its module that a statement names."""
        folder, stem = statement.module.path.parent, statement.module.path.stem
        if folder not in self._folders:
            names = {path.name for path in folder.iterdir() if path.is_file()}
            self._folders[folder] = {name for name in names if not name.endswith(".pyc")}
        beside = self._folders[folder]
        found = set()
        for text in statement.code.strings:
            if text in beside:
                found.add(folder / text)
            elif text.startswith(".") and text != ".py" and stem + text in beside:  # with_suffix(".html")
                found.add(folder / (stem + text))
            elif "/" in text and "\0" not in text and len(text) < 200 and ".." not in text:
                path = folder / text
                if path.parent != folder and folder in path.parents and path.is_file():
                    found.add(path)
        if found or not statement.code.uses_folder:
            return found
        return {folder / name for name in beside if not name.endswith(".py")}

    def content(self, path: Path) -> str:
        """The digest of a file."""
        if path not in self._contents:
            self._contents[path] = self._content(path)
        return self._contents[path]

    def meant(self, module: Module, name: str, attributes: tuple[str, ...] = ()) -> Iterator[Statement]:
        """The statements that define what a name in a module stands for, through imports."""
        for statement in module.bound.get(name, ()):
            targets = statement.targets.get(name)
            if not targets:
                yield statement
            for target in targets or ():
                yield from self.at(target, attributes)

    def at(self, target: Target, attributes: tuple[str, ...]) -> Iterator[Statement]:
        """The same for what an import gives."""
        path = [*str(target).split("."), *attributes]
        if path[0] != PACKAGE or any(
            ".".join(path[:n]) in _NOT_PART_OF_RESULTS for n in range(len(path) + 1)
        ):
            return
        for length in range(len(path) - 1, 0, -1):  # the longest part that is a module
            module = self.module(".".join(path[:length]))
            if module is not None:
                yield from self.meant(module, path[length], tuple(path[length + 1 :]))
                return

    def registers(self, statement: Statement) -> bool:
        """Whether a definition may leave something elsewhere while it is made."""
        if statement not in self._registering:
            self._registering[statement] = self._registers(statement)
        return self._registering[statement]

    def _registers(self, statement: Statement) -> bool:
        if statement.is_import or isinstance(statement.node, SCOPES):
            return False
        parts = walk_outside_functions(statement.node)
        calls = [part.func for part in parts if isinstance(part, ast.Call)]
        seen: set[Statement] = set()
        return self._notes_subclasses(statement.module, parts, seen) or any(
            self._mutates(found, seen) for call in calls for found in self._meant(statement.module, call)
        )

    def _meant(self, module: Module, node: ast.expr) -> Iterator[Statement]:
        name, *attributes = ast.unparse(node).split(".")
        yield from self.meant(module, name, tuple(attributes))

    def _notes_subclasses(self, module: Module, parts: Iterable[ast.AST], seen: set[Statement]) -> bool:
        """Whether a class among ``parts`` has a base or metaclass of ours that is told of it."""
        classes = [part for part in parts if isinstance(part, ast.ClassDef)]
        bases = [base for one in classes for base in one.bases]
        bases += [w.value for one in classes for w in one.keywords if w.arg == "metaclass"]
        for found in (found for base in bases for found in self._meant(module, base)):
            if found not in seen:
                seen.add(found)
                inside = walk_outside_functions(found.node)
                methods = {part.name for part in inside if isinstance(part, ast.FunctionDef)}
                is_metaclass = any(isinstance(part, ast.Name) and part.id == "type" for part in inside)
                if methods & _REGISTERS or is_metaclass:
                    return True
                if self._notes_subclasses(found.module, inside, seen):
                    return True
        return False

    def _mutates(self, statement: Statement, seen: set[Statement]) -> bool:
        """Whether calling something may change what lies at the top level of a module."""
        if statement in seen or statement.is_import:
            return False
        seen.add(statement)
        if statement.code.mutates:
            return True
        for reference in statement.code.references:
            if not reference.annotation and isinstance(reference.base, str):
                meant = self.meant(statement.module, reference.base, reference.attributes)
            elif isinstance(reference.base, Target):
                meant = self.at(reference.base, reference.attributes)
            else:
                continue
            if any(isinstance(f.node, (*SCOPES, ast.ClassDef)) and self._mutates(f, seen) for f in meant):
                return True
        return False


class Reach:
    """All that a step's ``main`` reaches."""

    def __init__(self, sources: Sources, step: str) -> None:
        self._sources = sources
        self._imported: dict[str, Module] = {}
        self._whole: dict[str, Module] = {}
        self._seen: set[tuple[str, Reference]] = set()
        self._taken: set[Statement] = set()
        self._for_types: set[Statement] = set()
        self._docstrings: set[str] = set()
        self._files: set[Path] = set()
        self._sees_all = self._sees_subclasses = False
        self._waiting: list[Callable[[], None]] = []
        module = self._import(step)
        if module is None:
            raise ModuleNotFoundError(f"no module named {step!r}", name=step)
        if "main" in module.bound:
            self._follow(module, Reference("main"))
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
                    self._follow_target(Target(name), Reference(""))
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

    def _import(self, name: str) -> Module | None:
        """A module of the project that is imported here, the packages that it lies in first."""
        if name in self._imported:
            return self._imported[name]
        above, _, _ = name.rpartition(".")
        if name.partition(".")[0] != PACKAGE:
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

    def _run(self, module: Module) -> None:
        """What happens when a module is imported."""
        for statement in module.statements:
            if statement.typing_only:
                continue
            for name in statement.imported:
                self._import(name)
            if statement.acts or self._sources.registers(statement):
                self._take(statement)
        if module.decorators - HARMLESS - _OF_PYDANTIC:
            self._take_whole(module)

    def _take_whole(self, module: Module) -> None:
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
                    self._follow_target(target, Reference(target))

    # Definitions

    def _take(self, statement: Statement) -> None:
        """Make a statement part of the digest."""
        if statement in self._taken:
            return
        self._taken.add(statement)
        self._waiting.append(lambda: self._read(statement))

    def _read(self, statement: Statement) -> None:
        code = statement.code
        for reference in code.references:
            self._follow(statement.module, reference)
        for text in code.strings:
            if text.startswith(f"{PACKAGE}.") and all(part.isidentifier() for part in text.split(".")):
                self._follow_target(Target(text), Reference(""))  # python -m, import_module
        for path in self._sources.files_named(statement):
            if path.suffix == ".py":  # it is started by its path
                self._follow_target(Target(self._sources.name_of(path)), Reference(""))
            else:
                self._files.add(path)
        self._sees_all |= code.sees_all
        self._sees_subclasses |= code.sees_subclasses
        if code.sees_module:
            self._take_whole(statement.module)

    def _follow(self, module: Module, reference: Reference) -> None:
        """Reach what a reference in a module stands for."""
        if (module.name, reference) in self._seen:
            return
        self._seen.add((module.name, reference))
        name = reference.base
        if isinstance(name, Target):
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

    def _use(self, statement: Statement, name: str, reference: Reference) -> None:
        targets = statement.targets.get(name, ())
        for target in targets:
            self._follow_target(target, reference)
        if not reference.annotation or isinstance(statement.node, (*SCOPES, ast.ClassDef)):
            self._take(statement)
        elif not targets and statement not in self._for_types:  # the name of a type: only what it is made of
            self._for_types.add(statement)
            for inner in statement.code.references:
                self._follow(statement.module, inner._replace(annotation=True))

    def _follow_target(self, target: Target, reference: Reference) -> None:
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
                elif name == "__file__" or name not in _OF_MODULES:  # its file is read, or started
                    self._take_whole(module)
                return
            module = inner
        if reference.read:
            self._take_whole(module)
