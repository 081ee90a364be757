"""Keep locales/ complete: English from the nodes' own words; what other languages lack is listed.

    python3 scripts/bootstrap.py run -- python scripts/locales.py          write English, list what is missing
    python3 scripts/bootstrap.py run -- python scripts/locales.py zh       print the texts that Chinese lacks, as JSON
    python3 scripts/bootstrap.py run -- python scripts/locales.py zh FILE  take {English: Chinese} from a JSON file
    python3 scripts/bootstrap.py run -- python scripts/locales.py --keep   write English; it means what it meant

Where English has changed, its translations are dropped, and so count as missing, unless --keep says that the meaning is
the same. ComfyUI reads locales/<language>/nodeDefs.json of a pack, and the node categories in main.json, each part of a
category's path apart and for all packs together. Files are ASCII, with \\u escapes.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ("zh", "ja", "ko", "de", "fr", "es", "ru")
FILES = ("nodeDefs", "main")
Texts = dict[str, Any]


def english(nodes: Iterable[Any]) -> Texts:
    """What each file holds in English, by the file's name, from the nodes' schemas."""
    schemas = [node.GET_SCHEMA() for node in nodes]
    return {"nodeDefs": _node_texts(schemas), "main": {"nodeCategories": _category_texts(schemas)}}


def _category_texts(schemas: Iterable[Any]) -> Texts:
    """The parts of the categories' paths, as the page looks them up: "Diff-QuickFix/edit" has two."""
    return {part: part for schema in schemas for part in schema.category.split("/")}


def _node_texts(schemas: Iterable[Any]) -> Texts:
    texts: Texts = {}
    for schema in schemas:
        texts[schema.node_id] = {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {one.id: _socket(one.display_name or one.id, one.tooltip) for one in schema.inputs},
            "outputs": {
                str(place): _socket(one.display_name or one.id, one.tooltip) for place, one in enumerate(schema.outputs)
            },
        }
    return texts


def _socket(name: str, tooltip: str) -> Texts:
    return {"name": name, "tooltip": tooltip}


def leaves(texts: Texts, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text with its path."""
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def missing(wanted: Texts, found: Texts) -> list[tuple[str, ...]]:
    """Paths of ``wanted`` at which ``found`` holds no text."""
    there = {path for path, text in leaves(found) if text}
    return [path for path, _ in leaves(wanted) if path not in there]


def without_changed(before: Texts, after: Texts, found: Texts) -> Texts:
    """A language's texts ``found`` without the translations of English texts that have changed."""
    old, new = dict(leaves(before)), dict(leaves(after))
    return nested((path, text) for path, text in leaves(found) if path in new and old.get(path, new[path]) == new[path])


def nested(texts: Iterable[tuple[tuple[str, ...], str]]) -> Texts:
    """Texts with their paths as ComfyUI reads them."""
    whole: Texts = {}
    for path, text in texts:
        place = whole
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = text
    return whole


def path_of(language: str, file: str) -> Path:
    return ROOT / "locales" / language / f"{file}.json"


def read(language: str) -> Texts:
    """A language's texts, by file."""
    paths = {file: path_of(language, file) for file in FILES}
    return {file: json.loads(path.read_text(encoding="utf-8")) for file, path in paths.items() if path.exists()}


def write(language: str, texts: Texts) -> None:
    for file in FILES:
        path = path_of(language, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(texts.get(file, {}), indent=1) + "\n", encoding="utf-8")


def load_nodes() -> list[Any]:
    """The pack's nodes, in the ComfyUI that COMFYUI_PATH names."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    import comfy.options

    arguments, sys.argv = sys.argv, ["main.py", "--cpu"]
    comfy.options.enable_args_parsing()
    import comfy.cli_args

    sys.argv = arguments
    spec = importlib.util.spec_from_file_location(
        "diff_quickfix_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    return asyncio.run(extension.get_node_list())


def take(language: str, wanted: Texts, translations: dict[str, str]) -> None:
    """Write a language's files: the given translations of English texts, and else what is there.

    A text that is missing takes what the same English text has elsewhere.
    """
    found = dict(leaves(read(language)))
    elsewhere = {text: found[path] for path, text in leaves(wanted) if path in found}
    said = {path: translations.get(text, found.get(path, elsewhere.get(text, ""))) for path, text in leaves(wanted)}
    write(language, nested((path, text) for path, text in said.items() if text))


def main(arguments: list[str]) -> int:
    wanted, keep = english(load_nodes()), "--keep" in arguments
    arguments = [argument for argument in arguments if argument != "--keep"]
    for language in () if keep else LANGUAGES:
        write(language, without_changed(read("en"), wanted, read(language)))
    write("en", wanted)
    if len(arguments) == 2:
        take(arguments[0], wanted, json.loads(Path(arguments[1]).read_text(encoding="utf-8")))
    by_path = dict(leaves(wanted))
    for language in arguments[:1] or LANGUAGES:
        texts = {by_path[path]: "" for path in missing(wanted, read(language))}
        if len(arguments) == 1:
            print(json.dumps(texts, indent=1))
        else:
            print(f"{language}: {len(texts)} texts missing")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
