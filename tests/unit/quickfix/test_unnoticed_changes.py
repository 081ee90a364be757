"""Single changes to the code that no test noticed once, each held down by an oracle of its own."""

import dataclasses
import os

import pytest
import torch
from diff_quickfix.output import files
from diff_quickfix.quickfix import (
    GUARDED,
    PAPER,
    POSITIONS,
    ConceptEdit,
    HeldSpan,
    Ledger,
    Statistics,
    StorageRounding,
    TensorFile,
    TensorFileError,
    TextTower,
    build_guard,
    compute_edit,
    find_lambda,
    find_target,
    measure_effect,
    open_text_encoder,
    preserved_gram,
    save_edit,
    solve_residuals,
)
from diff_quickfix.quickfix.concepts.built_in import KNOWN_NAMES
from diff_quickfix.quickfix.encoder.attention import attend, attend_rows
from diff_quickfix.quickfix.files.text_encoder_file import ModelFileError
from diff_quickfix.quickfix.measure.radar import names_gram
from diff_quickfix.quickfix.measure.stopwatch import Stopwatch
from diff_quickfix.quickfix.measure.verdict import HARMFUL_DRIFT, WEAK_EFFICACY, judge
from diff_quickfix.quickfix.solver.low_rank import LowRank
from diff_quickfix.quickfix.solver.preserved import gram_of
from diff_quickfix.quickfix.solver.spectrum import Spectrum
from diff_quickfix.quickfix.stream import CONCEPTS, PairKeys, encode_pairs, gather_pairs, tokenize_pairs
from diff_quickfix.text.prompts import PromptError
from diff_quickfix.text.subjects import naming_any
from model_files import LAYOUTS, laid_out, tower_weights, write
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

VAN_GOGH, MONET = ConceptEdit("van gogh", "painting"), ConceptEdit("claude monet", "painting")
SNOOPY = ConceptEdit("snoopy", "dog", "object")
WIDTH, OUT = 40, 32


