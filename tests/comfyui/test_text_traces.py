"""Traces of CLIPs with several text encoders, with T5 and with decoder language models."""

import functools
import random

import pytest
import torch
from runs import hooks_of, sweep_inputs
from small_encoders import objects
from small_sdxl import small_clip, small_model

pytestmark = pytest.mark.usefixtures("inference")

PROMPT = "a photo of a red star in the style of van gogh, at night"
# Of each CLIP: the encoders in it, by the names of their sites, with their modules and the shape of their layers.
CLIPS = {
    "sdxl": {"l": ("clip_l", "clip"), "g": ("clip_g", "clip")},
    "flux": {"l": ("clip_l", "clip"), "t5": ("t5xxl", "t5")},
    "wan": {"umt5": ("umt5xxl", "t5")},
    "z-image": {"qwen": ("qwen3_4b", "decoder")},
    "lumina2": {"gemma": ("gemma2_2b", "decoder")},
    "krea2": {"qwen": ("qwen3vl_4b", "decoder")},
    "flux2": {"mistral": ("mistral3_24b", "decoder")},
    "newbie": {"gemma": ("gemma", "decoder"), "jina": ("jina", "jina")},
}
TAPPED = ("krea2", "flux2")
KINDS = ("self_attn", "mlp", "hidden")


@functools.cache
def clip_named(name):
    return small_clip() if name == "sdxl" else objects(name)[1]


@pytest.fixture(params=[pytest.param(one, marks=[pytest.mark.newest] * (one == "krea2")) for one in CLIPS])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def tracing(pack):
    from pack_under_test.nodes.host.tracing import corrupted
    from pack_under_test.tracing.runs.cases import Restoration

    def corrupt(clip, prompt=PROMPT, **settings):
        return corrupted.corrupt_prompt(clip, prompt, "van gogh", corrupted.CorruptionSettings(**settings))

    return corrupt, Restoration


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
    assert torch.equal(states[3], states[0]) and torch.equal(pooled[3], pooled[0])
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


# --- nodes -----------------------------------------------------------------------------------------------------------


class Vae:
    """In place of a VAE: "pictures" of any result."""

    def decode(self, results):
        return torch.zeros(len(results), 8, 8, 3)


@pytest.fixture
def trace_states(nodes, monkeypatch):
    """Run the tracing node on a CLIP with a painter that gives the text states at one token, or the pooled vector."""
    from pack_under_test.nodes.host.tracing import causal_trace

    def run(clip, read, **changes):
        def painter(*args, **kwargs):
            return lambda conditioning, seed, patches: read(conditioning[0])

        inputs = sweep_inputs((small_model(), clip, Vae()), prompts=PROMPT.replace("van gogh", "[van gogh]"), **changes)
        with monkeypatch.context() as patch:
            patch.setattr(causal_trace, "make_painter", painter)
            patch.setattr(causal_trace, "vae_parts", lambda vae: {})
            return nodes["DiffQuickFix_CausalTraceText"].execute(**{"columns": "tokens", **inputs}).args[0]

    return run


def planted(layer):
    """SDXL's CLIP in which nothing reads another token but one layer of CLIP-G: it alone carries the subject on."""
    clip = small_clip()
    for child in ("clip_l", "clip_g"):
        for number, block in enumerate(getattr(clip.cond_stage_model, child).transformer.text_model.encoder.layers):
            block.mlp.fc2.weight.zero_()
            if (child, number) != ("clip_g", layer):
                block.self_attn.out_proj.weight.zero_()
    return clip


@pytest.mark.parametrize("layer", [0, 1])
def test_a_trace_finds_the_one_layer_that_carries_the_subject(trace_states, run, layer):
    clip = planted(layer)

    def at_the_end(entry):
        return entry[0][:, 16]

    trace = trace_states(clip, at_the_end, kind="self_attn", controls=0)
    assert trace.columns == ("van", "gogh", ",", "at", "night", "<end>", "<padding>")
    assert len(trace.sites) == 6
    effects = trace.average_indirect_effect()
    row, column = trace.sites.index(f"text.g.{layer}.self_attn"), trace.columns.index("<end>")
    total = float(trace.total_effects().mean())
    assert total > 0.01 and float(effects[row, column]) == pytest.approx(total, rel=1e-4)
    effects[row, column] = 0
    assert effects.abs().max() < 1e-4 * total
    found, kind, site, _, report = run("LocateCausalState", trace, "self_attn").args
    assert (found, kind, site) == (layer, "self_attn", f"text.g.{layer}.self_attn") and "'<end>'" in report
    # CLIP-L carries nothing: hidden in it alone, the subject is not missed.
    deaf = trace_states(clip, at_the_end, kind="self_attn", controls=0, encoder="l")
    assert float(deaf.total_effects().abs().max()) == 0 and {site[:7] for site in deaf.sites} == {"text.l."}


