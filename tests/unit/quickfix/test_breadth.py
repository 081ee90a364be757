"""The guard by breadth: cached sums less the concept's own names are sums from nothing, and the names stay."""

import dataclasses
import json

import pytest
import torch
from diff_quickfix.output.json_records import from_json, to_json
from diff_quickfix.quickfix import (
    DOORS,
    GUARDED,
    POSITIONS,
    ConceptEdit,
    EditReport,
    Ledger,
    SolveError,
    StateTower,
    TextTower,
    build_guard,
    compute_edit,
    find_lambda,
    load_edit,
    measure_edit,
    save_edit,
)
from diff_quickfix.quickfix import breadth as module
from diff_quickfix.quickfix.breadth import BreadthError, keep_grams_in
from diff_quickfix.quickfix.concepts.names import SHORT, Caption, NameList
from diff_quickfix.quickfix.files import gram_cache
from diff_quickfix.text.prompts import PromptError
from diff_quickfix.text.rows import FILL
from transformers import CLIPTextConfig, CLIPTextModel

STAR = ConceptEdit("star", "circle", "object")
NAMES = ("horse", "oak tree", "star", "rock stars", "claude monet", "teapot", "red", "bridge", "wolf", "snow")
CONTEXTS = ("{x}", "a photo of {x}", "{x} beside a {thing}")
FILLINGS = ("house", "star", "boat", "dog", "cup", "tower")


def listed(names=NAMES):
    captions = []
    for number, name in enumerate(names):
        filling = FILLINGS[number % len(FILLINGS)]
        own = [Caption(c.replace("{x}", name).replace("{thing}", filling), c, ()) for c in CONTEXTS[:2]]
        text = CONTEXTS[2].replace("{x}", name).replace("{thing}", filling)
        captions.append((*own, Caption(text, CONTEXTS[2], (filling,))))
    return NameList(SHORT, tuple(names), tuple(captions), "/".join(names))


