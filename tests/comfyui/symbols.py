"""Which names of ComfyUI a package uses, read from its source text.

A use is a path that starts at one of ComfyUI's modules: an import, a chain of attributes, and what a call or an
annotation makes of it. ``clip.patcher``, with ``clip: comfy.sd.CLIP``, is the path ``comfy.sd.CLIP().patcher``. Names
that the package's modules hand on to each other keep their path. What would hide a use from this reading (a module kept
as a value, an attribute named at run time, a star import, a module that nobody imported) is a problem that is told.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# A step of a path that is no attribute: an instance of the class, or the result of the function.
CALL = "()"
LOOKED_UP = ("sys.modules.get", "importlib.import_module", "__import__")
PROBES = {"getattr", "hasattr"}
# What ComfyUI itself needs, or the pack asks for.
LIBRARIES = {"aiohttp", "matplotlib", "numpy", "PIL", "safetensors", "tokenizers", "torch", "transformers"}

Path_ = tuple[str, ...]


def written(path: Path_) -> str:
    return "".join(step if step == CALL else f".{step}" for step in path).removeprefix(".")


@dataclass(frozen=True)
class Use:
    """A path, where it stands, and the call that is made of it, if any."""

    path: Path_
    place: str
    call: ast.Call | None = None

    def __str__(self) -> str:
        return f"{self.place}: {written(self.path)}"


@dataclass(frozen=True)
class Found:
    uses: tuple[Use, ...]
    problems: tuple[str, ...]


class Package:
    """The modules of a package and the names that each binds.

    Args:
        root: the package's folder.
        comfyui: ComfyUI's folder; what lies there can be imported.
    """

    def __init__(self, root: Path, comfyui: Path) -> None:
        self.root, self.comfyui = root, comfyui
        self._trees: dict[Path, ast.Module] = {}
        self._names: dict[Path, dict[str, Path_]] = {}

    def is_module(self, path: Sequence[str]) -> bool:
        """Whether ComfyUI has this module or folder of modules."""
        place = self.comfyui.joinpath(*path)
        return bool(path) and (place.is_dir() or place.with_name(f"{place.name}.py").is_file())

    def tree(self, file: Path) -> ast.Module:
        if file not in self._trees:
            self._trees[file] = ast.parse(file.read_text(encoding="utf-8"), str(file))
        return self._trees[file]

    def file_of(self, base: Path, names: Sequence[str]) -> Path | None:
        """The file of a module of the package, from the folder that its name starts at."""
        place = base.joinpath(*names)
        return next((one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()), None)

    def exported(self, file: Path) -> dict[str, Path_]:
        """ComfyUI's names among those that a module binds at its top."""
        if file not in self._names:
            self._names[file] = {}  # for modules that import each other
            for node in self.tree(file).body:
                self._names[file] |= self.imported(file, node)
        return self._names[file]

    def imported(self, file: Path, node: ast.stmt) -> dict[str, Path_]:
        """What an import statement binds of ComfyUI; nothing for other statements."""
        if isinstance(node, ast.Import):
            return {
                alias.asname or alias.name.split(".")[0]: tuple(
                    alias.name.split(".") if alias.asname else alias.name.split(".")[:1]
                )
                for alias in node.names
                if self.is_module(alias.name.split(".")[:1])
            }
        if not isinstance(node, ast.ImportFrom):
            return {}
        start = tuple((node.module or "").split(".")) if node.module else ()
        if not node.level:
            if not self.is_module(start[:1]):
                return {}
            return {alias.asname or alias.name: (*start, alias.name) for alias in node.names}
        base = file.parents[node.level - 1]
        source = self.file_of(base, start) if start else base / "__init__.py"
        known = self.exported(source) if source and source.is_file() and source != file else {}
        return {alias.asname or alias.name: known[alias.name] for alias in node.names if alias.name in known}

    def read(self, file: Path) -> Found:
        reader = _Reader(self, file)
        reader.visit(self.tree(file))
        return Found(tuple(reader.uses), tuple(reader.problems))


