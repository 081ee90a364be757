"""Traces of CLIPs with several text encoders, with T5 and with decoder language models."""

import random

import pytest
import torch
from runs import hooks_of
from traced_clips import CLIPS, KINDS, PROMPT, TAPPED, clip_named, tracing

__all__ = ["tracing"]

pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture(params=[pytest.param(one, marks=[pytest.mark.newest] * (one == "krea2")) for one in CLIPS])
def name(request):
    return request.param


def module_of(clip, child, shape, layer, kind):
    """The module of a site, by ComfyUI's own names."""
    network = getattr(clip.cond_stage_model, child).transformer
    if shape == "t5":
        block = network.encoder.block[layer]
        return {"self_attn": block.layer[0].SelfAttention, "mlp": block.layer[1].DenseReluDense, "hidden": block}[kind]
    if shape == "decoder":
        block = network.model.layers[layer]
    else:
        block = (network.text_model if shape == "clip" else network.model).encoder.layers[layer]
    return {
        "self_attn": getattr(block, "mixer" if shape == "jina" else "self_attn"),
        "mlp": block.mlp,
        "hidden": block,
    }[kind]


def stock(clip, prompt=PROMPT):
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt), show_pbar=False)


def by_hand(clip, shares, put_back=None):
    """The corrupted prompt through ComfyUI alone: a hook at each encoder's embeddings, and one that puts a state back.

    Args:
        shares: (child, positions, shift) of each encoder.
        put_back: (module, function of its output).
    """

    def shift(positions, delta):
        def before(module, args, kwargs):
            embeds = kwargs["embeds"].clone()
            embeds[0, list(positions)] += delta
            return args, {**kwargs, "embeds": embeds}

        return before

    handles = [
        getattr(clip.cond_stage_model, child).transformer.register_forward_pre_hook(
            shift(positions, delta), with_kwargs=True
        )
        for child, positions, delta in shares
    ]
    if put_back:
        handles.append(put_back[0].register_forward_hook(lambda module, args, output: put_back[1](output)))
    try:
        return stock(clip)
    finally:
        for handle in handles:
            handle.remove()