def test_pooled_cells_stand_where_the_vector_is_read(trace_states, run):
    trace = trace_states(
        clip_named("sdxl"),
        lambda entry: entry[1]["pooled_output"],
        kind="all",
        sites="text.g.*",
        columns="places",
        controls=3,
    )
    row = trace.restored[0, 0, 0, trace.sites.index("text.g.pooled")]
    measured = [column for column, value in zip(trace.columns, row, strict=True) if value.isfinite()]
    assert measured == ["subject and later", "end of text", "all"]
    assert trace.restored[0, 0, 0, : trace.sites.index("text.g.pooled")].isfinite().all()
    # Put back, it is the clean vector.
    assert row[row.isfinite()].abs().max() < 1e-6 and float(trace.corrupted) < -0.01
    found, kind, site, *_ = run("LocateCausalState", trace, "pooled").args
    assert (found, kind, site) == (-1, "pooled", "text.g.pooled")


def test_encoders_of_other_tokens_share_places_only(trace_states):
    clip = clip_named("flux")
    with pytest.raises(ValueError, match=r"l and t5 cut the prompt into different tokens .* sites: text\.t5\.\*"):
        trace_states(clip, lambda entry: entry[0][:, -1])
    trace = trace_states(clip, lambda entry: entry[0][:, 0], kind="hidden", columns="places", controls=0)
    assert trace.columns[0] == "earlier tokens"
    values = dict(zip(trace.sites, trace.restored[0, 0, 0, :, 0], strict=True))
    # CLIP-L's earlier tokens never see the subject: nothing to restore. T5's first state is the one that is read.
    assert not values["text.l.0.hidden"].isfinite() and abs(float(values["text.t5.1.hidden"])) < 1e-5
    tokens = trace_states(clip, lambda entry: entry[0][:, 0], sites="text.t5.*", controls=0)
    assert tokens.columns.index("photo") < tokens.columns.index("van") and tokens.restored.isfinite().all()


@pytest.mark.parametrize(
    ("clip", "settings", "message"),
    [
        ("sdxl", {"encoder": "t5"}, "no text encoder 't5': found l, g"),
        ("flux", {"replaced_by": "the president of the united states of america"}, "at most"),
        ("z-image", {"replaced_by": "the president of the united states"}, "the text encoder qwen: .*at most"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(tracing, clip, settings, message):
    with pytest.raises(ValueError, match=message):
        tracing[0](clip_named(clip), **settings)


def test_a_restored_unet_has_a_clean_pooled_vector_beside_it(run, restore_unet):
    """SDXL's UNet reads it: with every block put back from a clean run, the picture is the clean prompt's."""
    import nodes as stock_nodes

    model, clip = small_model(), clip_named("sdxl")
    corrupted, clean, corruption = run("CorruptPrompt", clip, PROMPT, "van gogh", 3.0, 0).args
    negative = stock_nodes.CLIPTextEncode().encode(clip, "")[0]

    def paint(painter, positive):
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        return stock_nodes.common_ksampler(painter, 3, 2, 4.0, "euler", "normal", positive, negative, latent)[0][
            "samples"
        ]

    wanted = paint(model, clean)
    found = paint(restore_unet(model, corruption, "*.block"), corrupted)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-3)
    assert not torch.allclose(wanted, paint(model, corrupted), atol=1e-2)


@pytest.mark.newest
def test_shapes_xl_is_traced_over_both_its_towers(nodes, run):
    """What is shipped, through the stock sampler: clean and corrupted pictures are the stock nodes' own."""
    import nodes as stock_nodes

    model, clip, vae = run("LoadShapesDemo", variant="Shapes XL").args
    text, words = "a red star on grass, in the style of gustav klimt", "frank stella"
    negative = stock_nodes.CLIPTextEncode().encode(clip, "")[0]
    latent = {"samples": torch.zeros(1, 16, 16, 16)}
    inputs = sweep_inputs(
        (model, clip, vae),
        prompts=text.replace("gustav klimt", "[gustav klimt]"),
        latent=latent,
        negative=negative,
        kind="all",
        sites="text.?.0.self_attn, text.g.pooled",
        replaced_by=words,
        steps=3,
        cfg=5.0,
        controls=0,
        columns="tokens",
    )
    trace, pictures = nodes["DiffQuickFix_CausalTraceText"].execute(**inputs).args
    assert trace.sites == ("text.l.0.self_attn", "text.g.0.self_attn", "text.g.pooled")
    assert pictures.shape == (3, 128, 128, 3) and float(trace.total_effects()) > 0.05
    pooled = trace.restored[0, 0, 0, 2]
    assert [column for column, value in zip(trace.columns, pooled, strict=True) if value.isfinite()] == ["<end>"]
    hidden, clean, corruption = run("CorruptPrompt", clip, text, "gustav klimt", 3.0, 0, words).args
    stock_states = stock_nodes.CLIPTextEncode().encode(clip, text)[0]
    torch.testing.assert_close(clean[0][0], stock_states[0][0], atol=2e-5, rtol=1e-4)
    restored = run("RestoreTextState", corruption, 0, "pooled", "all", "g").args[0]
    reference, other, put_back = (
        stock_nodes.common_ksampler(model, 0, 3, 5.0, "ddim", "normal", positive, negative, latent)[0]["samples"]
        for positive in (stock_states, hidden, restored)
    )
    for place, made in enumerate((reference, other)):
        torch.testing.assert_close(pictures[place], vae.decode(made)[0], atol=2e-3, rtol=1e-2)
    score = -float((put_back - reference).square().mean().sqrt())
    assert score == pytest.approx(float(pooled[pooled.isfinite()]), rel=2e-2)
