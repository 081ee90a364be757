"""What is to be preserved: sets, lists, soft and hard, and the radar that proposes them."""

import dataclasses

import pytest
import torch
from diff_quickfix.quickfix import (
    EVERYDAY,
    GUARDED,
    KNOWN_NAMES,
    PAPER,
    PRESERVE_SETS,
    PRESERVED,
    ConceptEdit,
    EditSettings,
    HeldError,
    TextTower,
    build_guard,
    compute_edit,
    preserve_set,
    preserved_gram,
    prompts_of_text,
    scan,
    text_of_prompts,
)
from diff_quickfix.quickfix.concepts.lines import visible
from diff_quickfix.quickfix.solver.preserved import gram_of
from diff_quickfix.text.prompts import PromptError
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModel

VAN_GOGH = ConceptEdit("van gogh", "painting")
WIDTH = 128


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(13)
    config = CLIPTextConfig(hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    return TextTower.from_module(CLIPTextModel(config))


def moved(tower, tokenizer, edit, prompts):
    """Relative change of the edited attention's outputs (without bias), all 77 positions of each prompt."""
    keys = tower.attention_inputs([p.ids for p in tokenizer.tokenize_all(prompts)], edit.settings.layer)
    return (keys @ edit.delta().T).norm(dim=-1) / (keys @ tower.weight(edit.weight_name).T).norm(dim=-1)


@pytest.mark.parametrize("base", [PAPER, GUARDED, EditSettings(layer=2, lam=1e-4)])
def test_a_held_prompt_does_not_move_and_the_concept_still_does(tower, tokenizer, base):
    settings = base.keeping(("",), "hard")
    edit = compute_edit(tower, tokenizer, [VAN_GOGH], settings)
    assert moved(tower, tokenizer, edit, [""]).max() < 1e-5
    assert moved(tower, tokenizer, edit, ["van gogh"]).max() > 0.01
    assert edit.report.guarding.held_rank == 77 and 0 < edit.report.guarding.concept_lost < 1
    assert edit.report.empty_prompt_drift < 1e-5 and "held: 77 dimensions" in edit.report.text()
    free = compute_edit(tower, tokenizer, [VAN_GOGH], base)
    assert free.report.guarding is None
    # A constraint costs efficacy, and only efficacy.
    assert edit.report.efficacy <= free.report.efficacy


def test_what_is_held_holds_to_the_end_of_the_tower(tower, tokenizer):
    edit = compute_edit(tower, tokenizer, [VAN_GOGH], dataclasses.replace(PAPER, hold=("",)))
    ids = [tokenizer.tokenize(text).ids for text in ("", "van gogh")]
    weight = tower.weight(edit.weight_name)
    before, after = tower.hidden_states(ids), tower.hidden_states(ids, {edit.weight_name: weight + edit.delta()})
    change = (after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    assert change[0] < 1e-5 < 1e-2 < change[1]


def test_many_concepts_are_held_back_alike(tower, tokenizer):
    """Streamed into sums, the held prompt stays too."""
    concepts = [ConceptEdit(name, "painting") for name in ("van gogh", "claude monet", "banksy")]
    edit = compute_edit(tower, tokenizer, concepts, PAPER.keeping([""], "hard"))
    assert edit.report.pairs > WIDTH
    assert moved(tower, tokenizer, edit, [""]).max() < 1e-5


LONG = "a house by the sea, " * 15 + "a dog"


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_all_parts_of_a_long_prompt_are_kept(tokenizer, mode):
    """Oracle: the parts, each preserved as a prompt of its own."""
    torch.manual_seed(14)
    config = CLIPTextConfig(hidden_size=256, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    tower = TextTower.from_module(CLIPTextModel(config))
    parts = tokenizer.parts_all([LONG])[0]
    assert len(parts) == 2
    settings = PAPER.keeping([LONG], mode)
    edit = compute_edit(tower, tokenizer, [VAN_GOGH], settings)
    keys = tower.attention_inputs([part.ids for part in parts], 0)
    if mode == "hard":
        moved = (keys @ edit.delta().T).norm(dim=-1) / (keys @ tower.weight(edit.weight_name).T).norm(dim=-1)
        assert moved.shape == (2, 77) and float(moved.max()) < 1e-5
    else:
        wanted = preserved_gram(keys.flatten(0, 1).unique(dim=0), settings.preserve_weight)
        kept = build_guard(tower, tokenizer, [VAN_GOGH], settings).kept
        torch.testing.assert_close(gram_of(kept), wanted)
    with pytest.raises(PromptError, match="names a concept that is edited"):
        compute_edit(tower, tokenizer, [VAN_GOGH], PAPER.keeping(["a house, " * 40 + "van gogh"], mode))


def test_the_radar_sees_all_of_a_long_prompt(tower, tokenizer, edit):
    late = "a plain wall, " * 30 + "an apple, a red dog"
    (found,) = scan(tower, tokenizer, edit, [late]).hits
    moved = size = 0.0
    for part in tokenizer.parts_all([late])[0]:
        inputs, residual = tower.attention_states([part.ids], edit.settings.layer)
        counted = slice(1, part.eos + 1)
        moved += float((inputs[0, counted] @ edit.delta().T).square().sum())
        size += float(residual[0, counted].square().sum())
    assert found.prompt == late and found.drift == pytest.approx((moved / size) ** 0.5, rel=1e-3)


def test_holding_more_than_there_is_room_for_is_refused(tower, tokenizer):
    with pytest.raises(HeldError, match="span all 128 dimensions"):
        compute_edit(tower, tokenizer, [VAN_GOGH], PAPER.keeping(EVERYDAY[:4], "hard"))


def test_holding_the_concept_is_refused(tower, tokenizer):
    with pytest.raises(PromptError, match="'by van gogh' cannot be preserved"):
        compute_edit(tower, tokenizer, [VAN_GOGH], PAPER.keeping(["by van gogh"], "hard"))


def test_built_in_prompts_of_the_concept_are_left_out_and_named(tower, tokenizer):
    settings = PAPER.keeping(preserve_set("common styles"))
    guard = build_guard(tower, tokenizer, [VAN_GOGH], settings)
    assert guard.skipped == ("a painting by van gogh",)
    without = [prompt for prompt in settings.preserve if "van gogh" not in prompt]
    same = build_guard(tower, tokenizer, [VAN_GOGH], PAPER.keeping(without))
    torch.testing.assert_close(guard.kept, same.kept, rtol=1e-10, atol=1e-12)
    assert guard.held is None


def test_keeping_adds_prompts_once_and_leaves_the_rest():
    soft = GUARDED.keeping(["a dog", "", "a dog"])
    assert soft.preserve == (*PRESERVED, "a dog") and soft.hold == ()
    hard = GUARDED.keeping(["a dog", ""], "hard")
    assert hard.preserve == PRESERVED and hard.hold == ("a dog", "") and hard.lam == GUARDED.lam
    with pytest.raises(ValueError, match="Unknown preserve mode 'firm'"):
        GUARDED.keeping([], "firm")
    with pytest.raises(ValueError, match="hold is a string"):
        EditSettings(hold="a dog")


def test_sets_are_apart_from_what_reports_measure():
    assert set(PRESERVED) <= {prompt for prompts in PRESERVE_SETS.values() for prompt in prompts}
    for name, prompts in PRESERVE_SETS.items():
        assert len(set(prompts)) == len(prompts) and preserve_set(name) == prompts
        assert not set(prompts) & (set(EVERYDAY) - {""})
    with pytest.raises(PromptError, match="Unknown preserve set 'dogs'; expected one of: empty prompt;"):
        preserve_set("dogs")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]))))
