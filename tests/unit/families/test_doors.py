"""Doors found by names and shapes alone: at the models' real sizes, in files' headers, and in anything else."""

import functools

import pytest
from diff_quickfix.families.doors import DOOR_KINDS, FAMILIES, LORA_NAMINGS, DoorError, family_named, family_of
from hypothesis import given
from hypothesis import strategies as st


def transformers(path, depth, width, context):
    """Parameters of a UNet's spatial transformer that matter here."""
    found = {f"{path}.proj_in.weight": (width, width)}
    for number in range(depth):
        block = f"{path}.transformer_blocks.{number}"
        found |= {f"{block}.attn2.to_{part}.weight": (width, context) for part in "kv"}
        found |= {f"{block}.{attn}.to_q.weight": (width, width) for attn in ("attn1", "attn2")}
        found |= {f"{block}.attn1.to_{part}.weight": (width, width) for part in "kv"}
    return found


def comfyui_unet(depths, middle, context, pooled=0, channels=320, rows=2):
    """A UNet in ComfyUI's names: ``depths`` of the transformers of each level, one more row on the way up."""
    found = {"input_blocks.0.0.weight": (channels, 4, 3, 3)}
    widths = [channels * factor for factor in (1, 2, 4, 4)][: len(depths)]
    number = 1
    for level, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for _ in range(rows):
            found[f"input_blocks.{number}.0.in_layers.2.weight"] = (width, width, 3, 3)
            found |= transformers(f"input_blocks.{number}.1", depth, width, context) if depth else {}
            number += 1
        if level + 1 < len(depths):
            found[f"input_blocks.{number}.0.op.weight"] = (width, width, 3, 3)
            number += 1
    found |= transformers("middle_block.1", middle, widths[-1], context) if middle else {}
    number = 0
    for level, (depth, width) in enumerate(zip(reversed(depths), reversed(widths), strict=True)):
        for row in range(rows + 1):
            found[f"output_blocks.{number}.0.in_layers.2.weight"] = (width, width, 3, 3)
            found |= transformers(f"output_blocks.{number}.1", depth, width, context) if depth else {}
            if row == rows and level + 1 < len(depths):
                found[f"output_blocks.{number}.{2 if depth else 1}.conv.weight"] = (width, width, 3, 3)
            number += 1
    if pooled:
        found |= {"label_emb.0.0.weight": (4 * channels, pooled), "label_emb.0.0.bias": (4 * channels,)}
    return found


# Family, depths by level, depth of the middle, widths of the text states and of the pooled input with its sizes, first
# channels, rows of a level, and how many cross-attentions the model has.
UNETS = {
    "SDXL": ("sdxl", (0, 2, 10), 10, 2048, 2816, 320, 2, 70),
    "SSD-1B's depths": ("sdxl", (0, 2, 4), 0, 2048, 2816, 320, 2, 30),
    "Vega's depths": ("sdxl", (0, 1, 2), 1, 2048, 2816, 320, 2, 16),
    "KOALA's rows": ("sdxl", (0, 2, 5), 5, 2048, 2816, 320, 1, 26),
    "refiner": ("sdxl-refiner", (0, 4, 4, 0), 4, 1280, 2560, 384, 2, 44),
    "Stable Diffusion 1.x": ("sd1", (1, 1, 1, 0), 1, 768, 0, 320, 2, 16),
    "Stable Diffusion 2.x": ("sd2", (1, 1, 1, 0), 1, 1024, 0, 320, 2, 16),
    "unCLIP of 2.x, whose pooled vector is a picture's": ("sd2", (1, 1, 1, 0), 1, 1024, 2048, 320, 2, 16),
}


@pytest.mark.parametrize("title", UNETS)
def test_unets_at_their_real_sizes(title):
    name, depths, middle, context, pooled, channels, rows, layers = UNETS[title]
    shapes = comfyui_unet(depths, middle, context, pooled, channels, rows)
    family = family_of(shapes)
    assert family.name == name
    doors = family.doors(shapes)
    by_kind = {kind: [door for door in doors if door.kind == kind] for kind in DOOR_KINDS}
    assert len(by_kind["value"]) == len(by_kind["key"]) == layers and not by_kind["entrance"]
    assert all(door.shape[1] == context and not door.bias and door.columns is None for door in by_kind["value"])
    prompt = {"sdxl": 1280, "sdxl-refiner": 1280}.get(name)
    assert [door.columns for door in by_kind["pooled"]] == ([(0, prompt)] if prompt else [])
    assert all(door.bias and door.width == prompt for door in by_kind["pooled"])
    assert {door.kind for door in family.select(shapes)} == set(family.default_kinds)


def test_sdxl_has_140_matrices_in_the_order_in_which_they_run():
    shapes = comfyui_unet((0, 2, 10), 10, 2048, 2816)
    doors = family_of(shapes).doors(shapes)
    places = [door.name.split(".transformer_blocks")[0] for door in doors if door.kind == "value"]
    runs = ["input_blocks.4", "input_blocks.5", "input_blocks.7", "input_blocks.8", "middle_block"]
    runs += [f"output_blocks.{number}" for number in range(6)]
    assert list(dict.fromkeys(places)) == [f"{run}.1" for run in runs]
    assert {door.shape for door in doors if door.kind == "value"} == {(640, 2048), (1280, 2048)}
    assert len([door for door in doors if door.kind in ("key", "value")]) == 140 and doors[-1].kind == "pooled"
    # Blocks of ten are in the order of numbers, not of letters.
    middle = [door.name for door in doors if door.name.startswith("middle_block") and door.kind == "value"]
    assert middle == [f"middle_block.1.transformer_blocks.{number}.attn2.to_v" for number in range(10)]


