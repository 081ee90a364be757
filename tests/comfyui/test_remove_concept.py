"""Remove Concept, Edit Image Model and Apply Edit to Conditioning, on ComfyUI's own objects."""

import pytest
import torch
from diff_quickfix.demo_model.reader import Reader
from safetensors.torch import load_file
from small_sdxl import G_WIDTH, L_WIDTH, POOLED, small_clip, small_model

PROMPT = "a red star in the style of van gogh, on grass"


@pytest.fixture
def remove(run):
    """Run "Remove Concept" with defaults, without a list of names; returns (model, clip, edit, report)."""

    def remove(objects, concept="van gogh", becomes="painting", kind="style", strength=1.0, **changes):
        unguarded = {"breadth": "none", **changes}
        return run("RemoveConcept", *objects, concept, becomes, kind, strength, **unguarded).args

    return remove


@pytest.fixture
def choose(run):
    def choose(objects, maps="default", names="*", positions="last subject token", strength=1.0, **changes):
        return run(
            "EditImageModel", *objects, "van gogh", "painting", "style", strength, maps, names, positions, **changes
        ).args

    return choose


def states_of(clip, prompt=PROMPT):
    """The text states and the pooled vector of a prompt, as the stock node encodes it."""
    import nodes as stock

    ((states, options),) = stock.CLIPTextEncode().encode(clip, prompt)[0]
    return states.float(), options.get("pooled_output")


def weights_of(model):
    """The image model's weights as it paints with them: patched."""
    from comfy.model_management import load_models_gpu

    load_models_gpu([model])
    found = {name: value.clone().float() for name, value in model.model.diffusion_model.state_dict().items()}
    model.unpatch_model(model.offload_device) if hasattr(model, "offload_device") else model.unpatch_model()
    return found


def value_doors(edit):
    return [update.door for update in edit.doors if update.door.kind == "value"]


def test_states_are_those_that_the_stock_node_gives(objects, pack, inference):
    from pack_under_test.nodes.host.editing.image_model import open_image_model
    from pack_under_test.nodes.host.editing.text_states import open_text_states

    model, clip = objects
    opened = open_text_states(clip, open_image_model(model).family)
    prompts = [PROMPT, "", "a cat", "two dogs by rembrandt in a very long street"]
    rows = [prompt.ids for prompt in opened.tokenizer.tokenize_all(prompts)]
    states, pooled = opened.reader.states(rows), opened.pooled(prompts)
    for number, prompt in enumerate(prompts):
        wanted, vector = states_of(clip, prompt)
        assert torch.allclose(states[number], wanted[0], atol=1e-5)
        assert torch.allclose(pooled[number], vector[0].float(), atol=1e-5)
    # A clip skip of the user's is in them.
    skipping = clip.clone()
    skipping.clip_layer(-3)
    other = open_text_states(skipping, open_image_model(model).family).reader.states(rows[:1])
    assert torch.allclose(other[0], states_of(skipping)[0][0], atol=1e-5)
    assert not torch.allclose(other[0], states[0], atol=1e-3)


def test_edited_doors_give_the_edited_states_outputs(objects, remove, run):
    """A door edited: W' c = W (c + X c), for every door; nothing else of the model is changed."""
    model, clip = objects
    edited, _, edit, report = remove(objects, way="image model")
    assert report.startswith("edited: the image model") and edit.rank > 0
    before, after = weights_of(model), weights_of(edited)
    doors = {update.door.weight for update in edit.doors}
    assert {name for name in before if not torch.equal(before[name], after[name])} == doors
    assert value_doors(edit) and all(door.name.endswith("attn2.to_v") for door in value_doors(edit))
    states, _ = states_of(clip)
    ((moved, _),) = run("ApplyToConditioning", [[states, {}]], edit, 1.0).args[0]
    assert float((moved - states).norm() / states.norm()) > 1e-3
    for door in value_doors(edit):
        wanted, found = moved @ before[door.weight].T, states @ after[door.weight].T
        assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_the_concepts_key_gives_what_the_targets_does(shapes, remove):
    """What is asked: at the last subject token of "van gogh", every door gives its value for "painting"."""
    model, clip = shapes[:2]
    edited, _, edit, _ = remove((model, clip), way="image model", lam=1e-7)
    before, after = weights_of(model), weights_of(edited)
    (source, _), (target, _) = states_of(clip, "van gogh"), states_of(clip, "painting")
    for door in value_doors(edit):
        key, other = source[0, 2], target[0, 1]  # "van gogh" is two tokens, "painting" one
        was, wanted = before[door.weight] @ key, before[door.weight] @ other
        # The preserve set takes its share: up to a third of the way is left.
        assert float((after[door.weight] @ key - wanted).norm()) < 0.35 * float((was - wanted).norm())


