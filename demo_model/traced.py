"""Shapes as the tracer and gradient attribution want it, without ComfyUI: prompts to trace, and a sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..families.unet import unet_sites
from ..text.prompts import PromptTokenizer
from ..text.subjects import PLACES, find_subject, places
from ..tracing.runs.cases import Case, Share
from ..tracing.runs.corruption import gaussian
from ..tracing.runs.interventions import Patch, patching
from . import architecture as shape
from .pipeline import ShapesPipeline


class TracedSampler:
    """DDIM with guidance over rows of text states, all from one seed's noise; patches touch the guided half.

    It is a painter of ``tracing.lockstep`` when called, and a ``tracing.attribution.Sampling`` step by step. Results
    are latents (rows, channels, height, width).
    """

    def __init__(self, pipeline: ShapesPipeline, *, steps: int, guidance: float = 5.0) -> None:
        self.steps, self._guidance, self._pipeline = steps, guidance, pipeline
        self._nothing = pipeline.encode([""])
        self.sites = {site.name: site for site in unet_sites(pipeline.unet)}
        pipeline.scheduler.set_timesteps(steps)
        self._times = list(pipeline.scheduler.timesteps)

    def start(self, seed: int, rows: int) -> torch.Tensor:
        return self._pipeline.initial_noise([seed]).repeat(rows, 1, 1, 1)

    def advance(self, latents: torch.Tensor, step: int, states: torch.Tensor) -> torch.Tensor:
        text = torch.cat([self._nothing.expand(len(states), -1, -1), states])
        plain, guided = self._pipeline.unet(latents.repeat(2, 1, 1, 1), self._times[step], text).sample.chunk(2)
        noise = plain + self._guidance * (guided - plain)
        return self._pipeline.scheduler.step(noise, self._times[step], latents).prev_sample

    def index(self, row: int, rows: int) -> Sequence[int]:
        return (rows + row,)

    @torch.no_grad()
    def __call__(self, states: torch.Tensor, seed: int, patches: Sequence[Patch]) -> torch.Tensor:
        rows, now = len(states), 0
        latents = self.start(seed, rows)
        with patching(self.sites, patches, index=lambda row: (rows + row,), step=lambda: now):
            for now in range(self.steps):
                latents = self.advance(latents, now, states)
        return latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (rows, 3, 128, 128) in [0, 1]."""
        return self._pipeline.autoencoder.decode(latents).add(1).div(2).clamp(0, 1)


def make_case(
    pipeline: ShapesPipeline,
    prompt: str,
    subject: str,
    *,
    columns: Sequence[str] = PLACES,
    multiple: float = 3.0,
    draws: int = 1,
    seed: int = 0,
) -> Case:
    """A prompt with its subject hidden by noise, and one draw more for the controls.

    Args:
        columns: which of ``prompts.PLACES`` are restored.

    Raises:
        SubjectError: the subject is not in the prompt.
    """
    reader = PromptTokenizer(pipeline.tokenizer, pad_token=shape.EOS)
    tokens = reader.tokenize(prompt)
    subject_at = find_subject(tokens, subject, reader)[-1]
    ids = torch.tensor([tokens.ids])
    inner = getattr(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    table = inner.embeddings.token_embedding.weight
    noise = gaussian(table[ids[0, list(subject_at)]], tuple(subject_at), multiple=multiple, draws=draws + 1, seed=seed)

    def encode(rows: int) -> torch.Tensor:
        return pipeline.text_encoder(ids.expand(rows, -1)).last_hidden_state

    where = places(tokens, subject_at)
    share = Share("", noise, inner.encoder.layers[0])
    return Case(prompt, subject, (share,), encode, tuple(where[column] for column in columns))