@pytest.fixture(scope="module")
def wide(tokenizer):
    """A tower in which a held prompt leaves room, and few pairs are fewer than it is wide."""
    torch.manual_seed(21)
    config = CLIPTextConfig(hidden_size=160, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    return TextTower.from_module(CLIPTextModel(config))


def rows(count, width=WIDTH, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


# --- the solver ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [9, 70])
def test_the_condition_is_that_of_the_projected_system(n):
    """Oracle: the projected matrix made densely. The held direction is by far the largest, so that it would show."""
    big = torch.zeros(1, WIDTH)
    big[0, 0] = 100.0
    keys, held = rows(n) + big, HeldSpan.of(big)
    kept = preserved_gram(rows(5, seed=1), 0.7, held)
    sums = Statistics.empty(WIDTH, OUT).add(keys, rows(n, OUT, seed=2))
    projection = torch.eye(WIDTH, dtype=torch.float64) - held.basis.T @ held.basis
    wanted = 1 + float(torch.linalg.matrix_norm(projection @ sums.gram @ projection + kept, 2)) / 0.3
    assert sums.condition(lam=0.3, kept=kept, held=held) == pytest.approx(wanted, rel=0.02)
    assert sums.condition(lam=0.3, kept=kept) > 20 * wanted


def test_other_targets_are_projected_too():
    """The spectrum of one target, turned to another, is the spectrum of the other, held span and all."""
    keys, held = rows(60), HeldSpan.of(rows(6, seed=3))
    sums = [Statistics.empty(WIDTH, OUT).add(keys, rows(60, OUT, seed=seed)) for seed in (4, 5)]
    turned = Spectrum(sums[0], held=held).toward(sums[1])
    wanted = Spectrum(sums[1], held=held)
    for lam in (1e-3, 1.0):
        torch.testing.assert_close(turned.delta(lam), wanted.delta(lam), rtol=1e-9, atol=1e-11)
        assert turned.efficacy(lam) == pytest.approx(wanted.efficacy(lam), abs=1e-9)
        assert float((turned.delta(lam) @ held.basis.T).norm()) < 1e-9


# --- streamed pairs --------------------------------------------------------------------------------------------------


def test_batches_joined_as_they_are_give_each_pair_its_own_target():
    parts = [
        PairKeys(rows(4, seed=seed), rows(3, seed=seed + 9), torch.tensor([2, 0, 1, 2]), weights)
        for seed, weights in ((0, None), (1, torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)))
    ]
    joined = PairKeys.joined(parts)
    assert torch.equal(joined.changes(), torch.cat([part.changes() for part in parts]))
    assert joined.weights.tolist() == [1, 1, 1, 1, 1, 2, 3, 4]
    total, apart = joined.sums(), parts[0].sums() + parts[1].sums()
    for name in ("gram", "moment", "change", "keys", "changes"):
        torch.testing.assert_close(getattr(total, name), getattr(apart, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [CONCEPTS + 1, 2 * CONCEPTS + 1])
def test_a_small_last_batch_is_added_to_the_sums(small_tower, tokenizer, count):
    """Oracle: all pairs at once. The last concept's pairs are fewer than the keys are wide."""
    concepts = [ConceptEdit(f"artist {number}", "painting", templates=("{x}",)) for number in range(count)]
    settings = dataclasses.replace(PAPER, positions=POSITIONS[0])
    gathered = gather_pairs(small_tower, tokenizer, concepts, settings, Stopwatch())
    whole = encode_pairs(small_tower, tokenize_pairs(tokenizer, concepts, POSITIONS[0]), settings).sums()
    assert gathered.few is None
    assert len(gathered) == whole.pairs == count
    torch.testing.assert_close(gathered.sums.gram, whole.gram, rtol=1e-6, atol=1e-6)


def test_few_pairs_obey_what_is_held(wide, tokenizer):
    settings = dataclasses.replace(PAPER, positions=POSITIONS[0], hold=("",))
    pairs = gather_pairs(wide, tokenizer, [VAN_GOGH], settings, Stopwatch())
    assert pairs.few is not None
    guard = build_guard(wide, tokenizer, [VAN_GOGH], settings)
    update = pairs.solve(settings.lam, guard)
    keys = wide.attention_inputs([tokenizer.tokenize("").ids], 0)[0]
    weight = wide.weight(wide.out_proj_name(0))
    assert float(((keys @ update.delta().T).norm(dim=1) / (keys @ weight.T).norm(dim=1)).max()) < 1e-5
    assert update.rank > 0
    residuals = pairs.few.residuals(pairs.weight, pairs.bias)
    free = solve_residuals(pairs.few.source, residuals, lam=settings.lam)
    assert float((keys @ free.delta().T).norm()) > 1e-3 * float((keys @ weight.T).norm())


# --- the encoder -----------------------------------------------------------------------------------------------------


def test_captions_with_other_tails_do_not_share_them():
    """Padding of one kind and a repeated word of another, from the same position on: each attends to its own."""
    ids = torch.tensor([[1, 2, *[7] * 12], [3, 4, *[8] * 12], [1, 5, *[7] * 12]])
    distinct, lookup = torch.unique(torch.arange(14) * 10 + ids, return_inverse=True)
    q, k, v = torch.randn(3, len(distinct), 12, generator=torch.Generator().manual_seed(2)) * 2
    wanted = attend(q[lookup], k[lookup], v[lookup], 3)
    torch.testing.assert_close(attend_rows(q, k, v, lookup, ids, 3, 0), wanted, rtol=1e-4, atol=1e-5)


def test_the_norms_own_epsilon_counts():
    torch.manual_seed(4)
    config = CLIPTextConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, layer_norm_eps=0.3
    )
    model = CLIPTextModel(config).eval()
    ids = torch.tensor([[49406, 320, 1929, 49407]])
    with torch.no_grad():
        wanted = model(ids).last_hidden_state
    torch.testing.assert_close(TextTower.from_module(model).hidden_states(ids), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "encoder"), [(768, "clip_l"), (1024, "clip_h"), (1280, "sdxl_clip_g"), (64, "clip_l")]
)
def test_an_encoder_is_known_by_its_width(width, encoder):
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4, vocab_size=100
    )
    assert TextTower.from_module(CLIPTextModel(config)).encoder == encoder


