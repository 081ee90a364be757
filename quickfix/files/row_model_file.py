"""Image models in files that read other text encoders than CLIP, or CLIP beside them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...families.clip import ENCODERS
from ...families.doors import Door
from ...text.other_tokenizers import find_tokenizer
from ...text.prompts import PromptTokenizer
from ...text.rows import RowTokenizer
from ..encoder.decoder_tower import DecoderTower
from ..encoder.fronts.opened import ClipPart, open_states, require_text
from ..encoder.joined_states import JoinedStates
from ..encoder.row_states import RowReading, RowStates, row_tokenizer
from ..encoder.t5_tower import T5Tower
from .image_model_file import ImageModelFile
from .row_encoder_file import PartWeights
from .text_encoder_file import ModelFileError, TextEncoderFile


@dataclass(frozen=True)
class RowModelFile(ImageModelFile):
    """An image model that reads another text encoder than CLIP.

    Attributes:
        encoders: the CLIPs that are read too, where they are there: CLIP-L of Flux.1 for its pooled vector, CLIP-L and
            CLIP-G of Stable Diffusion 3.
        text: the text encoder.
        reading: how the image model reads it.
        folders: where tokenizers may lie.
        own_projections: whether a pooled vector is projected wherever the text encoder has a projection, as diffusers
            does; ComfyUI takes CLIP-L's as it is.
    """

    text: DecoderTower | T5Tower = field(kw_only=True)
    reading: RowReading = field(kw_only=True)
    folders: tuple[Path, ...] = field(kw_only=True, default=())
    own_projections: bool = field(kw_only=True, default=False)

    def tokenizer(self, *folders: Path | str | None) -> PromptTokenizer:
        """The tokenizer of the text encoder: of the first of some folders that has one, else the model's own, else a
        ComfyUI's (:func:`~.text.other_tokenizers.find_tokenizer` for the errors)."""
        kinds = {self.reading.kind, "t5"} if self.reading.beside else {self.reading.kind}
        found = {kind: find_tokenizer(kind, *folders, *self.folders) for kind in kinds}
        behind = self._clip_tokenizer(self.encoders[0], *folders) if self.family.layout == "behind" else None
        return row_tokenizer(self.reading, self.family, found, behind)

    @property
    def states_width(self) -> int:
        """How wide the states are that the doors are given (DoorError: they are not this text encoder's)."""
        return require_text(self.family, self.shapes(), self.text)

    def prompt_states(
        self, tokenizer: PromptTokenizer, device: torch.device | None = None, folder: Path | str | None = None
    ) -> RowStates | JoinedStates:
        """What its doors read, computed by the text encoders and the modules before the doors; see the base's."""
        assert isinstance(tokenizer, RowTokenizer)
        text = self.text if device is None else dataclasses.replace(self.text, device=device)
        clips = [self._clip(one, device, folder) for one in self.encoders]
        return open_states(self.family, self.reading, text, tokenizer, PartWeights(self.file, self.prefix), clips)

    def _clip(self, clip: TextEncoderFile, device: torch.device | None, folder: Path | str | None) -> ClipPart:
        tower = clip.whole_tower() if device is None else dataclasses.replace(clip.whole_tower(), device=device)
        projected = clip.encoder.endswith("clip_g") or (self.own_projections and self.family.layout == "behind")
        return ClipPart(
            tower,
            ENCODERS[clip.encoder].pad_token,
            self._clip_tokenizer(clip, folder),
            clip.text_projection if projected else None,
        )

    def _clip_tokenizer(self, clip: TextEncoderFile, *folders: Path | str | None) -> PromptTokenizer:
        # A folder may hold the other text encoder's tokenizer alone.
        roots = [Path(root) for root in (*folders, *self.folders) if root]
        return clip.tokenizer(*(r for r in roots if (r / "comfy").is_dir() or (r / "merges.txt").is_file()))

    def _checked(self, doors: tuple[Door, ...]) -> tuple[Door, ...]:
        if not self.encoders and any(door.kind == "pooled" for door in doors):
            raise ModelFileError(
                f"{self.family.title} reads a pooled vector of CLIP-L too, which is not in {self.file.path.name}. Name "
                "its file with another --text-encoder FILE, or the other maps alone with --doors."
            )
        return super()._checked(doors)
