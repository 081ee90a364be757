"""Remove Concept on image models whose text encoder is no CLIP: T5, Qwen3, Qwen2.5-VL."""

import dataclasses
import functools

import pytest
import torch
from door_models import CASES
from small_encoders import FAMILIES, objects, present, text_states
from test_remove_concept import weights_of

PROMPT = "a red star in the style of van gogh, on grass"
LATER = {"krea2"}
# Of these the edited weights are looked at in ComfyUI's sampler alone.
WIDE = "flux2-klein-9b"
SLOW = ("sd3", "longcat", "lumina2", "flux2", WIDE, "wan", "cosmos-predict2", "hunyuan-image")


# Klein 9B's text states are as wide as in life; one test looks at them.
@pytest.fixture(params=[name for name in present() if name != WIDE])
def family(request):
    return request.param


@pytest.fixture
def remove(run):
    def remove(family, concept="van gogh", becomes="painting", kind="style", strength=1.0, **changes):
        unguarded = {"breadth": "none", **changes}
        return run("RemoveConcept", *objects(family), concept, becomes, kind, strength, **unguarded).args

    return remove


@pytest.fixture
def opened(pack, inference):
    return text_states


def fed(model, clip, prompt, names):
    """What linear maps of an image model read, and give, while ComfyUI's sampler runs a prompt for one step."""
    import comfy.sample

    import nodes as stock

    found, handles = {}, []

    def keep(name, _module, inputs, output):
        read = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
        # Flux.2 sets zeros in front of a short prompt.
        first = int(read.any(1).nonzero()[0])
        found.setdefault(name, (read[first:].clone(), output.detach().reshape(len(read), -1)[first:].clone()))

    for name in names:
        module = model.model.diffusion_model.get_submodule(name)
        handles.append(module.register_forward_hook(functools.partial(keep, name)))
    try:
        positive = stock.CLIPTextEncode().encode(clip, prompt)[0]
        latent = torch.zeros(1, *CASES[family_of(model)].latent)
        comfy.sample.sample(
            model, torch.randn(latent.shape), 1, 1.0, "euler", "simple", positive, positive, latent, seed=1
        )
    finally:
        for handle in handles:
            handle.remove()
    return found


def places_fed(states, row):
    """Where the sampler feeds the states of a row's positions, of which some pads stand for all."""
    from pack_under_test.text.rows import tokens_of

    own, beside = tokens_of(row)
    reader = states.reader
    texts = len(own) - (0 if reader.pad is None else reader._padding(own))
    places = [*range(texts), *(texts + offset for offset in reader.pads[: len(own) - texts])]
    places = places[: len(places) - reader.tail]
    if states.tokenizer.behind is None:
        return torch.tensor(places)
    return torch.tensor([*(len(beside) + place for place in places), *range(len(beside))])


def family_of(model):
    return next(name for name in present() if objects(name)[0].model is model.model)


def doors_of(edit):
    return [update.door for update in edit.doors if update.door.reads == "text"]


def test_absent():
    import comfyui_version

    version = tuple(int(part) for part in comfyui_version.__version__.split("."))
    from diff_quickfix.families.doors import FAMILIES as KNOWN

    clips = {"sd1", "sd2", "sdxl", "sdxl-refiner"}
    assert {family.name for family in KNOWN} == clips | set(FAMILIES)
    assert set(FAMILIES) - set(present()) == (set() if version >= (0, 30) else LATER)


def text_doors(model):
    from pack_under_test.nodes.host.editing.image_model import open_image_model

    return [door for door in open_image_model(model).doors() if door.reads == "text"]


def test_states_are_what_the_sampler_feeds_the_doors(family, opened):
    model, clip = objects(family)
    states, door = opened(family), text_doors(model)[0]
    prompts = [
        PROMPT,
        "",
        "two dogs",
        "\u0437\u0432\u0451\u0437\u0434\u043d\u0430\u044f \u043d\u043e\u0447\u044c",
        "\u661f\u6708\u591c, a painting",
    ]
    rows = [prompt.ids for prompt in states.tokenizer.tokenize_all(prompts)]
    found = states.reader.states(rows)
    for number, prompt in enumerate(prompts):
        read = fed(model, clip, prompt, [door.name])[door.name][0]
        places = places_fed(states, rows[number])
        given = found[number][: len(places)]
        cut = int((~given.any(1)).int().cumprod(0).sum())
        places = places[cut:] - cut
        assert torch.allclose(given[cut:], read[places], atol=2e-5, rtol=1e-4), prompt
        assert not found[number][len(given) :].any()
        rest = read[[place for place in range(len(read)) if place not in set(places.tolist())]]
        if family == "wan":
            # One pad stands for all.
            assert len(places) + len(rest) == 512 and torch.allclose(rest, given[-1:], atol=2e-5)
        elif "klein" in family:
            # Those between them are like them.
            assert len(places) + len(rest) == 512
        else:
            assert not rest.any(), prompt
    # Positions are those of the tokens: what the first states are of is cut away.
    assert all(len(row) == len(found[0]) for row in rows)