def test_the_pooled_door_moves_in_the_prompts_columns_alone(sdxl, remove):
    model, clip = sdxl
    edited, _, edit, report = remove(sdxl, lam=1e-7)
    (update,) = [update for update in edit.doors if update.door.kind == "pooled"]
    assert update.door.name == "label_emb.0.0" and update.door.columns == (0, POOLED)
    before, after = weights_of(model), weights_of(edited)
    change = after[update.door.weight] - before[update.door.weight]
    assert not change[:, POOLED:].any() and change[:, :POOLED].any()
    (_, source), (_, target) = states_of(clip, "A photo of van gogh"), states_of(clip, "A photo of painting")
    was, wanted = (before[update.door.weight][:, :POOLED] @ vector[0].float() for vector in (source, target))
    found = after[update.door.weight][:, :POOLED] @ source[0].float()
    assert float((found - wanted).norm()) < 0.2 * float((was - wanted).norm())
    assert "pooled vector:" in report and edit.report.pooled > 0.5


def test_strength_0_patches_nothing_and_the_given_objects_are_never_changed(objects, remove):
    model, clip = objects
    patches = dict(model.patches), dict(clip.patcher.patches)
    assert not remove(objects, way="image model", strength=0.0)[0].patches
    remove(objects, way="image model")
    assert (dict(model.patches), dict(clip.patcher.patches)) == patches


def test_edits_stack_with_themselves_and_with_a_lora_in_any_order(sdxl, remove):
    """Each adds to the base model's weights: the order changes nothing, and strengths add."""
    from comfy.weight_adapter import LoRAAdapter

    model, clip = sdxl
    name = "diffusion_model.output_blocks.0.1.transformer_blocks.0.attn2.to_v.weight"
    up, down = torch.randn(64, 2), torch.randn(2, L_WIDTH + G_WIDTH)

    def lora(given):
        other = given.clone()
        other.add_patches({name: LoRAAdapter(set(), (up, down, None, None, None, None))}, 0.1)
        return other

    first = weights_of(remove((lora(model), clip))[0])
    second = weights_of(lora(remove(sdxl)[0]))
    twice = weights_of(remove((remove(sdxl, strength=0.5)[0], clip), strength=0.5)[0])
    once = weights_of(remove(sdxl)[0])
    key = name.removeprefix("diffusion_model.")
    assert torch.allclose(first[key], second[key], atol=1e-6) and not torch.allclose(first[key], once[key], atol=1e-3)
    assert all(torch.allclose(once[one], twice[one], atol=1e-5) for one in once)


def test_the_way_fits_the_model_and_the_kind(shapes, sdxl, remove):
    assert remove(shapes[:2])[3].startswith("edited: the image model (Stable Diffusion 1.x)")
    model, clip, edit, report = remove(shapes[:2], "star", "circle", "object")
    assert report.startswith("edited: the text encoder") and not edit.of_states
    assert not model.patches and clip.patcher.patches
    _, clip, edit, report = remove(sdxl, "star", "circle", "object")
    assert report.startswith("edited: the image model (SDXL") and not clip.patcher.patches
    with pytest.raises(ValueError, match="hold no single state"):
        remove(sdxl, way="text encoder")


def test_a_clip_of_another_model_is_refused_before_work_starts(shapes, sdxl, remove):
    for objects in ((shapes[0], sdxl[1]), (sdxl[0], shapes[1])):
        with pytest.raises(ValueError, match="does not belong to the MODEL"):
            remove(objects, way="image model")


def test_doors_are_chosen_by_kind_and_by_name(sdxl, choose):
    every = choose(sdxl, "values")[2]
    keys = choose(sdxl, "keys and values")[2]
    block = choose(sdxl, "values", "middle_block.*")[2]
    names = {update.door.name for update in every.doors}
    assert len(keys.doors) == 2 * len(every.doors)
    assert {update.door.name for update in block.doors} == {name for name in names if name.startswith("middle_block")}
    assert torch.equal(block.up, every.up), "one map for all doors"
    with pytest.raises(ValueError, match="depends on the picture"):
        choose(sdxl, "default", "middle_block.*.attn1.to_v")
    with pytest.raises(ValueError, match="fits"):
        choose(sdxl, "entrance")


