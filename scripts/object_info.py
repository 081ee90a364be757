"""Keep tests/object_info.json: what saved workflows rely on of each node.

    python3 scripts/bootstrap.py run -- python scripts/object_info.py     write it anew after an allowed change

A saved workflow names nodes by id, holds a widget's value by its place among the inputs, and an output by its number;
one saved for the API names inputs. So nodes, inputs and outputs are only ever appended, and nothing is written where a
change would break a workflow: the changes are listed instead.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "object_info.json"
COMMAND = "python3 scripts/bootstrap.py run -- python scripts/object_info.py"
# Combos that list what lies in a folder.
LISTS_OF_FILES = ("file", "folder")
Nodes = dict[str, dict[str, Any]]


def described(nodes: Iterable[Any]) -> Nodes:
    """What saved workflows rely on, of node classes, by node id."""
    found: Nodes = {}
    for node in nodes:
        info = node.GET_NODE_INFO_V1()
        found[info["name"]] = {
            "inputs": [
                _input(name, section == "required", *info["input"][section][name])
                for section in ("required", "optional")
                for name in info["input_order"].get(section, ())
            ],
            "outputs": [
                f"list of {kind}" if many else kind
                for kind, many in zip(info["output"], info["output_is_list"], strict=True)
            ],
        }
    return found


def _input(name: str, required: bool, kind: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    kept = {key: value for key, value in (options or {}).items() if key in ("default", "min", "max", "options")}
    if name in LISTS_OF_FILES:
        kept.pop("options", None)
    return {"name": name, "type": kind, "required": required, **kept}


def breaks(before: Nodes, after: Nodes) -> list[str]:
    """The changes that would break a saved workflow, each as a sentence that says what is allowed instead."""
    found = []
    for name, old in before.items():
        if name not in after:
            found.append(f"{name} is gone. Ids stay: keep the node, and mark it as deprecated.")
            continue
        new = after[name]
        found += [f"{name}: {reason}" for reason in _input_breaks(old["inputs"], new["inputs"])]
        for place, (was, now) in enumerate(zip_longest(old["outputs"], new["outputs"])):
            if was is not None and was != now:
                found.append(f"{name}: output {place} was {was}, now {now or 'gone'}. Outputs are only appended.")
    return found


def _input_breaks(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Iterator[str]:
    for place, (was, now) in enumerate(zip_longest(before, after)):
        if was is None:
            if now["required"]:
                yield f"the new input {now['name']!r} is required, and missing in saved workflows. Make it optional."
            elif now["type"] in ("INT", "FLOAT", "BOOLEAN", "COMBO") and "default" not in now:
                yield f"the new input {now['name']!r} has no default. Give the one that reproduces old results."
        elif now is None or was["name"] != now["name"]:
            there = repr(now["name"]) if now else "gone"
            yield f"input {place} was {was['name']!r}, now {there}. Inputs are only appended, behind all others."
            return  # all that follow have moved too
        else:
            yield from (f"input {was['name']!r} {reason}" for reason in _changed_input(was, now))


def _changed_input(was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if was["type"] != now["type"]:
        yield f"was of type {was['type']}, now {now['type']}. Types stay: append another input."
        return
    if now["required"] and not was["required"]:
        yield "was optional, now required. Workflows without it would be refused."
    if not was["required"] and was.get("default") != now.get("default"):
        yield f"had the default {was.get('default')!r}, now {now.get('default')!r}. Workflows without it would change."
    lost = [one for one in was.get("options", ()) if one not in now.get("options", ())]
    if lost:
        yield f"no longer offers {', '.join(map(repr, lost))}. Options stay: append others."
    if not _covers(now, was):
        yield (
            f"took {was.get('min')} to {was.get('max')}, now {now.get('min')} to {now.get('max')}. Ranges only widen."
        )


def _covers(now: dict[str, Any], was: dict[str, Any]) -> bool:
    """Whether every number that was allowed still is."""
    lowest, highest = -math.inf, math.inf
    return now.get("min", lowest) <= was.get("min", lowest) and was.get("max", highest) <= now.get("max", highest)


def read() -> Nodes:
    return json.loads(FILE.read_text(encoding="utf-8"))


def write(nodes: Nodes) -> None:
    """Write the file, each input on a line of its own."""
    blocks = []
    for name, node in nodes.items():
        inputs = ",\n".join(f"   {json.dumps(one)}" for one in node["inputs"])
        inputs = f"[\n{inputs}\n  ]" if inputs else "[]"
        blocks.append(
            f' {json.dumps(name)}: {{\n  "inputs": {inputs},\n  "outputs": {json.dumps(node["outputs"])}\n }}'
        )
    FILE.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def main() -> int:
    from locales import load_nodes

    nodes = described(load_nodes())
    wrong = breaks(read(), nodes) if FILE.exists() else []
    if wrong:
        print("Nothing is written: saved workflows would break.", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    write(nodes)
    print(f"{FILE.name}: {len(nodes)} nodes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
