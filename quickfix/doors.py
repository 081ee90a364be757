"""From concepts to one edit of all doors of an image model that read its text states.

One solve gives the map X of the text states (``encoder/states.py``); the update of each door is W X = (W U) V with
X = U V, of the map's own rank and with a factor V that all doors share. The pooled vector of a whole prompt has a map
of its own, of one state a caption.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from ..families.doors import Door, DoorError
from ..text.captions import expand
from ..text.prompts import PromptTokenizer
from ..text.subjects import naming_any
from .concepts.concept import ConceptEdit
from .concepts.settings import EditSettings
from .edit import compute_edit
from .encoder.states import StateTower
from .measure.weight_edit import DoorUpdate, WeightEdit, weight_hash
from .solver.closed_form import preserved_gram, solve_residuals
from .solver.low_rank import LowRank, reached

# Prompts to their pooled vectors (n, width).
ReadPooled = Callable[[Sequence[str]], torch.Tensor]
# A door's name to its weight.
ReadWeight = Callable[[Door], torch.Tensor]


@torch.no_grad()
def edit_doors(
    tower: StateTower,
    tokenizer: PromptTokenizer,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings,
    doors: Sequence[Door],
    read_weight: ReadWeight,
    *,
    read_pooled: ReadPooled | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WeightEdit:
    """Compute the edit of some concepts at some doors; no model is changed.

    Args:
        doors: those to edit, of one family; none for an edit that is applied to a conditioning alone, of which the
            pooled vector is then edited too, where one can be read.
        read_weight: gives the weight of a door, (d_out, d_in), of any float type, wherever it lies.
        read_pooled: gives the pooled vectors of prompts; needed where a pooled door is among the doors.

    Raises:
        DoorError: a door's weight has another shape or is not finite; a pooled door, and nothing reads pooled vectors.
        For the others, see :func:`compute_edit`.
    """
    edit = compute_edit(tower, tokenizer, concepts, settings, progress=progress)
    return with_doors(edit, tokenizer, doors, read_weight, read_pooled)


@torch.no_grad()
def with_doors(
    edit: WeightEdit,
    tokenizer: PromptTokenizer,
    doors: Sequence[Door],
    read_weight: ReadWeight,
    read_pooled: ReadPooled | None = None,
) -> WeightEdit:
    """A solved edit of the text states at some doors, with the map of the pooled vector where that is edited (see
    :func:`edit_doors` for the arguments and errors)."""
    pooled = None
    if any(door.kind == "pooled" for door in doors) or (not doors and read_pooled is not None):
        if read_pooled is None:
            raise DoorError("A pooled door cannot be edited: this text encoder gives no pooled vector. Leave it out.")
        pooled, share = pooled_map(read_pooled, tokenizer, edit.concepts, edit.settings)
        edit = dataclasses.replace(edit, report=dataclasses.replace(edit.report, pooled=share))
    return at_doors(dataclasses.replace(edit, pooled=pooled), doors, read_weight)


@torch.no_grad()
def at_doors(edit: WeightEdit, doors: Sequence[Door], read_weight: ReadWeight) -> WeightEdit:
    """An edit of text states at the doors of a model: with the updates that W X gives.

    Raises:
        DoorError: a door that reads states of another width, a weight of another shape or not finite.
    """
    updates: list[DoorUpdate] = []
    base = ""
    for door in doors:
        part = edit.pooled if door.kind == "pooled" else LowRank(edit.up, edit.down)
        if part is None:
            raise DoorError(f"The edit holds nothing for the pooled door {door.name}. Make it with pooled doors.")
        weight = read_weight(door)
        if tuple(weight.shape) != door.shape or door.width != part.down.shape[1]:
            raise DoorError(
                f"{door.weight} is {' x '.join(map(str, weight.shape))}; expected {door.shape[0]} x {door.shape[1]} "
                f"with {part.down.shape[1]} columns for the prompt. The edit was made for another kind of model "
                f"({edit.encoder})."
            )
        base = base or weight_hash(weight)
        updates.append(DoorUpdate(door, up_factor(door, weight, part)))
    parts = [LowRank(edit.up, edit.down), *([edit.pooled] if edit.pooled is not None else [])]
    nbytes = sum(update.up.nbytes for update in updates) + sum(part.down.nbytes for part in parts)
    report = dataclasses.replace(edit.report, doors=len(updates), nbytes=nbytes)
    return dataclasses.replace(edit, base=base, doors=tuple(updates), report=report)


def up_factor(door: Door, weight: torch.Tensor, part: LowRank) -> torch.Tensor:
    """W U (d_out, rank) of a map X = U V, in fp32 on the CPU; zeros in the rows that are not the door's.

    Raises:
        DoorError: the weight is not finite.
    """
    columns, rows = slice(*(door.columns or (None,))), slice(*(door.rows or (None,)))
    # From this side the few columns of U cost a third of what W U does.
    own = F.linear(part.up.T.contiguous().to(weight.device), weight[rows, columns].float()).T.cpu().contiguous()
    if not torch.isfinite(own).all():
        raise DoorError(f"{door.weight} holds NaN or infinity; the model file is damaged. Load another copy.")
    if door.rows is None:
        return own
    up = torch.zeros(door.shape[0], part.rank)
    up[rows] = own
    return up


def pooled_map(
    read_pooled: ReadPooled, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], settings: EditSettings
) -> tuple[LowRank, float]:
    """The map of the pooled vector, and how far it takes the concepts' captions to those of their targets, 0 to 1.

    A caption has one pooled vector, which is the source's key and wants the target's. Lambda is relative to the mean
    square of the preserved ones.
    """
    sources = [text for concept in concepts for text in expand(concept.templates or (), concept.source)]
    targets = [text for concept in concepts for text in expand(concept.templates or (), concept.target or "")]
    naming = naming_any(settings.preserve, [concept.source for concept in concepts], tokenizer)
    kept = [prompt for prompt in dict.fromkeys(("", *settings.preserve, *settings.hold)) if prompt not in naming]
    rows = read_pooled([*sources, *targets, *kept]).float()
    scale = rows[2 * len(sources) :].double().square().sum(1).mean().sqrt().clamp_min(1e-12).float()
    keys, wanted, preserved = (rows / scale).split([len(sources), len(targets), len(kept)])
    weights = torch.tensor([concept.weight for concept in concepts for _ in concept.templates or ()])
    update = solve_residuals(
        keys,
        wanted - keys,
        lam=settings.lam or 0.01,
        kept=preserved_gram(preserved, settings.preserve_weight),
        pair_weights=weights.to(keys.device),
    )
    share = reached(keys, wanted - keys, update)
    return LowRank(update.up.cpu(), update.down.cpu()), share