# --- what is preserved -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.5, 3.0, 11.0])
@pytest.mark.parametrize("names", [1, 3])
def test_the_weight_of_what_is_preserved_counts_however_few_prompts_are_left(wide, tokenizer, weight, names):
    """Most of the built-in prompts name a concept here and are left out; the others keep their weight."""
    prompts = ("a painting by van gogh", "a painting by claude monet", "a painting by rembrandt", "a dog")
    concepts = [ConceptEdit(name, "photo") for name in ("van gogh", "claude monet", "rembrandt")[:names]]
    built_in = dataclasses.replace(PAPER, preserve=prompts[:3], preserve_weight=weight)
    left = [prompt for prompt in prompts[:3] if not naming_any([prompt], [c.source for c in concepts], tokenizer)]
    guard = build_guard(wide, tokenizer, concepts, built_in)
    if not left:
        assert guard.kept is None
        return
    keys = wide.attention_inputs([tokenizer.tokenize(prompt).ids for prompt in left], 0)
    # Padding and beginnings that prompts share are one key.
    distinct = torch.unique((keys.flatten(0, 1) * 2**12).round(), dim=0) / 2**12
    assert float(gram_of(guard.kept).trace()) == pytest.approx(
        weight * float(distinct.double().square().sum()), rel=1e-3
    )


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_a_built_in_prompt_that_names_the_concept_is_not_kept(wide, tokenizer, mode):
    settings = PAPER.keeping(("a painting by van gogh",), mode)
    guard = build_guard(wide, tokenizer, [VAN_GOGH], settings)
    assert guard.kept is None and guard.held is None and guard.skipped == ("a painting by van gogh",)
    edit = compute_edit(wide, tokenizer, [VAN_GOGH], settings)
    assert torch.equal(edit.delta(), compute_edit(wide, tokenizer, [VAN_GOGH], PAPER).delta())
    with pytest.raises(PromptError, match="names a concept that is edited"):
        build_guard(wide, tokenizer, [VAN_GOGH], PAPER.keeping(("my van gogh",), mode))


# --- the ledger ------------------------------------------------------------------------------------------------------


def test_of_equal_concepts_the_last_is_dropped(small_tower, tokenizer):
    first, last = VAN_GOGH, dataclasses.replace(VAN_GOGH, weight=5.0)
    ledger = Ledger.of(small_tower, tokenizer, [first, MONET, last], PAPER)
    assert ledger.drop("van gogh").concepts == (first, MONET)
    assert ledger.drop("van gogh").drop("van gogh").concepts == (MONET,)
    wanted = Ledger.of(small_tower, tokenizer, [first, MONET], PAPER)
    assert torch.equal(ledger.drop("van gogh").delta(), wanted.delta())


def test_another_preserve_weight_is_another_edit(small_tower, tokenizer):
    ledger = Ledger.of(small_tower, tokenizer, [VAN_GOGH], GUARDED)
    heavy = dataclasses.replace(GUARDED, preserve_weight=50.0)
    ledger.delta()
    wanted = compute_edit(small_tower, tokenizer, [VAN_GOGH], heavy).delta()
    for found in (ledger.delta(heavy), ledger.solve(heavy).delta()):
        assert float((found - wanted).norm()) < 1e-4 * float(wanted.norm())
    assert float((ledger.delta() - wanted).norm()) > 0.05 * float(wanted.norm())


# --- what is measured ------------------------------------------------------------------------------------------------


def test_names_of_the_concept_are_no_collateral(small_tower, tokenizer):
    """Oracle: the same figure from the names that do not hold the concept."""
    assert "Vincent van Gogh" in KNOWN_NAMES
    (found,) = find_target(small_tower, tokenizer, "van gogh", "style", ["painting"]).candidates
    edit = compute_edit(small_tower, tokenizer, [VAN_GOGH], dataclasses.replace(GUARDED, lam=found.lam))
    naming = naming_any(KNOWN_NAMES, ["van gogh"], tokenizer)
    assert naming
    delta = edit.delta().double()

    def moved(names):
        gram = names_gram(small_tower, tokenizer, 0, names)
        return float((delta @ gram * delta).sum()) ** 0.5

    assert found.collateral == pytest.approx(moved([n for n in KNOWN_NAMES if n not in naming]), rel=1e-3)
    assert moved(KNOWN_NAMES) > found.collateral * 1.0001


def test_drift_is_a_share_of_the_stream_before_the_edit(small_tower, tokenizer):
    """An update that doubles the stream drifts by what it adds over what was there."""
    prompts = tokenizer.tokenize_all(["a dog"])
    inputs, residual = small_tower.attention_states([prompts[0].ids], 0)
    big = LowRank(torch.eye(64) * 50, torch.eye(64))
    effect = measure_effect(small_tower, 0, big, prompts)
    change = inputs @ big.delta().T
    assert effect.drift == pytest.approx(float(change.norm() / residual.norm()), rel=1e-4) and effect.drift > 2
    assert effect.drift != pytest.approx(float(change.norm() / (residual + change).norm()), rel=0.1)


