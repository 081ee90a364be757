"""Causal attention over captions that share their padding.

At layer 0 a token's query, key and value depend on the token and its position alone, so captions whose padding begins
at the same position share every padding row. With B the positions before the padding and T the padding so far,

    softmax(q [k_B k_T]) [v_B v_T] = softmax([q k_B, log sum exp(q k_T)]) [v_B, softmax(q k_T) v_T]

and the two terms over T are the same for all of them: computed once, and a caption costs its few words.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

# Captions attended at once: their rows should fit into a processor's cache.
_CAPTIONS = 64
# A shorter run of one token at a caption's end is not worth a group of its own.
_SHORTEST_TAIL = 8


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Causal attention of the last ``q.shape[1]`` positions over all of ``k`` and ``v``; (n, length, width)."""
    length, start = k.shape[1], k.shape[1] - q.shape[1]
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    mask = torch.ones(length, length, dtype=torch.bool, device=k.device).tril()[start:] if start else None
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return out.transpose(1, 2).flatten(2)


def attend_rows(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lookup: torch.Tensor, ids: torch.Tensor, heads: int, start: int
) -> torch.Tensor:
    """Causal attention of captions given as rows of shared queries, keys and values.

    Args:
        q, k, v: (rows, width).
        lookup: (n, length), the row of each caption's positions.
        ids: (n, length), their tokens; equal tokens at one position have one row.
        start: the first position wanted.

    Returns:
        (n, length - start, width).
    """
    length = lookup.shape[1]
    out = q.new_empty(len(lookup), length - start, q.shape[-1])
    for begin, part in _groups(ids):
        body = lookup[part, :begin]
        keys, values = k[body], v[body]
        if begin > start:
            out[part, : begin - start] = attend(q[body[:, start:]], keys, values, heads)
        if begin < length:
            first = max(begin, start)
            tail = lookup[part[0]]
            shared = tail[begin:]
            out[part, first - start :] = _over_tail(q[tail[first:]], k[shared], v[shared], keys, values, heads)
    return out


def attend_prefixes(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lookup: torch.Tensor, own: torch.Tensor, heads: int
) -> torch.Tensor:
    """Causal attention of distinct beginnings of prompts, each over those that it goes on from.

    Args:
        q, k, v: (beginnings, width).
        lookup: (n, length), rows of beginnings, each one token longer than that before it.
        own: (n, length) of bool, where a row holds a beginning in its own place; what stands elsewhere fills it up.

    Returns:
        (beginnings, width).
    """
    out = torch.empty_like(q)
    for rows, there in zip(lookup.split(_CAPTIONS), own.split(_CAPTIONS), strict=True):
        out[rows[there]] = attend(q[rows], k[rows], v[rows], heads)[there]
    return out


def _groups(ids: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Where the padding begins (at the end, where there is hardly any), and the captions that share it."""
    if not ids.numel():
        return
    length = ids.shape[1]
    places = torch.arange(1, length + 1, device=ids.device)
    begins = ((ids != ids[:, -1:]) * places).amax(1)
    kinds = torch.stack((begins, ids[:, -1]), 1)
    kinds[begins > length - _SHORTEST_TAIL] = length
    distinct, index = kinds.unique(dim=0, return_inverse=True)
    for number, begin in enumerate(distinct[:, 0].tolist()):
        for part in (index == number).nonzero()[:, 0].split(_CAPTIONS):
            yield begin, part


def _over_tail(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    body_keys: torch.Tensor,
    body_values: torch.Tensor,
    heads: int,
) -> torch.Tensor:
    """Attention of the last positions of a shared tail, (n, positions, width).

    Args:
        q: (positions, width), the last rows of the tail.
        k, v: (tail, width), all of it.
        body_keys, body_values: (n, body, width), what stands before it.
    """
    count, size, _ = body_keys.shape
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (q, k, v))
    q = q * q.shape[-1] ** -0.5
    later = torch.ones(k.shape[1], k.shape[1], dtype=torch.bool, device=k.device).triu(1)[-q.shape[1] :]
    scores = (q @ k.transpose(1, 2)).masked_fill(later, -torch.inf)
    total, mean = scores.logsumexp(-1), scores.softmax(-1) @ v
    words = q @ body_keys.flatten(0, 1).unflatten(-1, (heads, -1)).permute(1, 2, 0)
    words = words.unflatten(-1, (count, size))
    both = torch.cat((words, total[:, :, None, None].expand(-1, -1, count, 1)), -1).softmax(-1).permute(2, 0, 1, 3)
    values = body_values.unflatten(-1, (heads, -1)).transpose(1, 2)
    out = (both[..., :size] @ values).addcmul_(both[..., size:], mean)
    return out.transpose(1, 2).flatten(2)
