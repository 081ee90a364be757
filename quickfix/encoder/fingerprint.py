"""What a text encoder does, as a hash: tells whether sums of its keys still hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from ...text.prompts import PromptTokenizer
from .towers import Tower

# Captions that are run.
_RUN = 16


@torch.no_grad()
def fingerprint(
    tower: Tower, tokenizer: PromptTokenizer, names: Sequence[str], captions: Sequence[str], layer: int
) -> str:
    """SHA-256 of the tokens of some names, of these tokens' embeddings, and of the keys of a sample of their captions.

    Weights are not read one by one: what they make of the captions stands for them, and with it the clip skip, the
    patches that the encoder was given and the type that it computes in. Another bit in any of these is another hash.
    Embeddings, which a sample of captions would miss, are hashed for all names, as the mean over each name's tokens.

    Args:
        names, captions: at least one of each.
        layer: whose keys are hashed.
    """
    digest = hashlib.sha256(f"{tower.encoder} {tower.out_proj_name(layer)} {tower.width} {len(names)}".encode())
    words = [ids or (0,) for ids in tokenizer.word_ids_all(list(names))]
    digest.update(repr(words).encode())
    _add(digest, tower.mean_embeddings(words))
    sample = list(captions[:: -(-len(captions) // _RUN)])
    rows = [prompt.ids for prompt in tokenizer.tokenize_all(sample)]
    digest.update(repr(rows).encode())
    _add(digest, tower.attention_inputs(rows, layer))
    return digest.hexdigest()


def _add(digest: hashlib._Hash, values: torch.Tensor) -> None:
    digest.update(values.detach().to("cpu", torch.float32).contiguous().numpy().data)
