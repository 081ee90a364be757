"""The tokenizers of text encoders other than CLIP, by the library tokenizers alone: T5's and Qwen's.

ComfyUI has both below ``comfy/text_encoders``, and every diffusers folder has its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Text to token ids, without what a model puts around it.
Tokenize = Callable[[str], list[int]]
# What Qwen cuts a text into before its bytes are paired.
_QWEN_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Of each kind: where ComfyUI keeps it, what diffusers calls it, and tokens that it must have.
_KINDS = {
    "t5": ("t5_tokenizer", ("tokenizer", "tokenizer_2", "tokenizer_3"), {"<pad>": 0, "</s>": 1}),
    "qwen": ("qwen25_tokenizer", ("tokenizer",), {"<|endoftext|>": 151643, "<|im_start|>": 151644}),
}


class TokenizerError(ValueError):
    """No tokenizer of a kind, or one that cannot be read."""


def find_tokenizer(kind: str, *folders: Path | str | None) -> Tokenize:
    """The tokenizer in :func:`tokenizer_folder`."""
    found = _opened(kind, tokenizer_folder(kind, *folders))
    assert found is not None
    return found


def tokenizer_folder(kind: str, *folders: Path | str | None) -> Path:
    """The first folder that has a tokenizer of a kind.

    Looked through: ``folders``, each of which may be a tokenizer's, a diffusers model's or a ComfyUI's, and the ComfyUI
    whose ``custom_nodes`` this pack lies in.

    Args:
        kind: "t5" or "qwen".

    Raises:
        TokenizerError: none has; the message tells how to name one.
    """
    home, inner, _ = _KINDS[kind]
    roots = [Path(folder) for folder in (*folders, Path(__file__).parents[3]) if folder]
    for root in roots:
        for folder in (root, *(root / name for name in inner), root / "comfy" / "text_encoders" / home):
            if _opened(kind, folder) is not None:
                return folder
    raise TokenizerError(
        f"No tokenizer of {kind.capitalize()} found (looked in: {', '.join(map(str, roots))}). Name a folder with its "
        f"tokenizer.json{' or vocab.json and merges.txt' if kind == 'qwen' else ''}, a diffusers folder of this model, "
        "or a ComfyUI's own folder: --tokenizer FOLDER."
    )


def _opened(kind: str, folder: Path) -> Tokenize | None:
    """The tokenizer in a folder; None where there is none of the kind."""
    try:
        made = _read(kind, folder)
    except Exception as error:  # the library raises no narrower one
        raise TokenizerError(f"{folder} holds a tokenizer that cannot be read: {error}") from None
    if made is None or any(made.token_to_id(token) != number for token, number in _KINDS[kind][2].items()):
        return None
    return lambda text: list(made.encode(text).ids)


def _read(kind: str, folder: Path) -> Any:
    from tokenizers import Tokenizer

    if (folder / "tokenizer.json").is_file():
        made = Tokenizer.from_file(str(folder / "tokenizer.json"))
        made.no_truncation()
        made.no_padding()
        return made
    if kind == "qwen" and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _byte_pairs(folder)
    return None


def _byte_pairs(folder: Path) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    made = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    for number, content in sorted(_added(folder)):
        made.add_tokens([AddedToken(content, normalized=False, special=True)])
        if made.token_to_id(content) != number:
            raise ValueError(f"its added token {content!r} has the number {number}, which is not the next one free")
    return made


def _added(folder: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each added token, as tokenizer_config.json has them."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for number, token in config.get("added_tokens_decoder", {}).items():
        yield int(number), token["content"]
