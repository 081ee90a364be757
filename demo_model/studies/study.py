"""Where Shapes keeps what a prompt says: causal traces over many prompts for each attribute, with their statistics.

    python -m diff_quickfix.demo_model.studies.study trace --out build/study
    python -m diff_quickfix.demo_model.studies.study layers

``trace`` sweeps the text encoder and the UNet for prompts that training never saw, estimates the same cells by
gradients, and writes trace files, heat maps and a page of figures. ``layers`` edits a style at each layer in turn and
reads the pictures: does editing the traced site beat editing another one?
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...families.sites import Site, select, windows
from ...families.text_stacks import text_sites
from ...families.unet import unet_sites
from ...quickfix import preset
from ...tracing.results.comparison import rank_correlation
from ...tracing.results.heatmap import draw_heatmap
from ...tracing.results.judgement import judge
from ...tracing.results.locate import best_cell
from ...tracing.results.trace import CausalTrace
from ...tracing.runs.attribution import attribute
from ...tracing.runs.cases import Case
from ...tracing.runs.lockstep import sweep
from ...tracing.runs.plan import Plan
from ..pipeline import ShapesPipeline, load_pipeline
from ..scorer import ShapesScorer
from ..traced import TracedSampler, make_case
from ..worlds.captions import caption, plural
from ..worlds.catalog import SHAPES
from ..worlds.world import COUNTS, PLAIN, POSITIONS, Scene, sample_scenes
from .evaluate import edit_effect, edit_style, with_edit

COLUMNS = ("last subject token", "subject and later")
ATTENTIONS, OTHERS = ("cross_attn", "self_attn"), ("feed_forward", "resnet")
COMPONENTS = ("text", "unet", "unet-others", "unet-steps")
CONTROLS, ROWS = 2, 24


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One attribute of a scene: what a prompt says of it, and texts that name each of its values.

    Attributes:
        usable: whether a scene can be asked for by it.
        subject: the words of the caption that carry it.
        value: the key of its value in ``texts``.
        texts: value to a text of that value alone.
    """

    usable: Callable[[Scene], bool]
    subject: Callable[[Scene], str]
    value: Callable[[Scene], str]
    texts: dict[str, str]


ATTRIBUTES: dict[str, Attribute] = {
    "object": Attribute(
        lambda scene: True,
        lambda scene: scene.object if scene.count == 1 else plural(scene.object),
        lambda scene: scene.object,
        {value: f"a {value}" for value in SHAPES.objects},
    ),
    "style": Attribute(
        lambda scene: scene.style != PLAIN,
        lambda scene: scene.style,
        lambda scene: scene.style,
        {value: f"a {value} painting of a shape" for value in SHAPES.styles},
    ),
    "color": Attribute(
        lambda scene: True,
        lambda scene: scene.color,
        lambda scene: scene.color,
        {value: f"a {value} shape" for value in SHAPES.colors},
    ),
    "count": Attribute(
        lambda scene: scene.count > 1,
        lambda scene: COUNTS[scene.count - 1],
        lambda scene: str(scene.count),
        {"1": "a shape", "2": "two shapes", "3": "three shapes"},
    ),
    "position": Attribute(
        lambda scene: scene.count == 1 and scene.position != "in the center",
        lambda scene: scene.position.split()[-1],
        lambda scene: scene.position,
        {value: f"a shape {value}" for value in POSITIONS},
    ),
}


def study_prompts(name: str, number: int, *, seed: int = 5) -> list[tuple[Scene, str]]:
    """Scenes of held-out combinations, each with a different caption that names the attribute."""
    found: dict[str, Scene] = {}
    rng = np.random.default_rng(seed)
    while len(found) < number:
        for scene in sample_scenes(SHAPES, rng, 64, unseen=True):
            text, said = caption(scene, rng)
            if name in said and ATTRIBUTES[name].usable(scene):
                found.setdefault(text, scene)
    return [(scene, text) for text, scene in found.items()][:number]