def report(**changes):
    from edit_reports import REPORT

    return dataclasses.replace(REPORT, generality=(("style", 1.0),), **changes)


def test_thresholds_stand_where_they_are_said_to(small_tower):
    """On the line is on the mild side; a hair over it is not."""
    hair = 1e-9
    for name in ("drift", "empty_prompt_drift"):
        assert judge(report(**{name: HARMFUL_DRIFT})).word != "harmful"
        assert judge(report(**{name: HARMFUL_DRIFT + hair})).word == "harmful"
    assert judge(report(efficacy=WEAK_EFFICACY)).word == "strong"
    assert judge(report(efficacy=WEAK_EFFICACY - hair)).word == "weak"


@pytest.mark.parametrize(
    ("efficacy", "realised", "blamed"), [(1.0, 0.6, False), (1.0, 0.4, True), (0.7, 0.6, True), (0.2, 0.9, False)]
)
def test_rounding_is_blamed_where_it_is_to_blame(efficacy, realised, blamed):
    storage = StorageRounding(error=0.1, swallowed=0.0, realised=realised)
    sentences = [finding.sentence for finding in judge(report(efficacy=efficacy, storage=storage)).findings]
    assert any("survives rounding" in sentence for sentence in sentences) == blamed


# --- files -----------------------------------------------------------------------------------------------------------


def test_an_edit_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    from edit_reports import make

    path = tmp_path / "a.safetensors"
    save_edit(make(), path)
    before, seen = path.read_bytes(), []
    replace = os.replace

    def watched(source, target):
        seen.append((path.read_bytes() == before, os.path.getsize(source)))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", watched)
    save_edit(make(seed=1), path, overwrite=True)
    assert seen and all(untouched and size == len(before) for untouched, size in seen), "written beside it first"
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    after = path.read_bytes()
    with pytest.raises(ValueError, match="Cannot write"):
        save_edit(make(seed=2), path, overwrite=True)
    assert path.read_bytes() == after and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_short_read_is_no_tensor(tmp_path):
    save_file({"a": torch.ones(100), "b": torch.arange(50.0)}, tmp_path / "a.safetensors")
    file = TensorFile(tmp_path / "a.safetensors")
    assert torch.equal(file.tensor("b"), torch.arange(50.0))
    os.truncate(tmp_path / "a.safetensors", os.path.getsize(tmp_path / "a.safetensors") - 60)
    for read in (lambda: file.tensor("b"), lambda: file.rows("b", torch.tensor([49]))):
        with pytest.raises(TensorFileError, match="has changed while it was read"):
            read()


def test_every_tensors_size_is_checked(tmp_path):
    """One tensor takes a few bytes from its neighbor; the file as a whole has the right size."""
    save_file({"a": torch.ones(4), "b": torch.ones(4)}, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    for wrong in (b"[0,12]", b"[0,20]"):
        (tmp_path / "b.safetensors").write_bytes(content.replace(b"[0,16]", wrong))
        with pytest.raises(TensorFileError, match="damaged header"):
            TensorFile(tmp_path / "b.safetensors")


def test_a_t5_beside_it_makes_a_model_of_several_encoders(tmp_path):
    """A checkpoint of CLIP-L and T5, as Flux's text encoders in one file."""
    stored = laid_out(tower_weights(768, 1, [0]), "comfyui")
    t5 = {"t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2, 2)}
    assert LAYOUTS["comfyui"]
    path = write(tmp_path / "both.safetensors", stored | t5)
    with pytest.raises(ModelFileError, match="several text encoders"):
        open_text_encoder(path)
    assert open_text_encoder(write(tmp_path / "one.safetensors", stored)).encoder == "clip_l"


def test_a_curve_without_a_held_span_is_another(wide, tokenizer):
    """Find Lambda counts what is held: its curve is that of the edits."""
    settings = dataclasses.replace(PAPER, hold=("",))
    curve = find_lambda(wide, tokenizer, [VAN_GOGH, SNOOPY], settings, [0.1])
    edit = compute_edit(wide, tokenizer, [VAN_GOGH, SNOOPY], dataclasses.replace(settings, lam=0.1))
    assert curve.efficacy[0] == pytest.approx(edit.report.efficacy, abs=1e-3)
    free = find_lambda(wide, tokenizer, [VAN_GOGH, SNOOPY], PAPER, [0.1])
    assert abs(free.efficacy[0] - curve.efficacy[0]) > 1e-3
