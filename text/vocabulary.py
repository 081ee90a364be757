"""CLIP's byte-pair vocabulary, and its tokenizer. The first is not in this repository: ComfyUI and every diffusers
folder bring it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
# What CLIP cuts a text into before its bytes are paired: contractions, runs of letters, single digits, other signs.
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def find_vocabulary(*folders: Path | str | None) -> Path:
    """The first folder that holds CLIP's vocabulary (see :func:`holds_vocabulary`).

    Looked through: ``folders``, each of which may also be a ComfyUI's own, a folder ``vocabulary`` in the pack's, and
    the ComfyUI whose ``custom_nodes`` this pack lies in.

    Raises:
        FileNotFoundError: none does; the message tells how to name one.
    """
    pack = Path(__file__).parents[1]
    roots = [Path(folder) for folder in (*folders, pack / "vocabulary", pack.parents[1]) if folder]
    for folder in (place for root in roots for place in (root, root / "comfy" / "sd1_tokenizer")):
        if holds_vocabulary(folder):
            return folder
    raise FileNotFoundError(
        f"No CLIP vocabulary found (looked in: {', '.join(map(str, roots))}). Name a folder with vocab.json and "
        "merges.txt, such as the tokenizer folder of any Stable Diffusion model, or a ComfyUI's own folder, or copy "
        'the two files to a folder "vocabulary" in the pack\'s own. To edit, the shell takes it as --tokenizer FOLDER.'
    )


def holds_vocabulary(folder: Path) -> bool:
    """Whether a folder has CLIP's ``vocab.json`` and ``merges.txt``, or, as transformers 5 writes it, a
    ``tokenizer.json`` alone."""
    both = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return both or (folder / "tokenizer.json").is_file()


def _read(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, int]]:
    """The numbers of byte pairs, the merges in order, and the numbers of added tokens."""
    whole = _json(folder / "tokenizer.json")
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        words = _json(folder / "vocab.json")
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges: list[Any] = [line for line in lines if line.strip() and not line.startswith("#version")]
    else:
        model = whole["model"]
        if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != _WORD_END:
            raise ValueError("tokenizer.json is not CLIP's: expected byte pairs whose words end in </w>")
        words, merges = model["vocab"], model["merges"]
    if _START not in words or _END not in words:
        raise ValueError(f"{_START} or {_END} is missing")
    added = {token["content"]: token["id"] for token in whole.get("added_tokens", ())}
    added |= _json(folder / "added_tokens.json")
    named = _json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
    added |= {token["content"]: int(number) for number, token in named.items()}
    split = (merge.split() if isinstance(merge, str) else merge for merge in merges)
    pairs = [(first, second) for first, second in split]
    return words, pairs, added


def _json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


class ClipTokenizer:
    """CLIP's tokenizer by the library tokenizers alone, called like transformers' and giving the same tokens.

    Importing transformers takes longer than an edit.

    Args:
        folder: with CLIP's ``vocab.json`` and ``merges.txt``, or a ``tokenizer.json`` that holds them; added tokens
            are read from the files that transformers keeps them in.

    Raises:
        ValueError: the files cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

        try:
            words, merges, added = _read(Path(folder))
            pairs = models.BPE(words, merges, unk_token=_END, end_of_word_suffix=_WORD_END)
        except Exception as error:  # the library raises no narrower one
            raise ValueError(f"{folder} holds no vocabulary of CLIP that can be read: {error}") from None
        self._tokenizer = Tokenizer(pairs)
        self._tokenizer.add_special_tokens([_START, _END])
        self._added = {token: number for token, number in added.items() if token not in words}
        self._tokenizer.add_tokens(sorted(self._added, key=lambda token: self._added[token]))
        for token, number in self._added.items():
            if self._tokenizer.token_to_id(token) != number:
                raise ValueError(
                    f"{folder} gives the added token {token!r} the number {number}, which is not the next one free. "
                    "Save the tokenizer again."
                )
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

    def get_added_vocab(self) -> dict[str, int]:
        """Tokens that the vocabulary has beyond CLIP's own, such as those of textual inversion."""
        return dict(self._added)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens' texts, in the alphabet that stands for bytes."""
        return [self._tokenizer.id_to_token(number) or "" for number in ids]


def clip_tokenizer(*folders: Path | str | None) -> Any:
    """The CLIP tokenizer of transformers, from :func:`find_vocabulary`."""
    from transformers import CLIPTokenizer

    # By folder: given the two files by name, transformers 5 silently maps every word to "unknown".
    return CLIPTokenizer.from_pretrained(find_vocabulary(*folders))
