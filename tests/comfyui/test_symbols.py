"""Every name of ComfyUI that the pack uses is there in the ComfyUI under test, and every call fits what it calls."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import Protocol

import pytest
from symbols import CALL, Found, Package, Use, dotted, written

ROOT = Path(__file__).resolve().parents[2]
UNKNOWN = object()


class Missing(AttributeError):
    """ComfyUI lacks a name."""


class Instance:
    """An object of a class, which is known by its class alone."""

    def __init__(self, kind: type) -> None:
        self.kind = kind


@functools.cache
def assigned(kind: type) -> dict[str, bool]:
    """Attributes that a class's code assigns on its objects or on itself, and whether to the object itself."""
    found: dict[str, bool] = {}
    for one in kind.__mro__:
        if one is object or one.__module__.partition(".")[0] in ("torch", "builtins"):
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(one)))):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                value = isinstance(node.value, ast.Name) and node.value.id == "self"
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                        if isinstance(part, ast.Attribute) and dotted(part.value) in ("self", "cls", one.__name__):
                            found[part.attr] = value
                        elif isinstance(part, ast.Name) and isinstance(node, ast.AnnAssign):
                            found.setdefault(part.id, False)
    return found


def attribute(value: object, name: str) -> object:
    """An attribute of a module, a class, an object known by its class, or plain data."""
    if value is UNKNOWN:
        return UNKNOWN
    kind = value.kind if isinstance(value, Instance) else value
    if hasattr(kind, name):
        found = getattr(kind, name)
        return UNKNOWN if isinstance(found, property) else found
    if inspect.ismodule(kind):
        try:
            return importlib.import_module(f"{kind.__name__}.{name}")
        except ModuleNotFoundError as error:
            raise Missing(f"{kind.__name__} has no {name}") from error
    if inspect.isclass(kind) and name in (own := assigned(kind)):
        return Instance(kind) if own[name] else UNKNOWN
    raise Missing(f"{getattr(kind, '__name__', kind)} has no {name}")


def result(value: object) -> object:
    """What a call gives: an object of the class that is called, or of the class that the function says it returns."""
    if inspect.isclass(value):
        return Instance(value)
    returned = getattr(value, "__annotations__", {}).get("return")
    return Instance(returned) if inspect.isclass(returned) else UNKNOWN


def check(use: Use) -> None:
    """Raises:
    Missing: a step of the path is not there.
    TypeError: the call does not fit what it calls.
    """
    owner: object = None
    value: object = importlib.import_module(use.path[0])
    for step in use.path[1:]:
        owner, value = value, result(value) if step == CALL else attribute(value, step)
    if use.call is None or not callable(value) or value is UNKNOWN:
        return
    signature = inspect.signature(value)
    bound = isinstance(owner, Instance) and inspect.isfunction(value)
    given = [None] * (bound + len(use.call.args))
    named = {one.arg: None for one in use.call.keywords if one.arg}
    open_ended = any(isinstance(one, ast.Starred) for one in use.call.args) or len(named) < len(use.call.keywords)
    if open_ended:
        signature.bind_partial(**named)
    else:
        signature.bind(*given, **named)


def faults(found: Found) -> list[str]:
    wrong = list(found.problems)
    for use in found.uses:
        try:
            check(use)
        except (Missing, ImportError, TypeError) as error:
            wrong.append(f"{use}: {error}")
    return wrong


@pytest.fixture(scope="module")
def found(comfyui):
    """What each module of the pack uses, by its path in the repository; tests and scripts are not of the pack."""
    package = Package(ROOT, comfyui)
    paths = [file.relative_to(ROOT) for file in ROOT.rglob("*.py")]
    kept = [path for path in paths if path.parts[0] not in ("tests", "scripts", "build")]
    assert len(kept) > 50
    return {path: package.read(ROOT / path) for path in kept}


def members(protocol):
    """The names of a protocol's attributes, and its methods by their names."""
    kinds = [kind for kind in protocol.__mro__ if getattr(kind, "_is_protocol", False) and kind is not Protocol]
    attributes = {name for kind in kinds for name in getattr(kind, "__annotations__", {})}
    methods = {name: one for kind in kinds for name, one in vars(kind).items() if inspect.isfunction(one)}
    return attributes, {name: one for name, one in methods.items() if not name.startswith("_")}


