"""The demo: a stock ComfyUI server traces a style, and paints prompts before and after one "Remove Concept" node.

    make demo

Starts the server with this pack, sends it workflows on Shapes, writes the pictures and the heat maps into a folder,
reads the pictures with a reader that has nothing in common with the model, and prints a page of what changed and what
did not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..reader import Reader
from ..worlds.catalog import SHAPES
from ..worlds.world import PLAIN, Scene
from .evaluate import edit_prompts, prompt_of
from .server import Server, ServerError, running_server

EDITED = "van gogh"
STEPS, GUIDANCE = 20, 5.0


@dataclass(frozen=True)
class Comparison:
    """The same prompts and seeds before and after the edit: pictures (n, 128, 128, 3) uint8, and the node's report."""

    prompts: tuple[str, ...]
    scenes: tuple[Scene, ...]
    before: np.ndarray
    after: np.ndarray
    report: str


def demo_scenes(own: int, others: int) -> list[Scene]:
    """Held-out scenes: some of the style to be edited away, and some of each other style and of none."""
    scenes = edit_prompts(EDITED, own)
    for index, style in enumerate([*(style for style in SHAPES.styles if style != EDITED), PLAIN]):
        scenes += edit_prompts(style, others, seed=10 + index)
    return scenes


EDIT, REMOVE = "DiffQuickFix_Edit", "DiffQuickFix_RemoveConcept"
_CLIP = {"clip": ["load", 1]}
# The inputs of each node that edits, and where its MODEL and CLIP come out.
_EDITORS: dict[str, tuple[dict[str, Any], tuple[list[Any], list[Any]]]] = {
    EDIT: (
        {
            **_CLIP,
            "source": EDITED,
            "target": "painting",
            "kind": "style",
            "preset": "guarded",
            "layer": 0,
            "lam": 0.0,
            "positions": "last subject token and padding",
            "strength": 1.0,
        },
        (["load", 0], ["edit", 0]),
    ),
    REMOVE: (
        {
            **_CLIP,
            "model": ["load", 0],
            "concept": EDITED,
            "becomes": "painting",
            "kind": "style",
            "strength": 1.0,
            "way": "auto",
            "lam": 0.0,
        },
        (["edit", 0], ["edit", 1]),
    ),
}