def clean_outputs(clip, modules):
    """What some modules give for the clean prompt; copies, since later layers add to them in place."""
    seen = {}

    def keep(name):
        def hook(module, args, output):
            seen[name] = (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    stock(clip)
    for handle in handles:
        handle.remove()
    return seen


def putting_back(clean, where):
    def put_back(output):
        first = (output[0] if isinstance(output, tuple) else output).clone()
        first[0, where] = clean[0, where]
        return (first, *output[1:]) if isinstance(output, tuple) else first

    return put_back


def shares_of(corrupted, encoders):
    return [
        (encoders[one.encoder][0], one.corruption.positions, one.corruption.deltas[0]) for one in corrupted.case.shares
    ]


def assert_alike(found, wanted):
    for (states, options), (others, more) in zip(found, wanted, strict=True):
        torch.testing.assert_close(states, others, atol=3e-5, rtol=1e-4)
        if isinstance(more["pooled_output"], torch.Tensor):
            torch.testing.assert_close(options["pooled_output"], more["pooled_output"], atol=3e-5, rtol=1e-4)


def test_a_restored_state_is_what_a_plain_hook_puts_back(name, tracing):
    """Oracle: ComfyUI with hooks of this file on its own modules, ten random cells of each kind."""
    corrupt, restoration = tracing
    clip, encoders, drawn = clip_named(name), CLIPS[name], random.Random(3)
    corrupted = corrupt(clip)
    assert [one.encoder for one in corrupted.case.shares] == list(encoders)
    shares = shares_of(corrupted, encoders)
    assert_alike(corrupted.conditioning(restoration(0)), by_hand(clip, shares))
    modules = {
        site.name: module_of(clip, *encoders[site.encoder], int(site.name.split(".")[2]), site.kind)
        for site in corrupted.sites
        if site.kind in KINDS
    }
    clean = clean_outputs(clip, modules)
    cells = []
    for kind in KINDS:
        names = [site for site in modules if site.endswith(kind)]
        for _ in range(10):
            site = drawn.choice(names)
            share = next(one for one in corrupted.case.shares if one.encoder == site.split(".")[1])
            others = drawn.sample(range(clean[site].shape[1]), 4)
            cells.append((site, share.encoder, tuple({*others, share.corruption.positions[-1]})))
    rows = [restoration(0, (site,), {encoder: spots}) for site, encoder, spots in cells]
    ((states, options),) = corrupted.encoding.conditioning(corrupted.encode([restoration(0), *rows]))
    moved = 0
    for row, (site, _, spots) in enumerate(cells, 1):
        wanted = by_hand(clip, shares, (modules[site], putting_back(clean[site], list(spots))))
        own = (
            {"pooled_output": options["pooled_output"][row : row + 1]}
            if wanted[0][1]["pooled_output"] is not None
            else {}
        )
        assert_alike([(states[row : row + 1], own)], wanted)
        moved += not torch.allclose(states[row], states[0], atol=1e-3)
    # The last layers' feed the pooled vector alone, or nothing, at a clip skip.
    assert moved > 4
    assert hooks_of(clip.cond_stage_model) == 0
    assert "encode_token_weights" not in vars(clip.cond_stage_model)
    assert not any("encode" in vars(getattr(clip.cond_stage_model, child)) for child, _ in encoders.values())


def weighted_and_long(name):
    """The prompt, one whose words are weighed, and one that CLIP reads in two parts."""
    return [PROMPT, PROMPT.replace("red star", "(red star:1.4)"), *["red circle, " * 40 + PROMPT] * (name == "sdxl")]


def test_everything_restored_is_the_clean_prompt_to_the_bit(name, tracing):
    corrupt, restoration = tracing
    clip = clip_named(name)
    for prompt in weighted_and_long(name):
        corrupted = corrupt(clip, prompt)
        names = tuple(site.name for site in corrupted.sites)
        made = corrupted.encoding.conditioning(
            corrupted.encode([restoration(None), restoration(0), restoration(0, names)])
        )
        for (states, options), (plain, more) in zip(made, stock(clip, prompt), strict=True):
            assert torch.equal(states[2], states[0]) and not torch.equal(states[1], states[0])
            torch.testing.assert_close(states[:1], plain, atol=3e-5, rtol=1e-4)
            assert set(options) == set(more)
            for key, value in more.items():
                if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1:
                    assert torch.equal(options[key][2], options[key][0])
                    torch.testing.assert_close(options[key][:1], value, atol=3e-5, rtol=1e-4)
                elif isinstance(value, torch.Tensor):
                    assert torch.equal(options[key], value)


@pytest.mark.newest
@pytest.mark.parametrize("tapped", TAPPED)
def test_a_restored_tap_is_its_slice_of_the_conditioning(tapped, tracing):
    corrupt, restoration = tracing
    clip = clip_named(tapped)
    corrupted = corrupt(clip)
    taps = [site.name for site in corrupted.sites if site.kind == "tap"]
    (encoder,) = CLIPS[tapped]
    assert taps == [f"text.{encoder}.{layer}.tap" for layer in range(3)]
    rows = [restoration(None), restoration(0), *(restoration(0, (tap,)) for tap in taps)]
    (((clean, hidden, *restored), _),) = corrupted.encoding.conditioning(corrupted.encode(rows))
    width = clean.shape[-1] // 3
    for number, states in enumerate(restored):
        # Klein, Flux.2 and Krea 2 set the taps side by side, one behind another.
        own = slice(number * width, (number + 1) * width)
        assert torch.equal(states[:, own], clean[:, own]) and not torch.equal(clean[:, own], hidden[:, own])
        others = [column for column in range(3 * width) if not own.start <= column < own.stop]
        assert torch.equal(states[:, others], hidden[:, others])


def test_the_pooled_vector_is_a_site_of_its_own(tracing):
    """Of SDXL, CLIP-G's alone is read; the states stay corrupted where it is put back, and the other way round."""
    corrupt, restoration = tracing
    corrupted = corrupt(clip_named("sdxl"))
    assert [site.name for site in corrupted.sites if site.kind == "pooled"] == ["text.g.pooled"]
    layers = tuple(site.name for site in corrupted.sites if site.name in ("text.l.1.hidden", "text.g.1.hidden"))
    rows = [restoration(None), restoration(0), restoration(0, ("text.g.pooled",)), restoration(0, layers)]
    ((states, options),) = corrupted.encoding.conditioning(corrupted.encode(rows))
    pooled = options["pooled_output"]
    assert torch.equal(states[2], states[1]) and torch.equal(pooled[2], pooled[0])
    # The states are read before the last layer, which makes the pooled vector: it follows what was restored before it.
    assert torch.equal(states[3], states[0]) and not torch.equal(pooled[1], pooled[0])
    # Computed again in another row of the batch, and not copied.
    torch.testing.assert_close(pooled[3], pooled[0], atol=1e-5, rtol=0)
    assert not torch.equal(pooled[1], pooled[0])
    last = corrupted.conditioning(restoration(0, ("text.g.2.hidden",)))
    assert torch.equal(last[0][0], corrupted.conditioning(restoration(0))[0][0])
    torch.testing.assert_close(last[0][1]["pooled_output"], pooled[:1], atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("encoder", ["l", "g"])
def test_one_encoder_alone_is_corrupted(tracing, encoder):
    corrupt, restoration = tracing
    corrupted = corrupt(clip_named("sdxl"), encoder=encoder)
    assert {site.encoder for site in corrupted.sites} == {encoder}
    ((states, options),) = corrupted.encoding.conditioning(corrupted.encode([restoration(None), restoration(0)]))
    width = small_sdxl_width()
    same = {"l": states[:, :, width:], "g": states[:, :, :width]}[encoder]
    assert torch.equal(same[0], same[1]) and not torch.equal(states[0], states[1])
    pooled = options["pooled_output"]
    assert torch.equal(pooled[0], pooled[1]) == (encoder == "l")


def small_sdxl_width():
    from small_sdxl import L_WIDTH

    return L_WIDTH


@pytest.mark.parametrize(("name", "words"), [("sdxl", "bridget riley"), ("flux", "monet"), ("z-image", "monet")])
def test_other_words_are_each_encoders_own(tracing, name, words):
    """The words take the subject's place token by token; where they are as many tokens, it is the other prompt."""
    corrupt, restoration = tracing
    clip = clip_named(name)
    corrupted = corrupt(clip, replaced_by=words)
    for share, reading in zip(corrupted.case.shares, corrupted.readings, strict=True):
        ids = [
            token
            for part in clip.tokenize(PROMPT.replace("van gogh", words))[reading.encoder.stream]
            for token, _ in part
        ]
        spots, own = list(reading.subject), list(reading.given)
        table = reading.encoder.module.transformer.get_input_embeddings().weight.float()
        shifted = table[own[spots[0]]] + share.corruption.deltas[0, 0]
        torch.testing.assert_close(shifted, table[ids[spots[0]]], atol=1e-5, rtol=1e-4)
    if name == "sdxl":
        other = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT.replace("van gogh", words)), show_pbar=False)
        assert_alike(corrupted.conditioning(restoration(0)), other)


