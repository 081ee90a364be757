"""CLIP's byte-pair vocabulary, and its tokenizer. The first is not in this repository: ComfyUI and every diffusers
folder bring it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

_START, _END = "<|startoftext|>", "<|endoftext|>"
# What CLIP cuts a text into before its bytes are paired: contractions, runs of letters, single digits, other signs.
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def find_vocabulary(*folders: Path | str | None) -> Path:
    """The first folder that holds CLIP's ``vocab.json`` and ``merges.txt``.

    Looked through: ``folders``, ``$SHAPES_TOKENIZER``, the ComfyUI of ``$COMFYUI_PATH``, the one whose ``custom_nodes``
    this pack lies in, and an importable ``comfy`` package.

    Raises:
        FileNotFoundError: none does; the message tells how to name one.
    """
    candidates = [str(folder) for folder in (*folders, os.environ.get("SHAPES_TOKENIZER")) if folder]
    roots = [os.environ.get("COMFYUI_PATH"), Path(__file__).parents[3]]
    candidates += [os.path.join(root, "comfy", "sd1_tokenizer") for root in roots if root]
    spec = importlib.util.find_spec("comfy")
    if spec is not None:
        candidates += [os.path.join(folder, "sd1_tokenizer") for folder in spec.submodule_search_locations or ()]
    for folder in map(Path, candidates):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return folder
    raise FileNotFoundError(
        f"No CLIP vocabulary found (looked in: {', '.join(candidates)}). Name a folder with vocab.json and merges.txt: "
        "ComfyUI's comfy/sd1_tokenizer, or the tokenizer folder of any Stable Diffusion model. The shell takes it as "
        "--tokenizer FOLDER; all else reads the variable SHAPES_TOKENIZER, or COMFYUI_PATH, the folder of a ComfyUI."
    )


class ClipTokenizer:
    """CLIP's tokenizer by the library tokenizers alone, called like transformers' and giving the same tokens.

    Importing transformers takes longer than an edit.

    Args:
        folder: with CLIP's ``vocab.json`` and ``merges.txt``.

    Raises:
        ValueError: the files cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

        vocabulary, merges = (str(Path(folder) / name) for name in ("vocab.json", "merges.txt"))
        try:
            pairs = models.BPE.from_file(vocabulary, merges, unk_token=_END, end_of_word_suffix="</w>")
        except Exception as error:  # the library raises no narrower one
            raise ValueError(f"{folder} holds no vocabulary of CLIP that can be read: {error}") from None
        self._tokenizer = Tokenizer(pairs)
        self._tokenizer.add_special_tokens([_START, _END])
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        start, end = ((token, cast(int, self._tokenizer.token_to_id(token))) for token in (_START, _END))
        self._tokenizer.post_processor = processors.BertProcessing(end, start)

    def __call__(self, texts: str | Sequence[str]) -> dict[str, Any]:
        """``input_ids`` of a text, or of each of several, between the start and the end token."""
        if isinstance(texts, str):
            return {"input_ids": self._tokenizer.encode(texts).ids}
        return {"input_ids": [found.ids for found in self._tokenizer.encode_batch(list(texts))]}

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens' texts, in the alphabet that stands for bytes."""
        return [self._tokenizer.id_to_token(number) or "" for number in ids]


def clip_tokenizer(*folders: Path | str | None) -> Any:
    """The CLIP tokenizer of transformers, from :func:`find_vocabulary`."""
    from transformers import CLIPTokenizer

    # By folder: given the two files by name, transformers 5 silently maps every word to "unknown".
    return CLIPTokenizer.from_pretrained(find_vocabulary(*folders))