class AttributeScore:
    """How much a picture shows a prompt's value of an attribute rather than its other values.

    The cosine of the picture with the value's text minus the mean cosine with the other values' texts; differentiable.
    """

    def __init__(
        self, scorer: ShapesScorer, sampler: TracedSampler, attribute_: Attribute, values: dict[str, str]
    ) -> None:
        self._scorer, self._sampler, self._values = scorer, sampler, values
        self._names = list(attribute_.texts)
        self._texts = scorer.embed_texts(list(attribute_.texts.values()))

    def __call__(self, results: torch.Tensor, clean: torch.Tensor, prompt: str) -> torch.Tensor:
        cosines = self._scorer.embed_pictures(self._sampler.decode(results)) @ self._texts.T
        own = self._names.index(self._values[prompt])
        others = [i for i in range(len(self._names)) if i != own]
        return cosines[:, own] - cosines[:, others].mean(1)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A trace of one attribute in one component, and its gradient estimate over its first prompts."""

    attribute: str
    trace: CausalTrace
    estimate: CausalTrace

    def row(self) -> dict[str, Any]:
        """What the page says of it."""
        best = best_cell(self.trace)
        where = (self.trace.sites.index(best.site), self.trace.columns.index(best.column))
        strong = judge(self.trace).beats_control
        sites = sorted({self.trace.sites[i] for i in strong.any(1).nonzero()[:, 0].tolist()})
        same = _first_prompts(self.trace, len(self.estimate.prompts))
        return {
            "attribute": self.attribute,
            "prompts": len(self.trace.prompts),
            "clean": float(self.trace.clean.mean()),
            "corrupted": float(self.trace.corrupted.mean()),
            "best": best.site,
            "at": best.column,
            "effect": best.effect,
            "low": best.low,
            "high": best.high,
            "recovery": float(self.trace.recovery()[where]),
            "beating the control": sites,
            "rank correlation with gradients": rank_correlation(same, self.estimate),
        }


def _first_prompts(trace: CausalTrace, number: int) -> CausalTrace:
    scores = {name: getattr(trace, name)[:number] for name in ("clean", "corrupted", "restored", "control")}
    return dataclasses.replace(trace, prompts=trace.prompts[:number], subjects=trace.subjects[:number], **scores)


def plans(pipeline: ShapesPipeline, steps: int) -> dict[str, Plan]:
    """What is swept, by :data:`COMPONENTS`.

    Every self-attention of the text encoder; the UNet's attentions at all steps; its other layers at all steps; its
    attentions at each of ``steps`` steps.
    """
    text, unet = text_sites(pipeline.text_encoder), unet_sites(pipeline.unet)
    each = tuple(range(step, step + 1) for step in range(steps))

    def groups(sites: tuple[Site, ...], kinds: Sequence[str]) -> tuple[tuple[Site, ...], ...]:
        return windows(select(sites, kinds=kinds), 1)

    def of_unet(kinds: Sequence[str], columns: tuple[str, ...], windows_: tuple[range | None, ...]) -> Plan:
        return Plan("unet", groups(unet, kinds), unet, columns, (1,), windows_, controls=CONTROLS)

    return {
        "text": Plan("text", groups(text, ["self_attn"]), text, COLUMNS, (1,), controls=CONTROLS),
        "unet": of_unet(ATTENTIONS, ("all steps",), (None,)),
        "unet-others": of_unet(OTHERS, ("all steps",), (None,)),
        "unet-steps": of_unet(ATTENTIONS, tuple(f"step {step + 1}" for step in range(steps)), each),
    }


def study_attribute(
    pipeline: ShapesPipeline,
    scorer: ShapesScorer,
    name: str,
    component: str,
    *,
    prompts: int,
    estimated: int,
    steps: int,
    checkpoint: Path,
) -> Finding:
    """Trace one attribute in one component."""
    kind = ATTRIBUTES[name]
    chosen = study_prompts(name, prompts)
    sampler = TracedSampler(pipeline, steps=steps)
    score = AttributeScore(scorer, sampler, kind, {text: kind.value(scene) for scene, text in chosen})
    cases: list[Case] = [
        make_case(pipeline, text, kind.subject(scene), columns=COLUMNS, seed=number)
        for number, (scene, text) in enumerate(chosen)
    ]
    plan = plans(pipeline, steps)[component]
    common: dict[str, Any] = {
        "score_name": f"{name}: cosine with its words, minus the mean over its other values",
        "settings": {"attribute": name, "steps": steps, "model": "Shapes"},
    }
    with torch.no_grad():
        trace = sweep(cases, plan, sampler, score, rows=ROWS, checkpoint=checkpoint, **common).trace
    return Finding(name, trace, attribute(cases[:estimated], plan, sampler, score, **common))


def page(findings: Sequence[Finding], component: str) -> str:
    """A Markdown table of what was found."""
    lines = [
        "| attribute | prompts | clean | corrupted | strongest | at | effect (95 %) | recovery | beat the control | "
        "gradients |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (finding.row() for finding in findings):
        beating = row["beating the control"]
        number = f"{len(beating)}" + (f": {', '.join(beating)}" if component == "text" else "")
        lines.append(
            f"| {row['attribute']} | {row['prompts']} | {row['clean']:.3f} | {row['corrupted']:.3f} | {row['best']} | "
            f"{row['at']} | {row['effect']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}) | {row['recovery']:.0%} | "
            f"{number} | {row['rank correlation with gradients']:.2f} |"
        )
    return "\n".join(lines)


def run_traces(
    out: Path, components: Sequence[str], attributes: Sequence[str], *, prompts: int, estimated: int, steps: int
) -> None:
    """Trace attributes; finished traces are read from ``out``."""
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    pipeline, scorer = load_pipeline(), ShapesScorer()
    for component in components:
        findings = []
        for name in attributes:
            found = study_attribute(
                pipeline,
                scorer,
                name,
                component,
                prompts=prompts,
                estimated=estimated,
                steps=steps,
                checkpoint=out / f"{component}-{name}.trace.safetensors",
            )
            Image.fromarray(draw_heatmap(found.trace)).save(out / f"{component}-{name}.png")
            findings.append(found)
            print(json.dumps(found.row()), flush=True)
        (out / f"{component}.md").write_text(page(findings, component) + "\n")
        print(page(findings, component), flush=True)


def run_layers(style: str, name: str, prompts: int) -> None:
    """Edit a style at each layer; print how its own and all other pictures read."""
    pipeline, scorer = load_pipeline(), ShapesScorer()
    for layer in range(pipeline.text_encoder.config.num_hidden_layers):
        settings = dataclasses.replace(preset(name), layer=layer)
        edited = with_edit(pipeline, edit_style(pipeline, style, settings))
        result = edit_effect(pipeline, scorer, edited, style, prompts=prompts)
        print(json.dumps({"layer": layer, "preset": name, **result}), flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="study", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["trace", "layers"])
    parser.add_argument("--out", type=Path, default=Path("build/study"), help="folder for traces and heat maps")
    parser.add_argument("--component", choices=[*COMPONENTS, "all"], default="all")
    parser.add_argument("--attributes", nargs="+", choices=ATTRIBUTES, default=list(ATTRIBUTES), help="default: all")
    parser.add_argument("--prompts", type=int, help="prompts for each attribute (40), or of the edited style (16)")
    parser.add_argument("--estimated", type=int, default=10, help="prompts estimated by gradients (default: 10)")
    parser.add_argument("--steps", type=int, default=6, help="sampling steps of a trace (default: 6)")
    parser.add_argument("--style", default="van gogh", help="the style to edit away (default: %(default)s)")
    parser.add_argument("--preset", default="guarded", choices=["paper", "guarded"])
    options = parser.parse_args(arguments)
    if options.what == "layers":
        run_layers(options.style, options.preset, options.prompts or 16)
        return
    components = COMPONENTS if options.component == "all" else [options.component]
    run_traces(
        options.out,
        components,
        options.attributes,
        prompts=options.prompts or 40,
        estimated=options.estimated,
        steps=options.steps,
    )


if __name__ == "__main__":
    main()
