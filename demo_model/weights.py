"""The miniatures on disk: what is shipped, and how it is read.

The parts of each lie in ``demo_model/weights`` in half precision, as safetensors: ``clip`` (its towers),
``autoencoder`` and ``unet``, in Shapes DiT ``t5`` and ``transformer``; the last under diffusers' names. A part of more
than 8 MB lies in several files, named as diffusers names its shards, since ComfyUI's registry scans no file of more
than 10 MB. CLIP's vocabulary has 49,408 words, T5's 32,128, and training reads some two hundred of them, so an
embedding table is shipped as its trained rows; every other row is zero: a word that a miniature never read says
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from . import architecture as shape

REPOSITORY = "https://github.com/diff-quickfix/diff-quickfix"


class Table(NamedTuple):
    """An embedding table in a part, each behind a text encoder's name: the whole, its trained rows, their token ids."""

    whole: str
    rows: str
    ids: str
    size: int

    def keep(self, state: dict[str, torch.Tensor], encoder: str, ids: Iterable[int]) -> None:
        """Put some rows of an encoder's table in the place of the table."""
        kept = torch.tensor(sorted(set(ids)), dtype=torch.int32)
        state[encoder + self.rows], state[encoder + self.ids] = state.pop(encoder + self.whole)[kept.long()], kept

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Put whole tables in the place of their rows."""
        for encoder in [key.removesuffix(self.rows) for key in state if key.endswith(self.rows)]:
            rows, ids = state.pop(encoder + self.rows), state.pop(encoder + self.ids)
            state[encoder + self.whole] = torch.zeros(self.size, rows.shape[1]).index_copy_(0, ids.long(), rows)


CLIP_TABLE = Table(".text_model.embeddings.token_embedding.weight", ".token_rows", ".token_ids", size=shape.VOCABULARY)
T5_TABLE = Table(".shared.weight", ".shared_rows", ".shared_ids", size=shape.T5_VOCABULARY)


def tokenize(
    tokenizer: Any, texts: Sequence[str], *, length: int | None = shape.CONTEXT_LENGTH, pad: int = shape.EOS
) -> torch.Tensor:
    """Token ids of shape (n, length), padded with ``pad``; ``length=None`` cuts at the longest text."""
    rows = tokenizer(list(texts), truncation=True, max_length=shape.CONTEXT_LENGTH)["input_ids"]
    width = length or max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


def load_part(name: str, folder: Path = shape.WEIGHTS) -> dict[str, torch.Tensor]:
    """One part's tensors in fp32, with the embedding tables restored.

    Raises:
        FileNotFoundError: a file of it is not there.
    """
    state = {key: value for path in _files_of(name, folder) for key, value in load_file(path).items()}
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    for table in (CLIP_TABLE, T5_TABLE):
        table.restore(state)
    return state


def files_named(name: str, folder: Path) -> list[Path]:
    """The files of a part that are there, in no order."""
    pattern = rf"{re.escape(name)}(-\d{{5}}-of-\d{{5}})?"
    return [path for path in folder.glob("*.safetensors") if re.fullmatch(pattern, path.stem)]


def _files_of(name: str, folder: Path) -> list[Path]:
    """A part's files: ``name.safetensors``, or all its shards."""
    there = {path.stem: path for path in files_named(name, folder)}
    count = max((int(stem[-5:]) for stem in there if stem != name), default=0)
    wanted = [f"{name}-{number:05}-of-{count:05}" for number in range(1, count + 1)] or [name]
    missing = [f"{stem}.safetensors" for stem in wanted if stem not in there]
    if missing:
        remedy = "Install the pack again, or run `make train`."
        if shape.WEIGHTS in folder.parents:
            inside = folder.relative_to(shape.WEIGHTS).as_posix()
            model = next((name for name, one in shape.ARCHITECTURES.items() if one.folder == folder), "xl")
            remedy = (
                f"They are no part of the pack's upload: copy the folder demo_model/weights/{inside} from "
                f"{REPOSITORY}, or run `make train MODEL={model}` in a clone of it."
            )
        raise FileNotFoundError(f"Shapes' weights are missing: {', '.join(missing)} in {folder}. {remedy}")
    return [there[stem] for stem in wanted]
