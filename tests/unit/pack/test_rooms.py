"""The rooms of the house: who may know whom (README, "How it is built"), files that fit in a head, no crowded room."""

import ast
import functools
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# A room may import from those before it, unless it is named in STRANGERS; the door is the pack's own `__init__.py`.
ROOMS = (
    "text",
    "output",
    "families",
    "quickfix.solver",
    "quickfix.concepts",
    "quickfix.encoder",
    "quickfix.measure",
    "quickfix.files",
    "quickfix",
    "tracing.results",
    "tracing.scores",
    "tracing.runs",
    "tracing",
    "pipelines",
    "demo_model.worlds",
    "demo_model",
    "sweeps",
    "reproduce",
    "cli",
    "nodes.host",
    "nodes.host.tracing",
    "nodes",
    "demo_model.training",
    "demo_model.studies",
    "benchmarks",
)
STRANGERS = {
    "quickfix": {"tracing"},
    "tracing": {"quickfix"},
    "sweeps": {"quickfix"},
    "cli": {"pipelines", "demo_model"},
    "nodes": {"cli", "pipelines", "sweeps", "reproduce"},
    "families": {"text", "output"},
    "output": {"text"},
}
LOADER = "pipelines.tracing.loading"
LONGEST_FILE, LARGEST_ROOM = 400, 14
HEAVY = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "nodes", "execution", "latent_preview"}


def modules() -> dict[str, Path]:
    """The pack's modules by their dotted names, the door as ""."""
    found = {}
    for path in [
        *ROOT.glob("*.py"),
        *(p for room in {r.split(".")[0] for r in ROOMS} for p in (ROOT / room).rglob("*.py")),
    ]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix("__init__").removesuffix(".")] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len, default="")


@functools.cache
def imports_of(module: str) -> set[str]:
    """What of the pack a module imports, anywhere in it: lazily and for types too."""
    path, found = MODULES[module], set()
    package = [part for part in module.split(".") if part]
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                found.add(inner if inner in MODULES else ".".join(base))
    return found


@functools.cache
def outside_of(module: str) -> set[str]:
    """The top names of the other packages that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down_only(room):
    for module in (name for name in MODULES if room_of(name) == room):
        for other in imports_of(module) - {"", module}:
            assert ROOMS.index(room_of(other)) <= ROOMS.index(room), f"{module} imports {other}, which stands above it"
            known = other.split(".")[0] not in STRANGERS.get(room.split(".")[0], ())
            assert known, f"{module} imports {other}, which it is not to know"


def test_no_module_leads_back_to_itself():
    graph = {module: imports_of(module) - {module, ""} for module in MODULES if module}
    # A room's door hands out what lies in it: it stands above its modules.
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"imports in a circle: {' -> '.join(error.args[1])}") from None


@pytest.mark.parametrize("room", [room for room in ROOMS if room.split(".")[0] not in ("nodes",)])
def test_only_the_node_layer_knows_comfyui(room):
    for module in MODULES:
        if room_of(module) == room:
            assert not outside_of(module) & HEAVY, module


def test_only_a_pipelines_own_program_knows_diffusers():
    """A pipeline is an object that somebody else made; nothing but the demo model, benchmarks and what loads a
    pipeline's folder imports diffusers, the last only when it is called."""
    for module in MODULES:
        if room_of(module).split(".")[0] not in ("demo_model", "benchmarks") and module != LOADER:
            assert "diffusers" not in outside_of(module), module
    tree = ast.parse(MODULES[LOADER].read_text(encoding="utf-8"))
    assert "diffusers" in outside_of(LOADER)
    assert not any(
        isinstance(node, ast.Import | ast.ImportFrom) and "diffusers" in ast.dump(node) for node in tree.body
    )


def test_the_doorstep_is_empty():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_every_file_fits_in_a_head():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LONGEST_FILE} == {}


def test_no_room_is_crowded():
    counts: dict[Path, int] = {}
    for path in MODULES.values():
        counts[path.parent] = counts.get(path.parent, 0) + (path.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > LARGEST_ROOM} == {}
