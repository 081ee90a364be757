"""A prompt whose subject is hidden from ComfyUI's CLIP: its tokens, the corruption, clean and restored text states."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch

from ....families.sites import Site, select
from ....text.subjects import SubjectError
from ....tracing.runs.cases import Case, Restoration, Spots, encode_rows
from ....tracing.runs.corruption import ALL_ENCODERS, CorruptionSettings
from ....tracing.runs.readings import Reading, shares_of
from ..objects import Clip, Conditioning
from .encoders import TracedEncoder, open_encoders
from .readings import read_prompt
from .side_by_side import Encoding


@dataclass(frozen=True)
class CorruptedPrompt:
    """What the socket CORRUPTION carries: a prompt, where its subject stands, and the noise that hides it.

    Attributes:
        case: the prompt for the tracer.
        encoding: encodes it, by the user's own CLIP.
        readings: how each corrupted text encoder reads it.
    """

    case: Case
    encoding: Encoding
    readings: tuple[Reading[TracedEncoder], ...]

    @property
    def clip(self) -> Clip:
        """The CLIP that encodes it."""
        return self.encoding.clip

    @property
    def subject(self) -> range:
        """The subject's token positions in the first text encoder."""
        return self.readings[0].subject

    @property
    def options(self) -> tuple[Mapping[str, Any], ...]:
        """What stands in each entry of the prompt's CONDITIONING for every row alike: hooks, masks, and the part of the
        sampling that it is for."""
        return tuple(entry.options for entry in self.encoding.entries)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of the corrupted text encoders, one encoder after another; pooled vectors only where the
        CONDITIONING holds them."""
        pooled = self.encoding.pooled - {""}
        encoders = [reading.encoder for reading in self.readings]
        return tuple(site for one in encoders for site in one.sites(pooled=one.name in pooled))

    def encode(self, rows: Sequence[Restoration]) -> torch.Tensor:
        """Some rows as :meth:`Encoding.rows` packs them."""
        return encode_rows(self.case, {site.name: site for site in self.sites}, rows)

    def conditioning(self, restoration: Restoration) -> Conditioning:
        """One row as a CONDITIONING."""
        return self.encoding.conditioning(self.encode([restoration]))

    def restored(self, layer: int, kind: str, place: str, encoder: str = ALL_ENCODERS) -> Conditioning:
        """The corrupted prompt with one layer's sites put back at one place, as a CONDITIONING.

        Args:
            kind: one of :data:`~.families.text_stacks.SITE_KINDS`. A pooled vector has no layer and no place.
            encoder: in which text encoder; all: in each of the corrupted ones that has the layer and the place.

        Raises:
            SiteError: no such layer.
            SubjectError: the place is empty in this prompt.
        """
        number = "" if kind == "pooled" else f"{layer}."
        names = [
            f"text.{one.encoder.name + '.' if one.encoder.name else ''}{number}{kind}"
            for one in self.readings
            if encoder in (ALL_ENCODERS, one.encoder.name) or (not one.encoder.name and encoder == one.encoder.stream)
        ]
        if not names:
            there = ", ".join(one.encoder.name or one.encoder.stream for one in self.readings)
            raise SubjectError(f"The text encoder {encoder!r} is not corrupted; choose one of {there}.")
        sites = select(self.sites, names=", ".join(names))
        spots = self.positions(place)
        kept = [site for site in sites if site.kind == "pooled" or spots[site.encoder] != ()]
        if not kept:
            raise self._empty(place)
        return self.conditioning(Restoration(0, tuple(site.name for site in kept), spots))

    def positions(self, place: str) -> dict[str, Spots]:
        """Token positions of one of :data:`~.text.subjects.PLACES`, by text encoder; None for all of them.

        Raises:
            SubjectError: the place is empty in this prompt.
        """
        found = {one.encoder.name: one.places()[place] for one in self.readings}
        if all(spots == () for spots in found.values()):
            raise self._empty(place)
        return found

    def _empty(self, place: str) -> SubjectError:
        return SubjectError(f"The prompt {self.case.prompt!r} has no token at the place {place!r}; choose another.")


def corrupt_prompt(
    clip: Clip, prompt: str, subject: str, settings: CorruptionSettings | None = None
) -> CorruptedPrompt:
    """Find the subject among a prompt's tokens, in each text encoder, and draw the noise that hides it.

    All occurrences of the subject are corrupted; the last one is the subject that places are counted from. The
    corruption holds one draw more than is traced: the control's donor. Each encoder has noise of its own, by its own
    embeddings.

    Raises:
        PromptError: "embedding:" without a name, or in an encoder that is no CLIP.
        SubjectError: the subject is not in the prompt, in several of its parts, or over the seam of two.
        UnsupportedEncoderError: a text encoder that cannot be traced, or none of the chosen name.
        EncodingError: ComfyUI does not run a chosen encoder for this prompt.
        CorruptionError: the noise is empty, or the replacing words have more tokens than the subject.
    """
    settings = settings or CorruptionSettings()
    encoders = open_encoders(clip, prompt, settings.encoder)
    if any(encoder.stack.shape != "clip" for encoder in encoders):
        prompt = unicodedata.normalize("NFC", prompt)
    readings = tuple(read_prompt(clip, one, prompt, subject, settings.replaced_by) for one in encoders)
    # Loaded first: patched embeddings are the ones that the encoder will see.
    comfy.model_management.load_models_gpu([clip.patcher])
    shares = shares_of(readings, settings, clip.patcher.load_device)
    encoding = Encoding.of(clip, prompt, encoders, every=settings.encoder == ALL_ENCODERS)
    case = Case(prompt, subject, shares, encoding.rows, given=encoding.conditioning)
    return CorruptedPrompt(case, encoding, readings)
