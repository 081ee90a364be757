"""Time one edit on a text encoder of Stable Diffusion 1.x's size (random weights), by stage, beside the textbook way.

    make bench

The textbook way encodes every caption with the whole encoder and solves (lambda W0 + V K^T)(lambda I + K K^T)^-1
densely. Both are repeated and interleaved; medians and their ratio are printed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from typing import Any

import torch

from ..demo_model.weights import clip_tokenizer
from ..prompts import PromptTokenizer
from ..quickfix import PAPER, ConceptEdit, TextTower, compute_edit, pair_tokens

CONCEPT = ConceptEdit("van gogh", "painting")


def clip_l() -> torch.nn.Module:
    """A CLIP-L text model with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, bos_token_id=49406,
            eos_token_id=49407,
        )
    ).eval()


@torch.no_grad()
def textbook(model: torch.nn.Module, tokenizer: PromptTokenizer, precision: torch.dtype) -> torch.Tensor:
    """The update by whole encoder passes and one dense inverse, in the given precision."""
    pairs = pair_tokens(tokenizer, [(CONCEPT.source, CONCEPT.target or "", CONCEPT.templates or ())], PAPER.positions)
    seen: list[torch.Tensor] = []
    inner: Any = getattr(model, "text_model", model)
    projection = inner.encoder.layers[0].self_attn.out_proj
    handle = projection.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    try:
        for row in pairs.ids:
            model(row[None])
    finally:
        handle.remove()
    inputs = torch.cat(seen).to(precision)
    keys, wanted = (inputs[where[:, 0], where[:, 1]] for where in (pairs.source, pairs.target))
    weight = projection.weight.detach().to(precision)
    lam = PAPER.lam or 0.0
    left = lam * weight + (wanted @ weight.T).T @ keys
    right = lam * torch.eye(weight.shape[1], dtype=precision) + keys.T @ keys
    return left @ torch.linalg.inv(right) - weight


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = clip_l()
    tower, tokenizer = TextTower.from_module(model), PromptTokenizer(clip_tokenizer(), pad_token=49407)
    reference = textbook(model, tokenizer, torch.float64)
    edits, dense = [], []
    for _ in range(options.repeats + 1):
        edits.append(compute_edit(tower, tokenizer, [CONCEPT], PAPER))
        started = time.perf_counter()
        plain = textbook(model, tokenizer, torch.float32)
        dense.append(1000 * (time.perf_counter() - started))
    stages = {
        stage: statistics.median(dict(edit.report.milliseconds)[stage] for edit in edits[1:])
        for stage, _ in edits[0].report.milliseconds
    }
    ours = sum(value for stage, value in stages.items() if stage != "report")
    theirs = statistics.median(dense[1:])
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, torch {torch.__version__}")
    pairs = edits[0].report.pairs
    print(f'"van gogh" -> "painting" on CLIP-L, {pairs} pairs, medians of {options.repeats}, milliseconds')
    for stage, value in stages.items():
        print(f"  {stage:10} {value:8.1f}")
    for name, value, delta in (("text to delta", ours, edits[0].delta()), ("textbook fp32", theirs, plain)):
        error = float((delta.double() - reference).norm() / reference.norm())
        print(f"{name:14} {value:8.1f}   relative error to fp64 {error:.1e}")
    print(f"ratio          {theirs / ours:8.1f}")


if __name__ == "__main__":
    main()