def test_what_diffusers_calls_sdxls_blocks():
    shapes = comfyui_unet((0, 2, 10), 10, 2048, 2816)
    family = family_of(shapes)
    names = {door.name: door.diffusers for door in family.doors(shapes)}
    ends = {
        "input_blocks.5.1": "down_blocks.1.attentions.1",
        "input_blocks.7.1": "down_blocks.2.attentions.0",
        "middle_block.1": "mid_block.attentions.0",
        "output_blocks.2.1": "up_blocks.0.attentions.2",
        "output_blocks.3.1": "up_blocks.1.attentions.0",
    }
    for comfyui, diffusers in ends.items():
        end = "transformer_blocks.1.attn2.to_v"
        assert names[f"{comfyui}.{end}"] == f"{diffusers}.{end}"
        door = family.door(shapes, f"{diffusers}.{end}")
        assert door.name == f"{comfyui}.{end}"
        assert family.lora_name(door, "diffusers") == f"unet.{diffusers}.{end}"
        assert family.lora_name(door, "comfyui") == f"diffusion_model.{comfyui}.{end}"
        assert family.lora_name(door, "kohya") == "lora_unet_" + f"{comfyui}.{end}".replace(".", "_")


def test_patterns_choose_doors_and_kinds():
    shapes = comfyui_unet((0, 2, 10), 10, 2048, 2816)
    family = family_of(shapes)
    style = family.select(shapes, kinds=("value",), names="up_blocks.0.attentions.1.*, nothing")
    assert style == family.select(shapes, kinds=("value",), names="output_blocks.1.1.*") and len(style) == 10
    assert len(family.select(shapes, names="middle_block.*")) == 20
    assert len(family.select(shapes, kinds=("pooled",))) == 1
    for arguments in ({"kinds": ("entrance",)}, {"kinds": ()}, {"names": "nothing"}, {"names": " , nope "}):
        with pytest.raises(DoorError, match=r"this model has input_blocks\.4\.1"):
            family.select(shapes, **arguments)
    with pytest.raises(DoorError, match="depends on the picture"):
        family.select(shapes, names="*.attn1.to_v")
    with pytest.raises(DoorError, match="Unknown LoRA naming 'civitai'"):
        family.lora_name(style[0], "civitai")


def pixart():
    shapes = {"t_block.1.weight": (6 * 64, 64), "y_embedder.y_proj.fc1.weight": (64, 32)}
    return shapes | {f"blocks.{n}.cross_attn.kv_linear.weight": (128, 64) for n in range(2)}


def test_keys_and_values_of_a_fused_weight_are_doors_of_their_rows():
    shapes, family = pixart(), family_named("pixart")
    assert [door.rows for door in family.select(shapes)] == [(64, 128)] * 2
    assert [door.rows for door in family.select(shapes, kinds=("key",))] == [(0, 64)] * 2
    both = family.select(shapes, kinds=("value", "key"))
    # A weight is patched once: two patches of one name would be one.
    assert [(door.name, door.rows) for door in both] == [(f"blocks.{n}.cross_attn.kv_linear", None) for n in range(2)]
    rows = family.lora_place(both[0], "kohya")
    assert (rows.taken, rows.put, rows.height) == ((0, 128), (0, 128), 128)
    assert family.lora_rows(both[0], "kohya") is None


def test_doors_behind_each_other_are_not_chosen_together():
    with pytest.raises(DoorError, match="behind each other"):
        family_named("pixart").select(pixart(), kinds=("entrance", "value"))
    assert len(family_named("pixart").select(pixart(), kinds=("entrance",))) == 1


def test_other_models_are_refused_and_what_still_works_is_named():
    video = comfyui_unet((1, 1, 1, 0), 1, 1024)
    video |= {"input_blocks.1.1.time_stack.0.attn2.to_k.weight": (320, 1024)}
    prefixed = {f"model.diffusion_model.{name}": shape for name, shape in comfyui_unet((0, 1), 1, 32, 1600).items()}
    for shapes in ({}, {"weight": (3, 3)}, video, prefixed):
        with pytest.raises(DoorError, match=r"Found .*expected an image model of SDXL"):
            family_of(shapes)
    with pytest.raises(DoorError, match="Unknown family 'sdxxl'"):
        family_named("sdxxl")


SIGNS = sorted({name for family in FAMILIES for sign in family.signs for name in (*sign.has, *sign.lacks)})
DOORS = [
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    "label_emb.0.0.weight",
    "conv_in.weight",
    "\u00e9.\n",
]
NUMBERS = st.integers(-3, 5000)


@given(
    st.dictionaries(
        st.one_of(st.sampled_from(SIGNS + DOORS), st.text(max_size=12)),
        st.one_of(st.tuples(), st.tuples(NUMBERS), st.tuples(NUMBERS, NUMBERS), st.lists(NUMBERS, max_size=5)),
        max_size=12,
    )
)
def test_anything_else_is_refused_in_words(shapes):
    """Each family, made to look at the junk, answers with doors or with a DoorError, and so does every question."""
    questions = [family_of, *(family.doors for family in FAMILIES), *(family.select for family in FAMILIES)]
    questions += [
        functools.partial(family.door, name=name.removesuffix(".weight")) for name in shapes for family in FAMILIES
    ]
    for ask in questions:
        try:
            assert ask(shapes)
        except DoorError as error:
            assert len(str(error)) > 20


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_says_what_it_is(family):
    assert family.attention in ("causal", "bidirectional") and family.encoders and family.guidance.endswith(".")
    assert (family.layout == "one") == (len(family.encoders) == 1)
    assert set(family.default_kinds) <= set(DOOR_KINDS) and LORA_NAMINGS == ("kohya", "comfyui", "diffusers")
