"""UNets with cross-attention: Stable Diffusion 1.x and 2.x, SDXL and its refiner, in ComfyUI's and diffusers' trees.

Keys and values of every cross-attention (``attn2.to_k``, ``attn2.to_v``) read the text states as they are: nothing of
the picture, of the time step or of the pooled vector is in them. SDXL's ``label_emb`` reads the pooled vector of its
second text encoder with six sizes behind it, the refiner's with five numbers; only the prompt's columns are a door's.
Read in ComfyUI's ``openaimodel.py``, ``attention.py`` and ``model_base.py`` and in diffusers' ``unet_2d_condition.py``;
checked by perturbation of small models with random weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ..door import Place, Refusal, Shapes, Sign, width_of
from ..family import Family

# ComfyUI embeds each of SDXL's sizes, crops and scores in so many numbers.
_WIDTH_OF_A_SIZE = 256
_POOLED = ("label_emb.0.0", "add_embedding.linear_1")


def _places(shapes: Shapes, tree: str) -> tuple[Place, ...]:
    """Keys and values of the cross-attentions, block by block in the order in which they run."""
    blocks = list(_comfyui_blocks(shapes) if tree == "comfyui" else _diffusers_blocks(shapes))
    ends = [(kind, f".transformer_blocks.{{}}.attn2.to_{kind[0]}") for kind in ("key", "value")]
    return tuple(
        Place(kind, comfyui + end, diffusers + end, order=order)
        for order, (comfyui, diffusers) in enumerate(blocks)
        for kind, end in ends
    )


def _sdxl_places(shapes: Shapes, tree: str) -> tuple[Place, ...]:
    sizes = 6 * _WIDTH_OF_A_SIZE
    return (*_places(shapes, tree), Place("pooled", *_POOLED, columns=lambda shape: (0, shape[1] - sizes)))


def _refiner_places(shapes: Shapes, tree: str) -> tuple[Place, ...]:
    sizes = 5 * _WIDTH_OF_A_SIZE
    return (*_places(shapes, tree), Place("pooled", *_POOLED, columns=lambda shape: (0, shape[1] - sizes)))


# --- what both trees call a block ------------------------------------------------------------------------------------


def _comfyui_blocks(shapes: Shapes) -> Iterator[tuple[str, str]]:
    """Each attention's path in ComfyUI's tree and in diffusers'.

    ComfyUI numbers the blocks of a way through. On the way down a level ends with a block that halves the size, on the
    way up with one that also doubles it.
    """
    counts = {way: _numbers(shapes, rf"{way}_blocks\.(\d+)\.") for way in ("input", "output")}
    attentions = {name.partition(".transformer_blocks.")[0] for name in shapes if ".attn2.to_" in name}
    level = row = 0
    for number in counts["input"]:
        if number == 0:
            continue
        if f"input_blocks.{number}.0.op.weight" in shapes:
            level, row = level + 1, 0
            continue
        if (path := f"input_blocks.{number}.1") in attentions:
            yield path, f"down_blocks.{level}.attentions.{row}"
        row += 1
    if "middle_block.1" in attentions:
        yield "middle_block.1", "mid_block.attentions.0"
    level = row = 0
    for number in counts["output"]:
        if (path := f"output_blocks.{number}.1") in attentions:
            yield path, f"up_blocks.{level}.attentions.{row}"
        row += 1
        if any(f"output_blocks.{number}.{part}.conv.weight" in shapes for part in (1, 2)):
            level, row = level + 1, 0


def _diffusers_blocks(shapes: Shapes) -> Iterator[tuple[str, str]]:
    """Each attention's path in ComfyUI's tree and in diffusers'."""
    attentions = {name.partition(".transformer_blocks.")[0] for name in shapes if ".attn2.to_" in name}
    number = 1
    for level in _numbers(shapes, r"down_blocks\.(\d+)\."):
        for row in _numbers(shapes, rf"down_blocks\.{level}\.resnets\.(\d+)\."):
            if (path := f"down_blocks.{level}.attentions.{row}") in attentions:
                yield f"input_blocks.{number}.1", path
            number += 1
        number += 1
    if "mid_block.attentions.0" in attentions:
        yield "middle_block.1", "mid_block.attentions.0"
    number = 0
    for level in _numbers(shapes, r"up_blocks\.(\d+)\."):
        for row in _numbers(shapes, rf"up_blocks\.{level}\.resnets\.(\d+)\."):
            if (path := f"up_blocks.{level}.attentions.{row}") in attentions:
                yield f"output_blocks.{number}.1", path
            number += 1


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    return sorted({int(found.group(1)) for name in shapes if (found := re.match(pattern, name))})