def test_lists_of_prompts_are_read_back(prompts):
    wanted = [visible(prompt).strip() for prompt in prompts if prompt.strip() != '""']
    assert prompts_of_text(text_of_prompts(wanted)) == tuple(dict.fromkeys(wanted))


@given(st.text())
def test_any_text_is_a_list_of_prompts(text):
    prompts = prompts_of_text(text)
    assert len(set(prompts)) == len(prompts) and all(prompt == prompt.strip() for prompt in prompts)
    assert prompts_of_text(text_of_prompts(prompts)) == prompts


def test_a_list_has_a_way_to_say_nothing():
    assert prompts_of_text('\ufeffa dog \r\n\r\n""\na cat\na dog') == ("a dog", "", "a cat")
    assert prompts_of_text("\n \n") == ()


def test_a_list_of_prompts_is_read_as_people_write_it():
    text = '# things\n- a dog\n2. a cat // mine\n\u2022 "a \u201cred\u201d house, # 1"\na\u200b bird\n'
    assert prompts_of_text(text) == ("a dog", "a cat", "a \u201cred\u201d house, # 1", "a bird")
    assert prompts_of_text('a sign that says "stop"\n"no" and "yes"') == ('a sign that says "stop"', '"no" and "yes"')


# --- the radar -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edit(tower, tokenizer):
    return compute_edit(tower, tokenizer, [VAN_GOGH], PAPER)


