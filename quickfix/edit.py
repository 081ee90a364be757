"""Diff-QuickFix: from "source -> target" in words to an update of one weight.

For each caption template, the keys are the inputs of the edited layer's ``out_proj`` at the last subject token of the
source caption (and, as published, at every later position), and the values are what the layer gives at the matching
positions of the target caption (Basu et al., ICLR 2024, section 5). Computing an edit never touches the model.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from ..prompts import PromptError, PromptTokenizer, SubjectError, default_templates, expand, find_subject
from .everyday import PRESERVED
from .pairs import LAST_AND_PADDING, POSITIONS, caption_pairs
from .report import EditReport, measure
from .solve import LowRank, solve_residual
from .tower import TextTower, out_proj_name


@dataclass(frozen=True)
class ConceptEdit:
    """One concept and what it becomes.

    Attributes:
        source: the concept, as prompts write it ("van gogh").
        target: what takes its place ("painting").
        kind: "style", "object", "fact" or "custom"; sets the caption templates.
        templates: caption templates with ``{x}``; None for those of the kind.

    Raises:
        PromptError: an empty or identical source and target, an unknown kind, a template without ``{x}``.
    """

    source: str
    target: str
    kind: str = "style"
    templates: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            text = unicodedata.normalize("NFC", getattr(self, name)).strip()
            if not text:
                raise PromptError(f"The {name} concept is empty; write the words that stand for it in a prompt.")
            object.__setattr__(self, name, text)
        if self.source.lower() == self.target.lower():
            raise PromptError(f"Source and target are the same ({self.source!r}): there is nothing to edit.")
        expand(self.caption_templates, self.source)

    @property
    def caption_templates(self) -> tuple[str, ...]:
        return self.templates or default_templates(self.kind)

    @property
    def captions(self) -> list[tuple[str, str]]:
        """(source caption, target caption) for each template."""
        templates = self.caption_templates
        return list(zip(expand(templates, self.source), expand(templates, self.target), strict=True))


@dataclass(frozen=True)
class EditSettings:
    """How an edit is computed.

    Attributes:
        layer: the self-attention layer to edit; the paper's causal state is layer 0.
        lam: lambda, the weight of staying near the old weight; above 0.
        positions: one of :data:`POSITIONS`.
        preserve: prompts whose states should stay, at all their positions.
        preserve_weight: beta, how much each preserved key counts beside an edited one.
        published_bias: leave the layer's bias in the values, as the authors' released code does. The layer then adds it
            twice; only for reproducing its numbers.
    """

    layer: int = 0
    lam: float = 0.01
    positions: str = LAST_AND_PADDING
    preserve: tuple[str, ...] = ()
    preserve_weight: float = 1.0
    published_bias: bool = False

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise PromptError(f"Unknown positions {self.positions!r}; expected one of: {', '.join(POSITIONS)}.")


PAPER = EditSettings()
GUARDED = EditSettings(lam=0.1, preserve=PRESERVED, preserve_weight=1.0)


def preset(name: str) -> EditSettings:
    """"paper": the published settings. "guarded": a preserve set and the lambda that measurements on Shapes favour."""
    presets = {"paper": PAPER, "guarded": GUARDED}
    if name not in presets:
        raise PromptError(f"Unknown preset {name!r}; expected one of {', '.join(presets)}.")
    return presets[name]


@dataclass(frozen=True)
class WeightEdit:
    """An update of one weight: ``weight_name`` becomes W0 + up @ down.

    Attributes:
        weight_name: CLIP's name of the weight, "encoder.layers.0.self_attn.out_proj.weight".
        low_rank: the factors, fp32.
        concepts, settings: what it was computed from.
        report: what it does.
    """

    weight_name: str
    low_rank: LowRank = field(repr=False)
    concepts: tuple[ConceptEdit, ...]
    settings: EditSettings
    report: EditReport

    @property
    def rank(self) -> int:
        return self.low_rank.rank

    @property
    def nbytes(self) -> int:
        return 4 * (self.low_rank.up.numel() + self.low_rank.down.numel())

    def delta(self) -> torch.Tensor:
        """The update as a matrix, (out, in), a fresh tensor."""
        return self.low_rank.dense()

    def lora(self, naming: str = "kohya") -> dict[str, torch.Tensor]:
        """The edit as LoRA tensors that stock loaders take, exact at strength 1.

        Args:
            naming: "kohya" (``lora_te_...``, read by ComfyUI and diffusers) or "comfyui" (``text_encoders.clip_l...``).
        """
        path = self.weight_name.removesuffix(".weight")
        if naming == "kohya":
            key, up, down = "lora_te_text_model_" + path.replace(".", "_"), "lora_up", "lora_down"
        elif naming == "comfyui":
            key, up, down = f"text_encoders.clip_l.transformer.text_model.{path}", "lora_up", "lora_down"
        else:
            raise ValueError(f'Unknown naming {naming!r}; expected "kohya" or "comfyui".')
        return {
            f"{key}.{up}.weight": self.low_rank.up.clone(),
            f"{key}.{down}.weight": self.low_rank.down.clone(),
            f"{key}.alpha": torch.tensor(float(self.rank)),
        }


def compute_edit(
    tower: TextTower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], settings: EditSettings = PAPER
) -> WeightEdit:
    """Compute the update that turns each concept's source into its target.

    Raises:
        PromptError: no concepts, or a preserved prompt that contains a concept to be edited away.
        SubjectError: a concept does not fit into its caption.
        TowerError: the layer does not exist, or weights are damaged.
        SolveError: lambda is not positive.
    """
    if not concepts:
        raise PromptError("No concepts given; expected at least one source and target.")
    tower.check_layer(settings.layer)
    clock = _Clock()
    ids, pairs = _caption_ids(tokenizer, concepts, settings)
    preserved = [prompt.ids for prompt in tokenizer.tokenize_all(settings.preserve)]
    _refuse_preserved_sources(tokenizer, concepts, settings)
    clock.stage("tokens")

    states = tower.attention_inputs(torch.tensor([*ids, *preserved]), settings.layer)
    keys, anchors = states[: len(ids)].flatten(0, 1), states[len(ids) :].flatten(0, 1)
    source, target = torch.tensor(pairs).unbind(1)
    name = out_proj_name(settings.layer)
    weight = tower.weight(name)
    clock.stage("keys")

    residual = (keys[target].double() - keys[source].double()) @ weight.double().T
    if settings.published_bias:
        residual += tower.weight(name.replace(".weight", ".bias")).double()
    low_rank = solve_residual(
        keys[source],
        residual,
        lam=settings.lam,
        preserve=torch.unique(anchors, dim=0) if len(anchors) else None,
        preserve_weight=settings.preserve_weight,
    )
    clock.stage("solve")

    report = measure(tower, tokenizer, low_rank, settings.layer, keys[source], residual)
    clock.stage("report")
    report = replace(report, milliseconds=clock.milliseconds)
    return WeightEdit(name, low_rank, tuple(concepts), settings, report)


def _caption_ids(
    tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], settings: EditSettings
) -> tuple[list[tuple[int, ...]], list[tuple[int, int]]]:
    ids: list[tuple[int, ...]] = []
    pairs: list[tuple[int, int]] = []
    for concept in concepts:
        offset = len(ids) * tokenizer.context_length
        more, places = caption_pairs(concept.source, concept.target, concept.captions, tokenizer, settings.positions)
        ids += more
        pairs += [(offset + a, offset + b) for a, b in places]
    return ids, pairs


def _refuse_preserved_sources(
    tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], settings: EditSettings
) -> None:
    for prompt in tokenizer.tokenize_all(settings.preserve):
        for concept in concepts:
            try:
                find_subject(prompt, concept.source, tokenizer)
            except SubjectError:
                continue
            raise PromptError(
                f"The preserved prompt {prompt.text!r} contains {concept.source!r}, which is to be edited away. "
                "Take it out of the preserve set."
            )


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.milliseconds: dict[str, float] = {}

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.milliseconds[name] = 1000 * (now - self._last)
        self._last = now