@pytest.mark.parametrize("name", ["Model", "Clip", "Vae"])
def test_comfyuis_objects_have_what_the_packs_protocols_ask_of_them(shapes, name):
    objects = importlib.import_module("pack_under_test.nodes.host.objects")
    thing = {"Model": shapes[0], "Clip": shapes[1], "Vae": shapes[2]}[name]
    attributes, methods = members(getattr(objects, name))
    assert attributes or methods
    assert not [one for one in (*attributes, *methods) if not hasattr(thing, one)]
    for one, wanted in methods.items():
        asked = list(inspect.signature(wanted).parameters.values())[1:]
        given = {p.name: None for p in asked if p.kind is p.KEYWORD_ONLY}
        positional = [None for p in asked if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        inspect.signature(getattr(thing, one)).bind(*positional, **given)


def test_comfyui_has_every_name_that_the_pack_uses_and_takes_every_call(found):
    read = [one for path, one in found.items() if path.parts[0] == "nodes"]
    # Imports, names handed on by another module, attributes of parameters and of results, what is looked up.
    assert {
        "comfy.sample.prepare_noise",
        "comfy_api.v0_0_2.io.ComfyNode",
        "comfy.utils.ProgressBar().update_absolute",
        "server.PromptServer.instance.send_progress_text",
    } <= {written(use.path) for one in read for use in one.uses}
    assert not [fault for one in read for fault in faults(one)]


def test_only_the_host_layer_touches_comfyui_and_the_nodes_its_node_api(found):
    for path, one in found.items():
        if path.parts[:2] != ("nodes", "host"):
            allowed = {"comfy_api"} if path.parts[0] == "nodes" else set()
            assert {use.path[0] for use in one.uses} <= allowed, path


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import comfy.gone", "gone"),
        ("import comfy.utils\ncomfy.utils.gone()", "has no gone"),
        ("import comfy.utils as u\nprint(u.gone)", "has no gone"),
        ("from comfy.utils import gone", "has no gone"),
        ("from comfy import utils\nutils.gone", "has no gone"),
        ("from .api import io\nclass N(io.Gone): pass", "has no Gone"),
        ("def f():\n    import comfy.utils\n    return [comfy.utils.gone for _ in range(2)]", "has no gone"),
        ("import comfy.sd\ndef f(clip: comfy.sd.CLIP | None): return clip.gone.x", "has no gone"),
        ("import comfy.sd\nclass A:\n    clip: comfy.sd.CLIP\n    def f(self): return self.clip.gone", "has no gone"),
        ("import comfy.utils\ndef f():\n    bar = comfy.utils.ProgressBar(1)\n    bar.gone(2)", "has no gone"),
        ("import sys\nsys.modules.get('server').Gone", "has no Gone"),
        ("import comfy.utils\ngetattr(comfy.utils, 'gone', None)", "has no gone"),
        ("import comfy.utils\ncomfy.utils.ProgressBar()", "missing a required argument"),
        ("import comfy.utils\ncomfy.utils.ProgressBar(*a, gone=1)", "unexpected keyword argument"),
        ("import comfy.sd\ndef f(clip: comfy.sd.CLIP): clip.tokenize()", "missing a required argument"),
        ("import comfy.sd\ndef f(clip: comfy.sd.CLIP): clip.clone(1, 2, 3)", "too many positional"),
        ("from .api import io\nio.Int.Input('a', gone=1)", "unexpected keyword argument"),
        # What the test would not see is a fault too.
        ("import comfy.utils\nu = comfy.utils\nu.gone()", "keeps the module"),
        ("import sys\nserver = sys.modules['server']", "looks a module up"),
        ("import sys\nserver = sys.modules.get('server')", "keeps the module"),
        ("import importlib\nimportlib.import_module('comfy.' + name)", "at run time"),
        ("import comfy.utils\ngetattr(comfy.utils, name)", "at run time"),
        ("from comfy.utils import *", "imports every name"),
        ("import comfy.sd\ncomfy.samplers.KSampler", "without importing it"),
        ("import requests", "neither of ComfyUI nor a library"),
    ],
)
def test_a_missing_or_a_hidden_name_is_told(comfyui, tmp_path, source, fault):
    assert any(re.search(fault, line) for line in read_source(comfyui, tmp_path, source))


@pytest.mark.parametrize(
    "source",
    [
        "import comfy.sd\ndef f(clip: comfy.sd.CLIP): return clip.patcher.gone, clip.tokenizer, clip.clone().gone",
        "import comfy.sd\ndef f(comfy): return comfy.gone",
        "import comfy.sd\ndef f(clip: comfy.sd.CLIP): return [clip.gone for clip in []], (lambda clip: clip)",
        "import comfy.sd\ndef f(clip: comfy.sd.CLIP): return lambda clip: clip.gone",
        "import comfy.sd\ndef f(clip: comfy.sd.CLIP):\n    clip = other(clip)\n    return clip.gone",
        "from .api import io\nio.Int.Input('a', default=1)\nio.Custom('X').Input('b')",
    ],
)
def test_what_is_right_or_not_of_comfyui_is_let_be(comfyui, tmp_path, source):
    assert not read_source(comfyui, tmp_path, source)


def read_source(comfyui, folder, source):
    (folder / "api.py").write_text("from comfy_api.v0_0_2 import io\n")
    (folder / "used.py").write_text(source)
    return faults(Package(folder, comfyui).read(folder / "used.py"))