NAMES = ("van", "a dog", "", "jan van eyck", "my van gogh", "gogh", "the moon over a quiet bay at night", "a dog")


def test_the_radar_measures_words_and_end(tower, tokenizer, edit):
    """Oracle: each prompt alone, through the dense update."""
    radar = scan(tower, tokenizer, edit, NAMES)
    expected = {}
    for name in set(NAMES) - {"my van gogh"}:
        prompt = tokenizer.tokenize(name)
        states = tower.attention_states([prompt.ids], 0)
        counted = slice(1, prompt.eos + 1)
        change = states.inputs[0, counted] @ edit.delta().T
        expected[name] = float(change.norm() / states.residual[0, counted].norm())
    assert dict(radar.hits) == pytest.approx(expected, rel=1e-3)
    drifts = [hit.drift for hit in radar.hits]
    assert drifts == sorted(drifts, reverse=True)
    assert (radar.scanned, radar.named) == (6, 1)
    assert radar.median == pytest.approx(sorted(expected.values())[2] / 2 + sorted(expected.values())[3] / 2, rel=1e-3)


def test_batches_change_nothing(tower, tokenizer, edit, monkeypatch):
    told = []
    whole = scan(tower, tokenizer, edit, most=1000)
    monkeypatch.setattr("diff_quickfix.quickfix.measure.radar._BATCH", 100)
    parts = scan(tower, tokenizer, edit, most=1000, progress=lambda *step: told.append(step))
    assert told == [(i, 6) for i in range(1, 7)]
    assert dict(parts.hits) == pytest.approx(dict(whole.hits), rel=1e-3)
    assert len(whole.hits) == whole.scanned == len(KNOWN_NAMES) - whole.named


def test_the_concept_is_never_listed(tower, tokenizer, edit):
    radar = scan(tower, tokenizer, edit, most=1000)
    assert "Vincent van Gogh" in KNOWN_NAMES and radar.named >= 1
    assert not [hit for hit in radar.hits if "van gogh" in hit.prompt.lower()]
    assert "van gogh" not in radar.text().lower()


def test_preserving_the_proposal_spares_it(tower, tokenizer, edit):
    radar = scan(tower, tokenizer, edit, most=10)
    proposal = radar.proposal()
    assert 1 <= len(proposal) <= 10 and proposal == tuple(hit.prompt for hit in radar.hits)[: len(proposal)]
    assert radar.proposal(2) == proposal[:2]
    assert prompts_of_text(radar.preserve_text()) == proposal
    spared = compute_edit(tower, tokenizer, [VAN_GOGH], PAPER.keeping(prompts_of_text(radar.preserve_text())))
    before, after = (dict(scan(tower, tokenizer, e, proposal, most=99).hits) for e in (edit, spared))
    assert all(after[prompt] < 0.5 * before[prompt] for prompt in proposal)


def test_an_edit_that_does_nothing_hits_nothing(tower, tokenizer, edit):
    nothing = dataclasses.replace(edit, up=torch.zeros(WIDTH, 0), down=torch.zeros(0, WIDTH))
    for prompts in (NAMES, ()):
        radar = scan(tower, tokenizer, nothing, prompts)
        assert radar.hits == () and radar.proposal() == () and radar.preserve_text() == "" and radar.median == 0
    assert scan(tower, tokenizer, edit, NAMES, most=0).hits == ()


def test_known_names_are_many_and_distinct():
    assert len(KNOWN_NAMES) == len(set(KNOWN_NAMES)) > 400
    assert all(name and name == " ".join(name.split()) for name in KNOWN_NAMES)