@pytest.fixture(autouse=True)
def small_list(monkeypatch):
    keep_grams_in(None)
    gram_cache.forget()
    monkeypatch.setattr(module, "name_list", lambda name: listed())
    yield
    keep_grams_in(None)
    gram_cache.forget()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(13)
    config = CLIPTextConfig(hidden_size=128, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return CLIPTextModel(config)


@pytest.fixture(scope="module")
def tower(model):
    return TextTower.from_module(model)


@pytest.fixture(scope="module")
def states(tower, tokenizer):
    def read(ids):
        rows = torch.tensor(ids)
        return tower.hidden_states(rows.masked_fill(rows == FILL, tokenizer.pad_token))

    return StateTower.of_prompts(read, tokenizer, [128], tower.token_table(), "sd1", shortens=True)


def broad(settings, **changes):
    return dataclasses.replace(settings, breadth=SHORT, **changes)


def mean_gram(tower, tokenizer, settings, captions):
    """From nothing, caption by caption."""
    total = torch.zeros(tower.width, tower.width, dtype=torch.float64)
    for text in captions:
        prompt = tokenizer.tokenize(text)
        keys = tower.attention_inputs([prompt.ids], settings.layer)[0].double()
        stop = 77 if settings.positions == POSITIONS[1] else prompt.eos + 1
        total += keys[1:stop].T @ keys[1:stop]
    return total / len(captions)


def others(*out):
    every = [caption.text for own in listed().captions for caption in own]
    return [text for text in every if not any(word in text for word in out)]


@pytest.mark.parametrize("where", ["layer 0", "layer 1", "doors"])
@pytest.mark.parametrize("source", ["star", "unnamed", "photo"])
def test_cached_sums_less_what_names_the_concept_are_sums_from_nothing(
    tower, states, tokenizer, where, source, tmp_path
):
    at, base = (states, DOORS) if where == "doors" else (tower, dataclasses.replace(GUARDED, layer=int(where[-1])))
    settings = broad(base, preserve=(), breadth_weight=5.0)
    concept = ConceptEdit(source, "circle", "object")
    keep_grams_in(tmp_path)
    wanted = 5.0 * mean_gram(at, tokenizer, settings, others(*{"star": ["star"], "photo": ["photo"]}.get(source, [])))
    for _ in range(2):
        # First made, then read from the file.
        found = build_guard(at, tokenizer, [concept], settings)
        torch.testing.assert_close(found.kept, wanted, rtol=1e-5, atol=1e-6 * float(wanted.trace()))
        gram_cache.forget()
    assert len(list(tmp_path.iterdir())) == 1
    assert found.breadth.captions == len(others("star")) if source == "star" else True
    assert found.breadth.left_out == (("star", "rock stars") if source == "star" else ())


def test_it_is_encoded_once_and_again_where_anything_differs(model, tower, tokenizer, tmp_path, monkeypatch):
    keep_grams_in(tmp_path)
    encoded = []
    summed = module.NameKeys._summed
    monkeypatch.setattr(module.NameKeys, "_summed", lambda *args: (encoded.append(len(args[3])), summed(*args))[1])
    concept, settings = ConceptEdit("van gogh", "painting"), broad(GUARDED)

    def made(at=tower, settings=settings):
        encoded.clear()
        gram_cache.forget()
        build_guard(at, tokenizer, [concept], settings)
        return bool(encoded)

    assert made() and not made() and not made(TextTower.from_module(model))
    assert not made(settings=broad(GUARDED, lam=0.5, breadth_weight=1.0, preserve=()))
    assert made(settings=broad(GUARDED, layer=1)) and made(settings=broad(GUARDED, positions=POSITIONS[0]))
    for name in ("encoder.layers.0.self_attn.k_proj.weight", "embeddings.token_embedding.weight"):
        weights = dict(tower.weights)
        weights[name] = weights[name].clone()
        place = (0, 0) if "proj" in name else (tokenizer.word_ids("teapot")[-1], 3)
        weights[name][place] += 1e-4
        changed = dataclasses.replace(tower, weights=weights)
        assert made(changed) and not made(changed)
    monkeypatch.setattr(module, "name_list", lambda name: listed(NAMES[:-1]))
    assert made()
    assert not made(settings=GUARDED)


def test_names_stay_and_the_concept_goes(tower, tokenizer):
    plain = compute_edit(tower, tokenizer, [STAR], dataclasses.replace(GUARDED, preserve=("",)))
    guarded = compute_edit(tower, tokenizer, [STAR], broad(GUARDED, preserve=("",)))
    assert guarded.report.efficacy > 0.5

    def moved(edit, text):
        keys = tower.attention_inputs([tokenizer.tokenize(text).ids], 0)
        return float((keys @ edit.delta().T).norm())

    for text in ("a photo of horse", "a photo of teapot", "oak tree"):
        assert moved(guarded, text) < 0.5 * moved(plain, text)
    assert "guarded by breadth: " in guarded.report.text() and "'rock stars'" in guarded.report.text()
    told = guarded.report.as_dict()["breadth"]
    assert (told["captions"], told["names"], told["contexts"]) == (len(others("star")), 8, 3)
    assert f"{told['captions']} captions of 8 names in up to 3 contexts ({SHORT})" in guarded.report.text()
    assert plain.report.breadth is None and plain.report.as_dict()["breadth"] is None


def test_a_selective_ridge_by_names(tower, tokenizer):
    """Oracle: the solve with the covariance as Gram matrix of what is preserved."""
    settings = broad(GUARDED, preserve=(), breadth_weight=0.0, selectivity=0.9)
    guard = build_guard(tower, tokenizer, [STAR], settings)
    mean = mean_gram(tower, tokenizer, settings, others("star"))
    lam, kept = guard.system(0.1)
    assert lam == pytest.approx(0.01)
    torch.testing.assert_close(kept, 0.09 * mean * 128 / mean.trace(), rtol=1e-5, atol=1e-6)
    edit = compute_edit(tower, tokenizer, [STAR], settings)
    plain = compute_edit(tower, tokenizer, [STAR], dataclasses.replace(settings, breadth="", selectivity=0.0))
    assert (edit.delta() - plain.delta()).norm() > 0.01 * plain.delta().norm()
    # Many lambdas are not solved by one decomposition here.
    with pytest.raises(SolveError, match="selectivity"):
        find_lambda(tower, tokenizer, [STAR], settings)


def test_the_ledger_solves_what_compute_edit_solves(tower, tokenizer):
    settings = broad(GUARDED, selectivity=0.5)
    monet = ConceptEdit("claude monet", "painting")
    ledger = Ledger.of(tower, tokenizer, [STAR], settings)
    for solved, concepts in ((ledger, [STAR]), (ledger.add(monet).drop("star"), [monet])):
        wanted = compute_edit(tower, tokenizer, concepts, settings)
        torch.testing.assert_close(solved.delta(), wanted.delta(), rtol=1e-3, atol=1e-5)
    assert solved.solve().report.breadth == wanted.report.breadth
    other = dataclasses.replace(settings, breadth_weight=0.0, selectivity=0.0)
    assert (ledger.delta(other) - ledger.delta()).norm() > 1e-3 * ledger.delta().norm()


def test_it_stands_in_the_file_and_old_files_load(tower, tokenizer, tmp_path):
    edit = compute_edit(tower, tokenizer, [STAR], broad(GUARDED, breadth_weight=7.0))
    save_edit(edit, tmp_path / "edit.safetensors")
    loaded = load_edit(tmp_path / "edit.safetensors")
    assert loaded.settings == edit.settings and loaded.settings.breadth == SHORT
    assert loaded.report.breadth == edit.report.breadth and loaded.report.breadth.weight == 7.0
    assert loaded.settings != dataclasses.replace(loaded.settings, breadth="")
    # A report that does not say how many names counted is read too.
    older = json.loads(json.dumps(to_json(edit.report)))
    older["breadth"] = older["breadth"][:5]
    assert from_json(EditReport, older, "report").breadth == edit.report.breadth._replace(names=0, contexts=0)
    # One of another version loads, applies and measures, and is not computed again.
    foreign = dataclasses.replace(loaded, settings=dataclasses.replace(loaded.settings, breadth="broad-77"))
    save_edit(foreign, tmp_path / "foreign.safetensors")
    foreign = load_edit(tmp_path / "foreign.safetensors")
    report = measure_edit(tower, tokenizer, foreign)
    assert report.breadth == edit.report.breadth and report.efficacy == pytest.approx(edit.report.efficacy, abs=1e-5)


def test_a_list_that_cannot_guard_is_refused_before_work_starts(tower, tokenizer, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(PromptError, match="no list of names 'broad-77'"):
        compute_edit(tower, tokenizer, [STAR], dataclasses.replace(GUARDED, breadth="broad-77"))
    monkeypatch.setattr(module, "name_list", lambda name: listed())
    monkeypatch.setattr(module, "WIDEST", 127)
    with pytest.raises(BreadthError, match="128 wide"):
        compute_edit(tower, tokenizer, [STAR], broad(GUARDED))


def test_progress_is_told_and_a_cancelled_list_is_not_kept(tower, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 8)
    keep_grams_in(tmp_path)
    told = []

    def cancelled(done, total):
        told.append((done, total))
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_edit(tower, tokenizer, [STAR], broad(GUARDED), progress=cancelled)
    assert told == [(0, 30), (8, 30), (16, 30)] and not list(tmp_path.iterdir())
    told.clear()
    compute_edit(tower, tokenizer, [STAR], broad(GUARDED), progress=lambda *at: told.append(at))
    assert told == [(0, 30), (8, 30), (16, 30), (24, 30), (30, 30), (1, 1)]


def test_wide_and_long_keys_are_read_a_few_captions_at_a_time(tower, tokenizer, monkeypatch):
    """Memory is bounded by the numbers in the keys, and the sums are the same."""
    settings, told = broad(GUARDED, preserve=(), breadth_weight=1.0), []
    whole = build_guard(tower, tokenizer, [STAR], settings, lambda *at: told.append(at)).kept
    assert told == [(0, 30), (30, 30)]
    gram_cache.forget()
    told.clear()
    sizes = []
    read = TextTower.attention_inputs
    monkeypatch.setattr(TextTower, "attention_inputs", lambda *a: (sizes.append(len(a[1])), read(*a))[1])
    monkeypatch.setattr(module, "_NUMBERS", 7 * 77 * 128)
    found = build_guard(tower, tokenizer, [STAR], settings, lambda *at: told.append(at))
    assert told == [(0, 30), (7, 30), (14, 30), (21, 30), (28, 30), (30, 30)]
    # The encoder's fingerprint, of 15 captions, is the only larger batch.
    assert sorted(sizes, reverse=True)[:2] == [15, 7]
    torch.testing.assert_close(found.kept, whole, rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(module, "_NUMBERS", 1)
    gram_cache.forget()
    told.clear()
    build_guard(tower, tokenizer, [STAR], settings, lambda *at: told.append(at))
    assert told[1] == (1, 30) and len(told) == 31


def test_several_concepts_are_left_out_together(tower, states, tokenizer):
    """Oracle: sums from nothing over what names none of them; few names out, and most of them."""
    concepts = [STAR, ConceptEdit("claude monet", "painting"), ConceptEdit("red", "blue", "object")]
    for at, base in ((tower, GUARDED), (states, DOORS)):
        settings = broad(base, preserve=(), breadth_weight=1.0)
        for edited, out in ((concepts[:2], ["star", "monet"]), (concepts, ["star", "monet", "red"])):
            found = build_guard(at, tokenizer, edited, settings)
            wanted = mean_gram(at, tokenizer, settings, others(*out))
            torch.testing.assert_close(found.kept, wanted, rtol=1e-5, atol=1e-6 * float(wanted.trace()))
            assert found.breadth.captions == len(others(*out))
        many = [ConceptEdit(name, "cup", "object") for name in NAMES[:8] if name != "rock stars"]
        found = build_guard(at, tokenizer, many, settings)
        left = others("horse", "oak tree", "star", "monet", "teapot", "red", "bridge")
        wanted = mean_gram(at, tokenizer, settings, left)
        torch.testing.assert_close(found.kept, wanted, rtol=1e-5, atol=1e-6 * float(wanted.trace()))
        assert (found.breadth.captions, found.breadth.names) == (len(left), 2)


def test_what_the_concept_becomes_is_guarded(tower, tokenizer):
    """In the sums too: the captions of "rock stars" stay where "snow" becomes that, and those of "snow" go."""
    settings = broad(GUARDED, preserve=(), breadth_weight=1.0)
    found = build_guard(tower, tokenizer, [ConceptEdit("snow", "rock stars", "object")], settings)
    wanted = mean_gram(tower, tokenizer, settings, others("snow"))
    torch.testing.assert_close(found.kept, wanted, rtol=1e-5, atol=1e-6 * float(wanted.trace()))
    found = build_guard(tower, tokenizer, [ConceptEdit("oak tree", "oak trees", "object")], settings)
    assert found.breadth.left_out == ("oak tree",)


def test_where_all_names_the_concept_nothing_is_guarded(tower, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "name_list", lambda name: listed(("star", "rock stars")))
    guard = build_guard(tower, tokenizer, [STAR], broad(GUARDED, preserve=()))
    assert guard.kept is None and guard.breadth is None


def test_words_that_the_encoder_does_not_know_do_not_guard(tower, tokenizer, monkeypatch):
    weights = dict(tower.weights)
    table = weights["embeddings.token_embedding.weight"].clone()
    (token,) = tokenizer.word_ids("horse")
    table[token] = 0
    partly = dataclasses.replace(tower, weights={**weights, "embeddings.token_embedding.weight": table})
    settings = broad(GUARDED, preserve=(), breadth_weight=1.0)
    found = build_guard(partly, tokenizer, [STAR], settings)
    assert found.breadth.names == 7
    wanted = mean_gram(partly, tokenizer, settings, others("star", "horse"))
    torch.testing.assert_close(found.kept, wanted, rtol=1e-5, atol=1e-6 * float(wanted.trace()))
    table.zero_()
    with pytest.raises(BreadthError, match="knows none"):
        build_guard(dataclasses.replace(partly), tokenizer, [STAR], settings)