@pytest.mark.parametrize("family", [name for name in present() if name not in ("anima", *SLOW)])
def test_edited_doors_give_the_edited_states_outputs_and_nothing_else_moves(family, remove, opened):
    model, _ = objects(family)
    edited, clip, edit, report = remove(family)
    assert report.startswith("edited: the image model") and edit.rank > 0
    assert not clip.patcher.patches and not model.patches
    before, after = weights_of(model), weights_of(edited)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {update.door.weight for update in edit.doors}
    states = opened(family)
    keys = states.reader.states([prompt.ids for prompt in states.tokenizer.tokenize_all([PROMPT])])[0]
    moved = keys + keys @ edit.down.T @ edit.up.T
    assert float((moved - keys).norm() / keys.norm()) > 1e-3
    for door in doors_of(edit):
        rows = slice(*(door.rows or (None,)))
        wanted, found = (moved @ before[door.weight].T)[:, rows], (keys @ after[door.weight].T)[:, rows]
        assert float((found - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.newest
@pytest.mark.parametrize("family", [name for name in ("z-image", "longcat") if name in present()])
def test_a_prompt_that_is_asked_for_up_to_a_word_has_the_states_of_the_whole(family, opened, inference):
    from pack_under_test.quickfix.encoder.towers import beginnings, up_to

    states = opened(family)
    (prompt,) = states.tokenizer.tokenize_all([PROMPT])
    place = prompt.last_word - 2
    asked = up_to(states.tower, beginnings(states.tower, [prompt], place + 1), torch.tensor([place]))
    found = states.tower.attention_inputs(asked, 0)[0, place]
    whole = states.reader.states([prompt.ids])[0, place] * states.tower.scale
    assert whole.any() and torch.allclose(found, whole, atol=1e-4, rtol=1e-3)


# LongCat's prompts stay whole, which takes a minute here.
@pytest.mark.newest
@pytest.mark.parametrize("family", [name for name in present() if name not in (WIDE, "longcat")])
def test_with_nothing_preserved_the_source_gives_what_the_target_gives(family, opened, inference):
    """In ComfyUI's sampler: at the edited positions, the door's output for the source caption is the target's."""
    from pack_under_test.nodes.host.editing.image_model import open_image_model, patch_doors
    from pack_under_test.quickfix import ConceptEdit, doors_settings, edit_doors, pair_tokens

    model, clip = objects(family)
    image_model, states = open_image_model(model), opened(family)
    template = "a photo by {x}, at night"
    settings = doors_settings(image_model.family, "last subject token")
    settings = dataclasses.replace(settings, lam=1e-7, preserve=(), preserve_weight=0.0)
    concepts = [ConceptEdit("van gogh", "painting", "custom", (template,))]
    # HunyuanImage's other door reads the mean of the states.
    doors = [door for door in image_model.doors() if door.reads == "text" and "c_embedder" not in door.name]
    edit = edit_doors(states.tower, states.tokenizer, concepts, settings, doors, image_model.read)
    pairs = pair_tokens(states.tokenizer, [("van gogh", "painting", (template,))], settings.positions)
    captions = [template.replace("{x}", name) for name in ("van gogh", "painting")]
    names = [door.name for door in doors]
    target = fed(model, clip, captions[1], names)
    source = fed(patch_doors(model, edit, 1.0), clip, captions[0], names)
    plain = fed(model, clip, captions[0], names)
    cut = int((~states.reader.states([pairs.captions[0].ids])[0].any(1)).int().cumprod(0).sum())
    assert len(pairs) == 1 if image_model.family.attention == "causal" else len(pairs) > 5
    # The template's beginning is cut away before the image model, in both captions.
    here, there = (places[pairs.source[:, 1] >= cut] for places in (pairs.source, pairs.target))
    feeds = [places_fed(states, caption.ids) for caption in pairs.captions]
    for door in doors:
        rows = slice(*(door.rows or (None,)))
        was, found, wanted = (
            one[door.name][1][[int(feeds[row][place]) - cut for row, place in places.tolist()]][:, rows]
            for one, places in ((plain, here), (source, here), (target, there))
        )
        if len(here) > states.tower.width:
            # Flux's padding: more states than dimensions, of which the best map gives what least squares give.
            keys = states.reader.states(pairs.ids.tolist())
            key, aim = (keys[places[:, 0], places[:, 1]].double() for places in (here, there))
            best = key @ torch.linalg.lstsq(key, aim, driver="gelsd").solution
            weight = model.model.diffusion_model.get_parameter(door.weight)[rows].double()
            wanted = wanted - ((aim - best) @ weight.T).float()
        assert float((found - wanted).norm()) < 0.02 * float((was - wanted).norm()), door.name


def test_letters_without_tokens_are_refused_and_byte_pairs_have_all(remove):
    with pytest.raises(ValueError, match="no tokens for letters"):
        remove("flux", "\u30b4\u30c3\u30db")
    assert remove("z-image", "\u30b4\u30c3\u30db", "\u7d75")[2].rank > 0


def test_a_preserved_prompt_that_names_the_concept_is_refused(remove):
    with pytest.raises(ValueError, match="names a concept"):
        remove("z-image", preserve="The Van Gogh museum")


def test_flux_reads_the_pooled_vector_of_its_clip(remove, opened):
    import nodes as stock

    prompts = [PROMPT, "a cat"]
    with torch.inference_mode():
        wanted = [stock.CLIPTextEncode().encode(objects("flux")[1], prompt)[0][0][1] for prompt in prompts]
    found = opened("flux").pooled(prompts)
    assert torch.allclose(found, torch.cat([options["pooled_output"] for options in wanted]), atol=1e-5)
    edit, report = remove("flux")[2:]
    assert [update.door.name for update in edit.doors] == ["txt_in", "vector_in.in_layer"]
    assert "pooled vector:" in report


@pytest.mark.newest
def test_a_lora_on_what_stands_before_the_doors_counts(opened):
    """Anima's adapter with a LoRA makes other states, and the doors read those."""
    from pack_under_test.nodes.host.editing.image_model import open_image_model
    from pack_under_test.nodes.host.editing.model_front import Front

    model, _ = objects("anima")
    patched = model.clone()
    weight = "diffusion_model.llm_adapter.out_proj.weight"
    patched.add_patches({weight: ("diff", (torch.ones(1024, 1024),))}, 0.01)
    family = open_image_model(model).family
    kept = model.model.diffusion_model.llm_adapter.out_proj.weight.clone()
    states, extras = torch.randn(1, 3, 1024), {"t5xxl_ids": torch.tensor([3, 1])}
    one, other = (Front(one, family).make(states, extras) for one in (model, patched))
    assert not torch.allclose(one, other, atol=1e-3)
    assert torch.equal(model.model.diffusion_model.llm_adapter.out_proj.weight, kept)


def test_a_clip_of_the_wrong_kind_is_refused(run):
    for model, clip in (("z-image", "flux"), ("flux", "z-image"), ("qwen-image", "z-image"), ("anima", "flux")):
        with pytest.raises(ValueError, match="does not belong to the MODEL"):
            run(
                "RemoveConcept",
                objects(model)[0],
                objects(clip)[1],
                "van gogh",
                "painting",
                "style",
                1.0,
                breadth="none",
            )


def test_a_prompt_longer_than_the_context_is_refused(remove):
    with pytest.raises(ValueError, match="Shorten it"):
        remove("z-image", preserve="very " * 300)


@pytest.mark.newest
@pytest.mark.parametrize("family", ["z-image", "chroma"])
def test_an_edit_comes_back_from_its_file(run, remove, family, folders):
    model, clip = objects(family)
    edited, _, edit, _ = remove(family)
    name = run("SaveEditAsLoRA", edit, "edit", "comfyui", 1.0, "fp32").args[0]
    _, again, report, again_model = run("LoadEdit", clip, name, 1.0, model=model).args[:4]
    assert again.concepts == edit.concepts and again.settings == edit.settings
    wanted, found = weights_of(edited), weights_of(again_model)
    assert all(torch.allclose(wanted[key], found[key], atol=1e-6) for key in wanted)
    assert "not the model" not in report


def test_spellings_that_are_other_tokens_and_other_positions_are_told(remove, run):
    assert "not edited: Van Gogh;" in remove("z-image")[3]
    both = run("RemoveConcept", *objects("z-image"), "\u732b", "\u72ac", "object", 1.0, breadth="none").args[3]
    assert "not edited" not in both
    chosen = ("van gogh", "painting", "style", 1.0, "default", "*", "last subject token")
    edit, report = run("EditImageModel", *objects("chroma"), *chosen).args[2:]
    assert "positions: whole aligned caption" in report and edit.settings.positions == "whole aligned caption"


def test_strength_0_patches_nothing(remove):
    family = "z-image"
    assert not remove(family, strength=0.0)[0].patches


def test_a_conditioning_and_nodes_without_the_model_are_refused(remove, run):
    edit = remove("z-image")[2]
    with pytest.raises(ValueError, match="makes other states"):
        run("ApplyToConditioning", [[torch.zeros(1, 3, 32), {}]], edit, 1.0)
    with pytest.raises(ValueError, match="without the MODEL"):
        run("CollateralRadar", objects("z-image")[1], edit, 5)
    assert "looked at" in run("CollateralRadar", objects("flux")[1], remove("flux")[2], 5).args[0]


@pytest.mark.newest
def test_stable_diffusion_3_is_edited_at_both_of_its_doors(remove, opened):
    """T5's states and CLIP's have one size as keys, and both CLIPs' vectors make the pooled one."""
    import nodes as stock

    states = opened("sd3")
    prompts = [PROMPT, "a cat"]
    with torch.inference_mode():
        wanted = [stock.CLIPTextEncode().encode(objects("sd3")[1], prompt)[0][0][1] for prompt in prompts]
    found = states.pooled(prompts)
    assert torch.allclose(found, torch.cat([options["pooled_output"] for options in wanted]), atol=1e-5)
    (row,) = states.tokenizer.tokenize_all([PROMPT])
    keys = states.tower.attention_inputs([row.ids], 0)[0]
    counted = sum(token >= 0 for token in row.ids)
    tokens = states.tokenizer.behind.tokenize(PROMPT)
    t5, clips = keys[row.start : row.eos + 1], keys[counted + 1 : counted + 1 + tokens.eos]
    sizes = [float(rows.square().sum(1).mean()) for rows in (t5, clips)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.3) and sum(sizes) / 2 == pytest.approx(1.0, rel=0.3)
    edit, report = remove("sd3")[2:]
    assert [update.door.name for update in edit.doors] == ["context_embedder", "y_embedder.mlp.0"]
    assert edit.settings.positions == "whole aligned caption" and "pooled vector:" in report


def test_a_clip_that_lacks_one_of_its_encoders_is_refused_by_name(run, monkeypatch):
    model, clip = objects("sd3")
    # setattr would be undone by delattr: a part of a torch module is not in its __dict__.
    monkeypatch.setitem(clip.cond_stage_model._modules, "t5xxl", None)
    with pytest.raises(ValueError, match="loaded without t5xxl"):
        run("RemoveConcept", model, clip, "van gogh", "painting", "style", 1.0, breadth="none")


@pytest.mark.newest
def test_states_as_wide_as_kleins_make_no_square(opened, inference):
    """Of 12,288 numbers each: a square of them would take 600 MB in fp32."""
    from pack_under_test.quickfix import ConceptEdit, compute_edit, doors_settings
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.shape[-2:] == (WIDTH, WIDTH):
                self.size = made.numel()
            return made

    WIDTH = CASES[WIDE].width
    states = opened(WIDE)
    assert states.tower.width == WIDTH == 12288
    with Largest() as largest:
        settings = doors_settings(family_named(WIDE), "last subject token")
        settings = dataclasses.replace(settings, preserve=("", "a cat"))
        edit = compute_edit(states.tower, states.tokenizer, [ConceptEdit("van gogh", "painting", "style")], settings)
    assert edit.rank and not largest.size


def family_named(name):
    from pack_under_test.families.doors import family_named

    return family_named(name)
