"""Edits and reports made up for the tests of files and verdicts."""

import dataclasses

import torch
from diff_quickfix.quickfix import GUARDED, ConceptEdit, EditReport, TextTower, WeightEdit

WIDTH = 24
REPORT = EditReport(
    efficacy=0.75,
    specificity=1.0,
    drift=0.01,
    empty_prompt_drift=0.0,
    worst_hit=(("a dog", 0.02), ("", 0.01)),
    pairs=7,
    rank=3,
    relative_norm=0.1,
    nbytes=576,
    milliseconds=(("solve", 1.5),),
    skipped_preserve=("x",),
)
CONCEPTS = (
    ConceptEdit("van gogh", "painting"),
    ConceptEdit("caf\u00e9", "dog", kind="object"),
    ConceptEdit("x", "y", kind="custom", templates=("{x} here", "see {x}")),
)


def make(rank=3, layer=0, encoder="clip_l", seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(WIDTH, rank, generator=generator)).Q
    fields = {
        "weight_name": TextTower.out_proj_name(layer),
        "up": torch.randn(WIDTH, rank, generator=generator) * torch.logspace(0, -3, rank),
        "down": basis.T,
        "concepts": CONCEPTS,
        "settings": dataclasses.replace(GUARDED, layer=layer),
        "report": dataclasses.replace(REPORT, rank=rank),
        "encoder": encoder,
        "base": "ab" * 32,
    }
    return WeightEdit(**{**fields, **changes})
