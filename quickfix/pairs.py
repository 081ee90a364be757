"""Which token of a source caption is paired with which token of its target caption."""

from __future__ import annotations

from ..prompts import PromptError, PromptTokenizer, last_subject_token

LAST = "last subject token"
LAST_AND_PADDING = "last subject token and padding"
POSITIONS = (LAST, LAST_AND_PADDING)


def pair_positions(source: int, target: int, length: int, positions: str) -> list[tuple[int, int]]:
    """Source positions s + j paired with target positions t + j; where the target runs out, with its last position.

    Args:
        source, target: the last subject tokens, s and t.
        length: positions of the encoder.
        positions: one of :data:`POSITIONS`; with "last subject token" only j = 0.
    """
    if positions not in POSITIONS:
        raise PromptError(f"Unknown positions {positions!r}; expected one of: {', '.join(POSITIONS)}.")
    last = source + 1 if positions == LAST else length
    return [(place, min(target + place - source, length - 1)) for place in range(source, last)]


def caption_pairs(
    source: str, target: str, captions: list[tuple[str, str]], tokenizer: PromptTokenizer, positions: str
) -> tuple[list[tuple[int, ...]], list[tuple[int, int]]]:
    """Tokenize (source caption, target caption) pairs and pair up their positions.

    Returns:
        The token ids of all captions (source and target alternating), and for each pair the two flat indices
        (caption * context length + position) into them.

    Raises:
        SubjectError: a concept does not stand whole in its caption.
    """
    texts = [text for pair in captions for text in pair]
    prompts = tokenizer.tokenize_all(texts)
    length = tokenizer.context_length
    pairs = []
    for index in range(0, len(prompts), 2):
        s = last_subject_token(prompts[index], source, tokenizer)
        t = last_subject_token(prompts[index + 1], target, tokenizer)
        pairs += [
            (index * length + a, (index + 1) * length + b) for a, b in pair_positions(s, t, length, positions)
        ]
    return [prompt.ids for prompt in prompts], pairs
