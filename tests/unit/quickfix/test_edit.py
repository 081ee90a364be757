"""From concepts to a weight edit: does the layer say what was asked, and nothing else (E5, E7, E9 to E11)."""

import dataclasses
import pickle

import pytest
import torch
from diff_quickfix.quickfix import (
    GUARDED,
    PAPER,
    POSITIONS,
    PRESERVED,
    ConceptEdit,
    EditSettings,
    TextTower,
    TowerError,
    WeightEdit,
    compute_edit,
    pair_tokens,
    preset,
)
from diff_quickfix.text.captions import PUBLISHED_TEMPLATES
from diff_quickfix.text.prompts import PromptError
from diff_quickfix.text.subjects import SubjectError
from transformers import CLIPTextConfig, CLIPTextModel

VAN_GOGH = ConceptEdit("van gogh", "painting")
WIDTH = 64


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    config = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    model = CLIPTextModel(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture(scope="module")
def tower(model):
    return TextTower.from_module(model)


def heard(model, tokenizer, texts, layer=0):
    """Input and output of transformers' own out_proj, (texts, 77, width)."""
    seen = []
    out_proj = getattr(model, "text_model", model).encoder.layers[layer].self_attn.out_proj
    hook = out_proj.register_forward_hook(lambda _, args, output: seen.extend((args[0], output)))
    with torch.no_grad():
        model(torch.tensor([prompt.ids for prompt in tokenizer.tokenize_all(texts)]))
    hook.remove()
    return seen


class Edited:
    """The model with an edit in place; its bits come back (E10)."""

    def __init__(self, model, edit):
        self.weight = getattr(model, "text_model", model).get_parameter(edit.weight_name)
        self.delta, self.before = edit.delta(), self.weight.detach().clone()

    def __enter__(self):
        self.weight.data.add_(self.delta)

    def __exit__(self, *_):
        self.weight.data.copy_(self.before)


@pytest.mark.parametrize("layer", [0, 2])
def test_the_edited_layer_says_the_target(model, tower, tokenizer, layer):
    """E9: the whole output, bias and all, is the target's output - once."""
    settings = EditSettings(layer=layer, lam=1e-6, positions=POSITIONS[0])
    edit = compute_edit(tower, tokenizer, [VAN_GOGH], settings)
    _, wanted = heard(model, tokenizer, ["painting", "A photo of painting"], layer)
    with Edited(model, edit):
        _, got = heard(model, tokenizer, ["van gogh", "A photo of van gogh"], layer)
    bias = getattr(model, "text_model", model).encoder.layers[layer].self_attn.out_proj.bias
    assert bias.abs().max() > 0.01
    torch.testing.assert_close(got[0, 2], wanted[0, 1], atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(got[1, 5], wanted[1, 4], atol=1e-3, rtol=1e-2)
    assert edit.report.efficacy > 0.99
    assert edit.report.pairs == 4 and edit.rank == 4


def test_published_bias_adds_the_bias_twice(model, tower, tokenizer):
    settings = EditSettings(lam=1e-6, positions=POSITIONS[0], published_bias=True)
    edit = compute_edit(tower, tokenizer, [VAN_GOGH], settings)
    _, wanted = heard(model, tokenizer, ["painting"])
    with Edited(model, edit):
        _, got = heard(model, tokenizer, ["van gogh"])
    bias = getattr(model, "text_model", model).encoder.layers[0].self_attn.out_proj.bias
    torch.testing.assert_close(got[0, 2], wanted[0, 1] + bias, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("settings", [PAPER, GUARDED, EditSettings(positions=POSITIONS[0]), EditSettings(layer=1)])
@pytest.mark.parametrize("names", [("van gogh",), ("van gogh", "claude monet", "snoopy")])
def test_equals_the_published_formula_on_captured_keys(model, tower, tokenizer, settings, names):
    """Oracle: transformers' activations and a dense fp64 solve of the paper's equation."""
    concepts = [ConceptEdit(name, "painting") for name in names]
    pairs = pair_tokens(tokenizer, [(name, "painting", PUBLISHED_TEMPLATES) for name in names], settings.positions)
    keys, outputs = heard(model, tokenizer, [caption.text for caption in pairs.captions], settings.layer)
    out_proj = getattr(model, "text_model", model).encoder.layers[settings.layer].self_attn.out_proj
    w0 = out_proj.weight.detach().double()
    k = keys[pairs.source[:, 0], pairs.source[:, 1]].double()
    v = (outputs - out_proj.bias.detach())[pairs.target[:, 0], pairs.target[:, 1]].double()
    kept = torch.zeros(0, WIDTH, dtype=torch.float64)
    preserve = [prompt for prompt in settings.preserve if not any(name in prompt for name in names)]
    if preserve:
        every = heard(model, tokenizer, preserve, settings.layer)[0].double()
        ids = torch.tensor([prompt.ids for prompt in tokenizer.tokenize_all(preserve)])
        distinct = {tuple(row[: p + 1].tolist()): (n, p) for n, row in enumerate(ids) for p in range(77)}
        kept = torch.stack([every[n, p] for n, p in distinct.values()])
    penalty = settings.lam * torch.eye(WIDTH, dtype=torch.float64) + settings.preserve_weight * kept.T @ kept
    exact = torch.linalg.solve(k.T @ k + penalty, (v.T @ k + w0 @ penalty).T).T - w0
    edit = compute_edit(tower, tokenizer, concepts, settings)
    assert edit.weight_name == f"encoder.layers.{settings.layer}.self_attn.out_proj.weight"
    assert (edit.delta().double() - exact).norm() < 1e-3 * exact.norm()
    left, start = (v - k @ (w0 + d).T for d in (edit.delta().double(), torch.zeros_like(w0)))
    assert edit.report.efficacy == pytest.approx(1 - float(left.norm() / start.norm()), abs=1e-3)
    assert edit.report.pairs == len(k)


def test_streams_long_lists_in_batches(tower, tokenizer):
    """E8: 70 concepts, two batches, give what one batch of sums gives; progress is told, and may cancel."""
    concepts = [ConceptEdit(f"artist number {number}", "painting") for number in range(70)]
    told = []
    whole = compute_edit(tower, tokenizer, concepts, PAPER, progress=lambda *step: told.append(step))
    assert told == [(1, 2), (2, 2)]
    backwards = compute_edit(tower, tokenizer, concepts[::-1], PAPER)
    torch.testing.assert_close(whole.delta(), backwards.delta(), rtol=1e-3, atol=1e-5)

    class Cancelled(Exception):
        pass

    def cancel(*_):
        raise Cancelled

    with pytest.raises(Cancelled):
        compute_edit(tower, tokenizer, concepts, PAPER, progress=cancel)


def test_nothing_is_changed_and_the_same_edit_comes_twice(model, tower, tokenizer):
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    edits = [compute_edit(tower, tokenizer, [VAN_GOGH], GUARDED) for _ in range(2)]
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert torch.equal(edits[0].up, edits[1].up) and torch.equal(edits[0].down, edits[1].down)
    inner = getattr(model, "text_model", model)
    hooks = [module for module in inner.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert not hooks


def test_only_the_edited_layer_and_those_before_it_are_read(tower, tokenizer):
    class Read(dict):
        def __getitem__(self, name):
            seen.add(name)
            return super().__getitem__(name)

    seen = set()
    watched = TextTower.from_weights(Read(tower.weights), heads=tower.heads)
    compute_edit(watched, tokenizer, [VAN_GOGH], GUARDED)
    assert seen == {
        "embeddings.token_embedding.weight",
        "embeddings.position_embedding.weight",
        *(f"encoder.layers.0.layer_norm1.{part}" for part in ("weight", "bias")),
        *(f"encoder.layers.0.self_attn.{p}_proj.{part}" for p in ("q", "k", "v", "out") for part in ("weight", "bias")),
    }


def test_one_concept_twice_weighs_double(tower, tokenizer):
    """E7."""
    other = ConceptEdit("snoopy", "dog", kind="object")
    once, twice, swapped = (
        compute_edit(tower, tokenizer, concepts, EditSettings(positions=POSITIONS[0], lam=0.5)).delta()
        for concepts in ([VAN_GOGH, other], [VAN_GOGH, VAN_GOGH, other], [other, VAN_GOGH])
    )
    torch.testing.assert_close(once, swapped, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(once, twice, rtol=1e-3, atol=1e-6)
    alone = [compute_edit(tower, tokenizer, [VAN_GOGH] * n, EditSettings(lam=0.25 * n)).delta() for n in (1, 3)]
    torch.testing.assert_close(alone[0], alone[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("naming", ["kohya", "comfyui"])
@pytest.mark.parametrize("settings", [PAPER, GUARDED])
def test_a_lora_is_the_edit(tower, tokenizer, naming, settings):
    """E11 and invariant 3, by the rule of every loader: weight + strength * alpha / rank * up @ down."""
    edit = compute_edit(tower, tokenizer, [VAN_GOGH], settings)
    lora = edit.lora(naming=naming)
    key = {
        "kohya": "lora_te_text_model_encoder_layers_0_self_attn_out_proj",
        "comfyui": "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.out_proj",
    }[naming]
    up, down, alpha = (lora.pop(f"{key}.{part}") for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    assert not lora
    for strength in (0.0, 1.0, -0.5):
        loaded = strength * float(alpha) / down.shape[0] * (up.double() @ down.double())
        torch.testing.assert_close(edit.delta(strength).double(), loaded, rtol=1e-4, atol=1e-6)
    assert edit.lora("lora_te1_text_model").keys() == {
        f"lora_te1_text_model_encoder_layers_0_self_attn_out_proj.{part}"
        for part in ("lora_up.weight", "lora_down.weight", "alpha")
    }
    assert (
        edit.lora(dtype=torch.float16)["lora_te_text_model_encoder_layers_0_self_attn_out_proj.lora_up.weight"].dtype
        == torch.float16
    )
    with pytest.raises(ValueError, match="Unknown LoRA naming 'peft'"):
        edit.lora(naming="peft")


def test_an_edit_that_does_nothing_is_still_a_lora(tower, tokenizer):
    edit = compute_edit(tower, tokenizer, [VAN_GOGH], PAPER)
    nothing = dataclasses.replace(edit, up=edit.up[:, :0], down=edit.down[:0])
    assert torch.equal(nothing.delta(), torch.zeros(WIDTH, WIDTH))
    up, down, alpha = nothing.lora().values()
    assert float(alpha) == down.shape[0] == up.shape[1] == 1
    assert not up.any() and not down.any()


def test_an_edit_holds_its_own_tensors(tower, tokenizer):
    edit = compute_edit(tower, tokenizer, [VAN_GOGH], PAPER)
    up, down = edit.up.clone(), edit.down.clone()
    copy = WeightEdit(edit.weight_name, up, down, edit.concepts, edit.settings, edit.report)
    up.zero_()
    assert torch.equal(copy.up, edit.up) and not up.any()
    with pytest.raises(dataclasses.FrozenInstanceError):
        copy.up = down
    assert edit.nbytes == 4 * edit.rank * 2 * WIDTH == edit.report.nbytes
    assert torch.equal(edit.delta(0.0), torch.zeros(WIDTH, WIDTH))
    assert torch.equal(pickle.loads(pickle.dumps(edit)).delta(), edit.delta())
    with torch.inference_mode():
        edit = compute_edit(tower, tokenizer, [VAN_GOGH], PAPER)
    assert not edit.up.is_inference() and not edit.down.is_inference()


def test_guarded_prompts_keep_their_outputs(model, tower, tokenizer):
    """Invariant 4: a preserved prompt, the empty one among them, moves far less than without the preserve set."""
    prompts = list(PRESERVED)
    moved = []
    for settings in (dataclasses.replace(GUARDED, preserve=()), dataclasses.replace(GUARDED, preserve_weight=1e4)):
        edit = compute_edit(tower, tokenizer, [VAN_GOGH], settings)
        _, before = heard(model, tokenizer, prompts)
        with Edited(model, edit):
            _, after = heard(model, tokenizer, prompts)
        moved.append((after - before).flatten(1).norm(dim=1))
    assert (moved[1] < 0.05 * moved[0]).all()


def test_preserving_the_concept_itself(tower, tokenizer):
    edit = compute_edit(tower, tokenizer, [ConceptEdit("dog", "cat", kind="object")], GUARDED)
    assert edit.report.skipped_preserve == ("an image of a dog",)
    with pytest.raises(PromptError, match="'my van gogh' cannot be preserved"):
        compute_edit(tower, tokenizer, [VAN_GOGH], EditSettings(preserve=("my van gogh",)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ConceptEdit(" ", "x"), PromptError, "source concept is empty"),
        (lambda: ConceptEdit("snoopy", "", kind="object"), PromptError, "target of 'snoopy' is empty"),
        (lambda: ConceptEdit("snoopy", None, kind="object"), PromptError, "target of 'snoopy' is empty"),
        (lambda: ConceptEdit("Monet", " monet "), PromptError, "both 'Monet'"),
        (lambda: ConceptEdit("cafe\u0301", "caf\u00e9"), PromptError, "both"),
        (lambda: ConceptEdit("a", "b", kind="mood"), PromptError, "Unknown kind of concept 'mood'"),
        (lambda: ConceptEdit("a", "b", kind="custom"), PromptError, "templates"),
        (lambda: EditSettings(layer=-1), ValueError, "layer is -1"),
        (lambda: EditSettings(lam=0.0), ValueError, "lambda is 0.0"),
        (lambda: EditSettings(positions="all"), ValueError, "Unknown positions 'all'"),
        (lambda: EditSettings(preserve="a dog"), ValueError, "preserve is a string"),
        (lambda: EditSettings(preserve_weight=float("nan")), ValueError, "preserve_weight is nan"),
        (lambda: preset("strong"), ValueError, "Unknown preset 'strong'"),
    ],
)
def test_bad_requests_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_impossible_edits_are_refused_before_work(tower, tokenizer):
    cases = [
        ([], PAPER, PromptError, "No concepts"),
        ([VAN_GOGH, ConceptEdit("Van  Gogh", "monet")], PAPER, PromptError, "two targets, 'painting' and 'monet'"),
        ([ConceptEdit("van gogh", "van  gogh")], PAPER, PromptError, "same tokens"),
        ([VAN_GOGH], EditSettings(layer=3), TowerError, "no layer 3"),
        ([ConceptEdit("very " * 80 + "long", "painting")], PAPER, SubjectError, "cut off"),
        ([ConceptEdit("cat", "dog", kind="custom", templates=("a photo",))], PAPER, PromptError, r"no \{x\}"),
    ]
    for concepts, settings, error, message in cases:
        with pytest.raises(error, match=message):
            compute_edit(tower, tokenizer, concepts, settings)


def test_presets():
    assert preset("paper") == PAPER == EditSettings(layer=0, lam=0.01, preserve=(), published_bias=False)
    assert preset("guarded").preserve and "" in preset("guarded").preserve
    assert ConceptEdit(" van gogh", None, templates=PUBLISHED_TEMPLATES) == VAN_GOGH