def comparison_workflow(prompts: Sequence[str], *, node: str = EDIT, steps: int = STEPS, **edit: Any) -> dict[str, Any]:
    """An API-format workflow: each prompt painted as it is and with the edit, from the same seed.

    Args:
        node: which node edits, :data:`EDIT` or :data:`REMOVE`.
        steps: the sampler's.
        edit: inputs of the node that differ from the demo's.
    """
    inputs, edited = _EDITORS[node]
    # A folder of its own: a server that has saved the same picture before would report nothing for it.
    folder = f"diff-quickfix/{uuid.uuid4().hex[:12]}"
    graph: dict[str, Any] = {
        "load": {"class_type": "DiffQuickFix_LoadShapesDemo", "inputs": {}},
        "edit": {"class_type": node, "inputs": {**inputs, **edit}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    }
    for name, (model, clip) in (("before", (["load", 0], ["load", 1])), ("after", edited)):
        graph[f"{name} nothing"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": ""}}
        for seed, prompt in enumerate(prompts):
            label = f"{name} {seed:03}"
            graph[f"{label} text"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": prompt}}
            graph[f"{label} sampler"] = {
                "class_type": "KSampler",
                "inputs": {
                    "model": model,
                    "positive": [f"{label} text", 0],
                    "negative": [f"{name} nothing", 0],
                    "latent_image": ["latent", 0],
                    "seed": seed,
                    "steps": steps,
                    "cfg": GUIDANCE,
                    "sampler_name": "ddim",
                    "scheduler": "ddim_uniform",
                    "denoise": 1.0,
                },
            }
            graph[f"{label} picture"] = {
                "class_type": "VAEDecode",
                "inputs": {"samples": [f"{label} sampler", 0], "vae": ["load", 2]},
            }
            graph[f"{label} save"] = {
                "class_type": "SaveImage",
                "inputs": {"images": [f"{label} picture", 0], "filename_prefix": f"{folder}/{name}-{seed:03}"},
            }
    return graph


def compare(
    server: Server, scenes: Sequence[Scene], *, node: str = EDIT, steps: int = STEPS, **edit: Any
) -> Comparison:
    """Run :func:`comparison_workflow` on a server and fetch its pictures."""
    prompts = tuple(prompt_of(scene) for scene in scenes)
    outputs = server.run(comparison_workflow(prompts, node=node, steps=steps, **edit), timeout=3600)
    before, after = (
        np.stack([server.picture(outputs[f"{name} {i:03} save"]["images"][0]) for i in range(len(prompts))])
        for name in ("before", "after")
    )
    return Comparison(prompts, tuple(scenes), before, after, outputs["edit"]["diff_quickfix_report"][0])


def trace_workflow(component: str) -> dict[str, Any]:
    """An API-format workflow that traces the edited style in the "text" encoder or the "unet" and draws the result."""
    inputs = {
        "model": ["load", 0],
        "clip": ["load", 1],
        "vae": ["load", 2],
        "negative": ["nothing", 0],
        "latent": ["latent", 0],
        "scorer": ["scorer", 0],
        "prompts": f"a red circle on grass, in the style of [{EDITED}]",
        "sites": "*",
        "window": 1,
        "noise": 3.0,
        "draws": 1,
        "seed": 0,
        "seeds": 1,
        "controls": 8,
        "steps": 12,
        "cfg": GUIDANCE,
        "sampler_name": "ddim",
        "scheduler": "normal",
        "sever": "nothing",
        "batch_size": 12,
        "checkpoint": "",
    }
    special = (
        {"kind": "self_attn", "columns": "tokens"}
        if component == "text"
        else {
            "kind": "cross_attn",
            "step_windows": 1,
            "branch": "cond",
        }
    )
    folder = f"diff-quickfix/{uuid.uuid4().hex[:12]}"
    return {
        "load": {"class_type": "DiffQuickFix_LoadShapesDemo", "inputs": {}},
        "nothing": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["load", 1], "text": ""}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "scorer": {
            "class_type": "DiffQuickFix_ShapesScorer",
            "inputs": {"words": f"a {EDITED} painting of a shape"},
        },
        "trace": {
            "class_type": f"DiffQuickFix_CausalTrace{'Text' if component == 'text' else 'UNet'}",
            "inputs": {**inputs, **special},
        },
        "map": {
            "class_type": "DiffQuickFix_CausalHeatmap",
            "inputs": {"trace": ["trace", 0], "value": "indirect effect", "width": 1000},
        },
        "save": {"class_type": "SaveImage", "inputs": {"images": ["map", 0], "filename_prefix": f"{folder}/heatmap"}},
        "place": {
            "class_type": "DiffQuickFix_LocateCausalState",
            "inputs": {"trace": ["trace", 0], "kind": special["kind"]},
        },
        "say": {"class_type": "PreviewAny", "inputs": {"source": ["place", 4]}},
    }


@dataclass(frozen=True)
class Finding:
    """What a trace found: the heat map (height, width, 3) uint8, and the strongest site in words."""

    heatmap: np.ndarray
    report: str


def trace(server: Server, component: str) -> Finding:
    """Trace the edited style in the "text" encoder or the "unet" on a server."""
    outputs = server.run(trace_workflow(component), timeout=3600)
    return Finding(server.picture(outputs["save"]["images"][0]), outputs["say"]["text"][0])


def as_tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def recognition(result: Comparison, reader: Reader) -> list[tuple[str, float, float]]:
    """How the pictures read, as (what is read, share right before, share right after): the edited style, each other
    style and none, and the objects, colors and backgrounds of all prompts."""
    looked = [reader.read(as_tensor(pictures)) for pictures in (result.before, result.after)]
    readings = {attribute: [np.array(read[attribute]) for read in looked] for attribute in SHAPES.values}
    styles = np.array([scene.style for scene in result.scenes])
    everywhere, own = np.ones(len(styles), bool), styles == EDITED
    asked = [
        (f"style, prompts with {EDITED!r} (to be removed)", "style", own),
        ("style, all other prompts (to be kept)", "style", ~own),
    ]
    asked += [(f"  {style}", "style", styles == style) for style in dict.fromkeys(styles[~own].tolist())]
    asked += [(f"{attribute}, all prompts", attribute, everywhere) for attribute in ("object", "color", "background")]
    rows = []
    for label, attribute, which in asked:
        wanted = np.array([getattr(scene, attribute) for scene in result.scenes])
        before, after = (float(np.mean(read[which] == wanted[which])) for read in readings[attribute])
        rows.append((label, before, after))
    return rows


def summary(result: Comparison, reader: Reader) -> str:
    """A page of text: how the pictures read before and after, and the node's own report."""
    lines = [f"{'share of pictures that read right':46} before   after"]
    lines += [f"{label:46} {before:6.0%}  {after:6.0%}" for label, before, after in recognition(result, reader)]
    report = (f"  {line}" for line in result.report.splitlines())
    return "\n".join([*lines, "", "the edit, as its node reports it", *report])


def contact_sheet(result: Comparison, columns: int = 8) -> Image.Image:
    """Rows of pictures before the edit, each above the same seeds after it."""
    rows = []
    for start in range(0, len(result.before), columns):
        for pictures in (result.before, result.after):
            row = pictures[start : start + columns]
            blank = np.full((columns - len(row), *row.shape[1:]), 255, np.uint8)
            rows.append(np.concatenate([*row, *blank], axis=1))
        rows.append(np.full((12, rows[-1].shape[1], 3), 255, np.uint8))
    return Image.fromarray(np.concatenate(rows[:-1]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the pictures")
    options = parser.parse_args(arguments)
    comfyui = os.environ.get("COMFYUI_PATH")
    if not comfyui:
        print("error: COMFYUI_PATH is not set; start the demo with `make demo`.", file=sys.stderr)
        return 1
    scenes = demo_scenes(own=8, others=2)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder, running_server(Path(comfyui), Path(folder)) as server:
            waited = time.monotonic() - started
            print(f"ComfyUI is up ({waited:.0f} s); painting {2 * len(scenes)} pictures", flush=True)
            result = compare(server, scenes, node=REMOVE)
            print(f"Tracing {EDITED!r} in the text encoder and in the UNet", flush=True)
            findings = {component: trace(server, component) for component in ("text", "unet")}
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    for index, prompt in enumerate(result.prompts):
        name = prompt.replace(" ", "-").replace(",", "")
        for when, pictures in (("before", result.before), ("after", result.after)):
            Image.fromarray(pictures[index]).save(options.out / f"{index:02}-{name}-{when}.png")
    contact_sheet(result).save(options.out / "overview.png")
    for component, finding in findings.items():
        Image.fromarray(finding.heatmap).save(options.out / f"trace-{component}.png")
    print(f"\n{summary(result, Reader())}\n")
    print(f"where {EDITED!r} lives: restored from the clean run, these bring it back most")
    for finding in findings.values():
        print(f"  {finding.report}")
    print()
    print(f"pictures: {options.out}/ (overview.png: rows of pictures before the edit, each above the same seeds after)")
    print(f"heat maps: {options.out}/trace-text.png, {options.out}/trace-unet.png")
    print(f"took {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