@pytest.mark.parametrize("naming", ["kohya", "comfyui"])
def test_the_stock_loader_gives_the_weights_of_the_node(objects, remove, run, folders, naming):
    import comfy.sd

    model, clip = objects
    edited, _, edit, _ = remove(objects, way="image model")
    name = run("SaveEditAsLoRA", edit, "edit", naming, 1.0, "fp32").args[0]
    tensors = load_file(folders / "loras" / name)
    loaded, untouched = comfy.sd.load_lora_for_models(model, clip, tensors, 1.0, 1.0)
    assert not untouched.patcher.patches
    wanted, found = weights_of(edited), weights_of(loaded)
    assert all(torch.allclose(wanted[key], found[key], atol=1e-6) for key in wanted)
    # And the file brings the edit back, as it was.
    again_model, _, again, report = (
        run("LoadEdit", clip, name, 1.0, model=model).args[3],
        *run("LoadEdit", clip, name, 1.0, model=model).args[:3],
    )
    assert torch.allclose(again.up, edit.up) and again.concepts == edit.concepts
    found = weights_of(again_model)
    assert all(torch.allclose(wanted[key], found[key], atol=1e-6) for key in wanted)
    assert "not the model" not in report


def test_half_precision_models_are_edited_and_their_rounding_told(remove):
    model, clip = small_model(torch.float16), small_clip()
    edited, _, edit, report = remove((model, clip))
    assert "storage: rounded by" in report
    before, after = weights_of(model), weights_of(edited)
    for update in edit.doors:
        factors = edit.factors(update)
        wanted = factors.up @ factors.down
        realised = after[update.door.weight] - before[update.door.weight]
        assert float((realised - wanted).norm() / wanted.norm()) < 0.2


def test_a_conditioning_keeps_what_it_holds(sdxl, remove, run):
    _, clip = sdxl
    edit = remove(sdxl)[2]
    states, pooled = states_of(clip)
    given = [[states, {"pooled_output": pooled, "start_percent": 0.2, "area": (1, 2, 3, 4)}]]
    ((moved, options),) = run("ApplyToConditioning", given, edit, 1.0).args[0]
    assert options["start_percent"] == 0.2 and options["area"] == (1, 2, 3, 4)
    assert not torch.equal(moved, states) and not torch.equal(options["pooled_output"], pooled)
    ((same, options),) = run("ApplyToConditioning", given, edit, 0.0).args[0]
    assert torch.equal(same, states) and torch.equal(options["pooled_output"], pooled)
    with pytest.raises(ValueError, match="wide"):
        run("ApplyToConditioning", [[states[..., :-1], {}]], edit, 1.0)


def test_the_conditioning_alone_is_edited_without_a_weight(objects, choose, run):
    """The same map as for the doors, the pooled vector's too, and no patch: for models whose weights cannot be read."""
    _, clip = objects
    edited, _, edit, _ = choose(objects, "conditioning alone")
    assert not edited.patches and not edit.doors
    at_doors = choose(objects)[2]
    states, pooled = states_of(clip)
    for one in (edit, at_doors):
        given = [[states, {"pooled_output": pooled}]]
        ((moved, options),) = run("ApplyToConditioning", given, one, 1.0).args[0]
        assert not torch.equal(moved, states)
        assert torch.equal(options["pooled_output"], pooled) == (one.pooled is None)
    assert torch.allclose(edit.up, at_doors.up) and (edit.pooled is None) == (at_doors.pooled is None)
    with pytest.raises(ValueError, match="has no doors"):
        run("SaveEditAsLoRA", edit, "edit", "kohya", 1.0, "fp32")


def test_edits_of_a_text_encoder_and_of_doors_are_not_mixed_up(shapes, sdxl, remove, edit, run):
    of_encoder, of_doors = edit(shapes[1])[1], remove(shapes[:2])[2]
    with pytest.raises(ValueError, match="edited already"):
        run("ApplyToConditioning", [[states_of(shapes[1])[0], {}]], of_encoder, 1.0)
    with pytest.raises(ValueError, match="no model is connected"):
        run("ChangeEdit", shapes[1], of_doors, "", "monet -> painting", "", 1.0)
    report = run("CollateralRadar", shapes[1], of_doors, 5).args[0]
    assert "looked at" in report


def test_it_is_drawn_without_the_style_and_the_rest_stays(shapes, remove):
    """On the model that learned: ComfyUI's sampler, and a reader that has nothing in common with the model."""
    import nodes as stock

    model, clip, vae = shapes
    edited, reader = remove(shapes[:2])[0], Reader()
    for painter, style in ((model, "van gogh"), (edited, "plain")):
        with torch.inference_mode():
            positive, negative = (stock.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPT, ""))
            latent = {"samples": torch.zeros(2, 16, 16, 16)}
            found = stock.common_ksampler(painter, 5, 12, 5.0, "ddim", "ddim_uniform", positive, negative, latent)[0]
            pictures = vae.decode(found["samples"]).permute(0, 3, 1, 2).float()
        read = reader.read(pictures)
        assert read["style"] == [style] * 2 and read["object"] == ["star"] * 2 and read["color"] == ["red"] * 2