# --- which of them it is ---------------------------------------------------------------------------------------------


def _context(shapes: Shapes) -> int:
    """The width of the text states; 0 for what is no such UNet."""
    widths = {width_of(shapes, name) for name in shapes if name.endswith(".attn2.to_k.weight")}
    # Video models of this form read pictures where these read text.
    if len(widths) != 1 or any(".time_stack." in name or ".temporal_transformer_blocks." in name for name in shapes):
        return 0
    return widths.pop()


def _reads_text(shapes: Shapes) -> bool:
    """Stable Diffusion 1.x and 2.x: attention on the outermost level, and no pooled text vector there."""
    return bool(_context(shapes)) and (
        any(name.startswith(("input_blocks.1.1.transformer_blocks.", "down_blocks.0.attentions.")) for name in shapes)
        or not any(f"{path}.weight" in shapes for path in _POOLED)
    )


def _pooled_width(shapes: Shapes) -> int:
    """How wide the input of the pooled door is, sizes included; 0 for models of Stable Diffusion 1.x and 2.x."""
    if not _context(shapes) or _reads_text(shapes):
        return 0
    return max(width_of(shapes, f"{path}.weight") for path in _POOLED)


def _is_refiner(shapes: Shapes) -> bool:
    """Its one text encoder gives the states and the pooled vector, both equally wide."""
    width = _pooled_width(shapes)
    four_levels = sum(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", name) is not None for name in shapes) == 3
    four_levels = four_levels or "down_blocks.3.resnets.0.conv1.weight" in shapes
    return bool(width) and four_levels and width - 5 * _WIDTH_OF_A_SIZE == _context(shapes)


def _is_sdxl(shapes: Shapes) -> bool:
    """Two encoders stand side by side in the states, and the pooled vector is the second's."""
    width = _pooled_width(shapes)
    return not _is_refiner(shapes) and 0 < width - 6 * _WIDTH_OF_A_SIZE < _context(shapes)


def _is_sd1(shapes: Shapes) -> bool:
    return _reads_text(shapes) and _context(shapes) != 1024


def _is_sd2(shapes: Shapes) -> bool:
    return _reads_text(shapes) and _context(shapes) == 1024


def _signs(test: Callable[[Shapes], bool]) -> tuple[Sign, ...]:
    return (
        Sign("comfyui", ("input_blocks.0.0.weight",), test=test),
        Sign("diffusers", ("conv_in.weight",), test=test),
    )


_REFUSED = (
    Refusal(r"(time_embed\.0|time_embedding\.linear_1)", "time"),
    Refusal(r"(label_emb\.0\.2|add_embedding\.linear_2)", "door"),
    Refusal(r".*\.attn2\.to_(q|out\.0)", "picture"),
    Refusal(r".*\.(attn1|ff|proj_in|proj_out|conv_shortcut|skip_connection|conv1|conv2)\b.*", "picture"),
    Refusal(r".*\.(emb_layers\.1|time_emb_proj)", "time"),
)
_WORKS = "Stock settings use a guidance of 8 or so, with which a negative prompt works."

SD1 = Family(
    "sd1",
    "Stable Diffusion 1.x",
    "causal",
    ("l",),
    "one",
    "",
    True,
    _WORKS,
    _places,
    _signs(_is_sd1),
    _REFUSED,
    ("value",),
    diffusers_prefix="unet.",
    kohya_tree="diffusers",
)
SD2 = Family(
    "sd2",
    "Stable Diffusion 2.x",
    "causal",
    ("h",),
    "one",
    "",
    True,
    _WORKS,
    _places,
    _signs(_is_sd2),
    _REFUSED,
    ("value",),
    diffusers_prefix="unet.",
    kohya_tree="diffusers",
)
SDXL = Family(
    "sdxl",
    "SDXL (also Illustrious, NoobAI, Pony)",
    "causal",
    ("l", "g"),
    "beside",
    "projected end-of-text state of the second encoder",
    True,
    _WORKS,
    _sdxl_places,
    _signs(_is_sdxl),
    _REFUSED,
    ("value", "pooled"),
    diffusers_prefix="unet.",
)
SDXL_REFINER = Family(
    "sdxl-refiner",
    "SDXL's refiner",
    "causal",
    ("g",),
    "one",
    "projected end-of-text state of its encoder",
    True,
    _WORKS,
    _refiner_places,
    _signs(_is_refiner),
    _REFUSED,
    ("value", "pooled"),
    diffusers_prefix="unet.",
)