def test_noise_is_scaled_by_each_encoders_own_embeddings(tracing):
    corrupt, _ = tracing
    corrupted = corrupt(clip_named("flux"), multiple=2.0)
    stds = []
    for share, reading in zip(corrupted.case.shares, corrupted.readings, strict=True):
        table = reading.encoder.module.transformer.get_input_embeddings().weight.float()
        own = table[[reading.given[place] for place in share.corruption.positions]]
        assert share.corruption.std == pytest.approx(2 * float(own.std()), rel=1e-5)
        stds.append(share.corruption.deltas.flatten()[:8])
    assert not torch.allclose(stds[0] / stds[0].norm(), stds[1] / stds[1].norm(), atol=0.1)


def test_templates_padding_and_the_subject_are_told_apart(tracing):
    """Z-Image's chat template stands around the text; Flux.1 pads T5's tokens, which read what stands behind them."""
    corrupt, _ = tracing
    (qwen,) = corrupt(clip_named("z-image")).readings
    assert "".join(qwen.labels[place] for place in qwen.subject) == "vangogh"
    found = qwen.places()
    assert [qwen.labels[place] for place in found["later tokens"]] == [",", "at", "night"]
    assert "<|im_end|>" in [qwen.labels[place] for place in found["end of text"]]
    assert found["padding"] == () and found["earlier tokens"] == ()
    _, t5 = corrupt(clip_named("flux")).readings
    found = t5.places()
    assert "".join(t5.labels[place] for place in t5.subject) == "vangogh"
    assert len(found["padding"]) > 200 and found["earlier tokens"] == tuple(range(t5.subject[0]))
    assert found["end of text"] == (t5.tokens.eos,) and t5.given[t5.tokens.eos] == 1


@pytest.mark.newest
def test_padding_in_the_midst_of_a_template_is_no_text(tracing):
    """LongCat's template ends behind hundreds of pads."""
    from pack_under_test.nodes.host.tracing import encoders, readings

    clip = clip_named("longcat")
    (encoder,) = encoders.open_encoders(clip, PROMPT)
    reading = readings.read_prompt(clip, encoder, PROMPT, "van gogh")
    assert "".join(reading.labels[place] for place in reading.subject) == "vangogh"
    found = reading.places()
    assert [reading.labels[place] for place in found["later tokens"]] == [",", "at", "night"]
    assert set(found["padding"]).isdisjoint(found["end of text"]) and len(found["padding"]) > 300
    assert all(reading.given[place] == encoder.own.pad_token for place in found["padding"])
    assert len(reading.columns()[0]) < 20