class _Reader(ast.NodeVisitor):
    """Collects the uses of one file. ``names`` is a stack of what names mean, innermost last; None hides."""

    def __init__(self, package: Package, file: Path) -> None:
        self.package, self.file = package, file
        self.uses: list[Use] = []
        self.problems: list[str] = []
        self.names: list[dict[str, Path_ | None]] = [dict(package.exported(file))]
        self.fields: list[dict[str, Path_]] = []
        self.imported = {
            tuple(alias.name.split(".")[:count])
            for node in ast.walk(package.tree(file))
            if isinstance(node, ast.Import)
            for alias in node.names
            for count in range(1, alias.name.count(".") + 2)
        }

    # -- what an expression is

    def path(self, node: ast.expr | None) -> Path_ | None:
        """The path of an expression, or None when it is not of ComfyUI."""
        if isinstance(node, ast.Name):
            return next((names[node.id] for names in reversed(self.names) if node.id in names), None)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self" and self.fields:
                return self.fields[-1].get(node.attr)
            start = self.path(node.value)
            return start and (*start, node.attr)
        if isinstance(node, ast.Call):
            return self._result(node)
        return None

    def _result(self, node: ast.Call) -> Path_ | None:
        called, first = dotted(node.func), node.args[0] if node.args else None
        text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
        if called in LOOKED_UP:
            return tuple(text.split(".")) if text and self.package.is_module(text.split(".")) else None
        if called == "getattr" and len(node.args) > 1:
            start, name = self.path(first), node.args[1]
            return (*start, str(name.value)) if start and isinstance(name, ast.Constant) else None
        start = self.path(node.func)
        return start and (*start, CALL)

    def annotated(self, node: ast.expr | None) -> Path_ | None:
        """The path of a value with this annotation: an instance of the class that it names, None left aside."""
        if isinstance(node, ast.BinOp):
            sides = [side for side in (node.left, node.right) if not isinstance(side, ast.Constant)]
            return self.annotated(sides[0]) if len(sides) == 1 else None
        start = self.path(node)
        return start and (*start, CALL)

    # -- scopes

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        fields = {}
        for one in ast.walk(node):
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and one in node.body:
                fields[one.target.id] = self.annotated(one.annotation)
            elif isinstance(one, ast.Assign) and isinstance(one.value, ast.Call):
                for target in one.targets:
                    if isinstance(target, ast.Attribute) and dotted(target.value) == "self":
                        fields[target.attr] = None if target.attr in fields else self.path(one.value)
        self.fields.append({name: path for name, path in fields.items() if path})
        self.generic_visit(node)
        self.fields.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        scope: dict[str, Path_ | None] = {one.arg: self.annotated(one.annotation) for one in arguments}
        scope |= {one.arg: None for one in (node.args.vararg, node.args.kwarg) if one}
        self.names.append(scope)
        for inner in _own_nodes(node):
            scope.update(self.package.imported(self.file, inner) if isinstance(inner, ast.stmt) else {})
        stored = [one for one in _own_nodes(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
        names = [one.id for one in stored]
        scope |= {name: None for name in names}
        for inner in _own_nodes(node):
            if isinstance(inner, ast.Assign) and len(inner.targets) == 1 and isinstance(inner.targets[0], ast.Name):
                name = inner.targets[0].id
                if names.count(name) == 1:
                    scope[name] = self.path(inner.value)
        self.generic_visit(node)
        self.names.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.names.append({one.arg: None for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)})
        self.generic_visit(node)
        self.names.pop()

    # -- uses

    def tell(self, node: ast.AST, text: str) -> None:
        self.problems.append(f"{self.file.relative_to(self.package.root)}:{node.lineno}: {text}")

    def use(self, path: Path_, node: ast.expr, call: ast.Call | None = None) -> None:
        place = f"{self.file.relative_to(self.package.root)}:{node.lineno}"
        self.uses.append(Use(path, place, call))
        depth = max(count for count in range(1, len(path) + 1) if self.package.is_module(path[:count]))
        if depth == len(path):
            self.tell(node, f"keeps the module {written(path)} as a value; name its attribute here")

    def visit_Name(self, node: ast.Name) -> None:
        path = self.path(node)
        if path and isinstance(node.ctx, ast.Load):
            self.use(path, node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = self.path(node)
        if path is None:
            self.generic_visit(node)
            return
        self.use(path, node)
        self._inner_calls(node)
        module = path[: max(count for count in range(1, len(path) + 1) if self.package.is_module(path[:count]))]
        root = _root(node)
        if isinstance(root, ast.Name) and self.path(root) == module[:1] and module not in self.imported:
            self.tell(node, f"uses {written(module)} without importing it")

    def visit_Call(self, node: ast.Call) -> None:
        called = dotted(node.func)
        if called in PROBES and node.args and (start := self.path(node.args[0])):
            if len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
                self.use((*start, str(node.args[1].value)), node)
            elif CALL not in start:  # the parts of an object go by the model's own names
                self.tell(node, f"names an attribute of {written(start)} at run time")
            self._inner_calls(node.args[0])
            for argument in node.args[2:]:
                self.visit(argument)
            return
        if called in LOOKED_UP:
            if not (node.args and isinstance(node.args[0], ast.Constant)):
                self.tell(node, "looks a module up by a name made at run time")
            elif path := self.path(node):
                self.use(path, node)
            return
        if path := self.path(node.func):
            self.use(path, node.func, node)
            self._inner_calls(node.func)
        else:
            self.visit(node.func)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def _inner_calls(self, node: ast.expr) -> None:
        """Visit the calls inside a chain of attributes."""
        while isinstance(node, ast.Attribute):
            node = node.value
        if isinstance(node, ast.Call) and not (dotted(node.func) in LOOKED_UP and self.path(node)):
            self.visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if dotted(node.value) == "sys.modules":
            self.tell(node, f"looks a module up; write {LOOKED_UP[0]}(name).attribute")
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._import(node, tuple(alias.name.split(".")))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            return
        start = tuple((node.module or "").split("."))
        for alias in node.names:
            if alias.name == "*" and self.package.is_module(start[:1]):
                self.tell(node, f"imports every name of {written(start)}")
            else:
                self._import(node, (*start, alias.name))

    def _import(self, node: ast.stmt, path: Path_) -> None:
        if self.package.is_module(path[:1]):
            self.uses.append(Use(path, f"{self.file.relative_to(self.package.root)}:{node.lineno}"))
        elif path[0] not in sys.stdlib_module_names and path[0] not in LIBRARIES:
            self.tell(node, f"imports {path[0]}, which is neither of ComfyUI nor a library that the pack may use")


def dotted(node: ast.AST) -> str:
    """A name or a chain of attributes of a name, as it is written; "" for all else."""
    if isinstance(node, ast.Name):
        return node.id
    start = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{start}.{node.attr}" if start else ""


def _root(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes inside a function, those of functions and classes in it left out."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _own_nodes(child)
