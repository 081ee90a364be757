"""Edits of doors: one map of the text states for every linear map that reads them."""

import dataclasses
import json
import zlib
from itertools import pairwise

import pytest
import torch
from diff_quickfix.families.doors import Door, DoorError
from diff_quickfix.quickfix import (
    DOORS,
    POSITIONS,
    STATES,
    ConceptEdit,
    EditSettings,
    LowRank,
    StateTower,
    TokenTable,
    TowerError,
    at_doors,
    build_guard,
    compute_edit,
    edit_doors,
    find_lambda,
    find_target,
    load_edit,
    match_positions,
    measure_edit,
    save_edit,
    scan,
    state_scale,
)
from diff_quickfix.quickfix.files.edit_file import EditFileError
from diff_quickfix.quickfix.ledger import Ledger
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

CONCEPTS = [ConceptEdit("van gogh", "painting"), ConceptEdit("snoopy", "a small dog", "object")]
FREE = EditSettings(lam=1e-7, positions=POSITIONS[2])
WIDTHS = (24, 40)


def states_reader(small_tower):
    """States as SDXL's: two parts of very different size side by side, and a huge first token."""

    def read(ids):
        states = small_tower.hidden_states(torch.tensor(ids))
        left, right = states.split(WIDTHS, dim=-1)
        states = torch.cat((left * 30, right * 0.2), dim=-1)
        states[:, 0] *= 40
        return states

    return read


@pytest.fixture(scope="session")
def states(small_tower, tokenizer):
    """A tower of text states."""
    read = states_reader(small_tower)
    prompts = tokenizer.tokenize_all(["a photo of a cat", "two dogs", "a red house by the sea"])
    found = read([prompt.ids for prompt in prompts])
    places = torch.arange(77)
    counted = (places > 0) & (places <= torch.tensor([prompt.eos for prompt in prompts])[:, None])
    table = TokenTable(49408, lambda ids: small_tower.weights["embeddings.token_embedding.weight"][ids].float())
    return StateTower(read, 49407, 64, 77, state_scale(found, counted, WIDTHS), table, "sdxl")


def doors(*, pooled=False):
    found = [Door(f"a.{n}.attn2.to_v", "value", (16 + n, 64), False, comfyui=f"a.{n}.attn2.to_v") for n in range(3)]
    found.append(Door("b.kv", "value", (20, 64), True, rows=(10, 20), comfyui="b.kv"))
    if pooled:
        found.append(Door("label_emb.0.0", "pooled", (8, 30), True, columns=(0, 12), comfyui="label_emb.0.0"))
    return found


def weight(door):
    return torch.randn(door.shape, generator=torch.Generator().manual_seed(len(door.name) + door.shape[0]))


def pooled(prompts):
    seeds = [zlib.crc32(text.encode()) for text in prompts]
    return torch.stack([torch.randn(12, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def dense_map(states, tokenizer, settings):
    """Oracle: X by the textbook formula over the scaled states, in fp64."""
    guard = build_guard(states, tokenizer, CONCEPTS, settings)
    keys, wanted = [], []
    for concept in CONCEPTS:
        for template in concept.templates:
            pair = [tokenizer.tokenize(template.replace("{x}", name)) for name in (concept.source, concept.target)]
            here, there = (states.attention_inputs([prompt.ids], 0)[0].double() for prompt in pair)
            last = [
                max(i for i in range(prompt.eos) if prompt.ids[: i + 1][-len(words) :] == words)
                for prompt, words in zip(
                    pair, (tokenizer.word_ids(concept.source), tokenizer.word_ids(concept.target)), strict=True
                )
            ]
            for step in range(pair[0].eos - last[0] + 1):
                keys.append(here[last[0] + step])
                wanted.append(there[min(last[1] + step, pair[1].eos)])
    c, target = torch.stack(keys).T, torch.stack(wanted).T
    system = settings.lam * torch.eye(64, dtype=torch.float64) + c @ c.T
    if guard.kept is not None:
        system += guard.kept.double()
    return (target - c) @ c.T @ torch.linalg.inv(system)


@pytest.mark.parametrize("preserve", [(), DOORS.preserve], ids=["free", "guarded"])
def test_the_map_is_the_textbook_one_and_every_door_gets_w_x(states, tokenizer, preserve):
    settings = dataclasses.replace(DOORS, lam=1e-2, positions=POSITIONS[2], preserve=preserve)
    edit = edit_doors(states, tokenizer, CONCEPTS, settings, doors(), weight)
    scaled = dense_map(states, tokenizer, settings)
    scale = states.scale.double()
    exact = scaled * scale / scale[:, None]
    assert float((edit.delta().double() - exact).norm() / exact.norm()) < 1e-4
    for update in edit.doors:
        first, end = update.door.rows or (0, update.door.shape[0])
        factors = edit.factors(update)
        wanted = torch.zeros(update.door.shape)
        wanted[first:end] = (weight(update.door).double() @ exact).float()[first:end]
        assert float((factors.up @ factors.down - wanted).norm() / wanted.norm()) < 1e-4
        assert torch.equal(factors.down, edit.down), "all doors share one factor"


def test_every_door_gives_the_targets_output_at_the_edited_keys(states, tokenizer):
    """The property that is asked for: W' c = W c*, at "van gogh" for "painting", when nothing is preserved."""
    edit = edit_doors(states, tokenizer, CONCEPTS[:1], FREE, doors()[:3], weight)
    read = states.read
    for template in CONCEPTS[0].templates:
        pair = [tokenizer.tokenize(template.replace("{x}", name)) for name in ("van gogh", "painting")]
        source, target = (read([prompt.ids])[0] for prompt in pair)
        here, there = pair[0].eos - 1, pair[1].eos - 1
        for update in edit.doors:
            factors, own = edit.factors(update), weight(update.door)
            found = own @ source[here] + factors.up @ (factors.down @ source[here])
            was, wanted = own @ source[here], own @ target[there]
            assert float((found - wanted).norm()) < 1e-2 * float((was - wanted).norm())
    assert edit.report.efficacy > 0.99


def test_the_map_on_the_states_gives_the_doors_outputs(states, tokenizer):
    edit = edit_doors(states, tokenizer, CONCEPTS, DOORS, doors(), weight)
    some = states.read([prompt.ids for prompt in tokenizer.tokenize_all(["a cat by van gogh", ""])])
    for update in edit.doors[:3]:
        own, factors = weight(update.door), edit.factors(update)
        wanted = some @ (own + factors.up @ factors.down).T
        assert float((edit.applied(some) @ own.T - wanted).norm() / wanted.norm()) < 1e-5
    assert edit.applied(some, 0.0) is some
    assert edit.applied(some.half()).dtype == torch.float16
    with pytest.raises(ValueError, match="64 wide"):
        edit.applied(some[..., :3])


def test_preserved_prompts_stay_softly_and_held_ones_exactly(states, tokenizer):
    # Twice as wide: the 77 states of a prompt do not span all dimensions.
    wide = dataclasses.replace(
        states,
        read=lambda ids: torch.cat((found := states.read(ids), found.square()), dim=-1),
        width=128,
        scale=torch.ones(128),
    )
    moved = []
    for hold in ((), ("",)):
        edit = compute_edit(wide, tokenizer, CONCEPTS, dataclasses.replace(DOORS, preserve=(), hold=hold))
        empty = wide.read([tokenizer.tokenize("").ids])
        moved.append(float((edit.applied(empty) - empty).norm() / empty.norm()))
    assert moved[1] < 1e-5 < moved[0]
    free = compute_edit(states, tokenizer, CONCEPTS, dataclasses.replace(DOORS, preserve=()))
    settings = dataclasses.replace(DOORS, preserve=("a cat",), preserve_weight=1e4)
    kept = compute_edit(states, tokenizer, CONCEPTS, settings)
    cat = states.read([tokenizer.tokenize("a cat").ids])
    before, after = (float((edit.applied(cat) - cat).norm()) for edit in (free, kept))
    assert after < 0.1 * before


def test_neither_half_of_the_states_decides_alone(states, tokenizer):
    """Lambda weighs against keys of mean square 1 in which each half counts the same."""
    prompts = tokenizer.tokenize_all(["a photo of a cat", "two dogs", "a red house by the sea"])
    keys = states.attention_inputs([prompt.ids for prompt in prompts], 0)
    rows = torch.cat([own[1 : prompt.eos + 1] for own, prompt in zip(keys, prompts, strict=True)])
    halves = [float(part.square().sum(1).mean()) for part in rows.split(WIDTHS, dim=1)]
    assert halves == pytest.approx([0.5, 0.5], rel=1e-4)
    # The same text encoder with other units for one half: the same map in those units, the same report.
    other = dataclasses.replace(
        states,
        read=lambda ids: states.read(ids) * torch.cat((torch.full((24,), 1e-3), torch.full((40,), 50.0))),
        scale=states.scale / torch.cat((torch.full((24,), 1e-3), torch.full((40,), 50.0))),
    )
    one, two = (compute_edit(tower, tokenizer, CONCEPTS, DOORS) for tower in (states, other))
    assert one.report.efficacy == pytest.approx(two.report.efficacy, rel=1e-4)
    assert one.report.drift == pytest.approx(two.report.drift, rel=1e-3)


def test_the_pooled_door_has_a_map_of_its_own_in_the_prompts_columns(states, tokenizer):
    settings = dataclasses.replace(DOORS, lam=1e-7, preserve=())
    edit = edit_doors(states, tokenizer, CONCEPTS[:1], settings, doors(pooled=True), weight, read_pooled=pooled)
    update = edit.doors[-1]
    factors, own = edit.factors(update), weight(update.door)
    delta = factors.up @ factors.down
    assert not delta[:, 12:].any() and delta[:, :12].any()
    for template in CONCEPTS[0].templates:
        source, target = pooled([template.replace("{x}", name) for name in ("van gogh", "painting")])
        wanted, was = own[:, :12] @ target, own[:, :12] @ source
        found = (own + delta)[:, :12] @ source
        assert float((found - wanted).norm()) < 0.35 * float((was - wanted).norm())
    with pytest.raises(DoorError, match="gives no pooled vector"):
        edit_doors(states, tokenizer, CONCEPTS, settings, doors(pooled=True), weight)


def test_all_that_measures_an_edit_measures_one_of_doors(states, tokenizer):
    edit = edit_doors(states, tokenizer, CONCEPTS, DOORS, doors(), weight)
    again = measure_edit(states, tokenizer, edit)
    assert again.efficacy == pytest.approx(edit.report.efficacy, abs=1e-4)
    assert again.drift == pytest.approx(edit.report.drift, abs=1e-5)
    assert measure_edit(states, tokenizer, edit, 0.5).drift == pytest.approx(again.drift / 2, rel=1e-3)
    assert "at 4 doors of the image model" in edit.report.text()
    radar = scan(states, tokenizer, edit, ["claude monet", "a dog", "van gogh"])
    assert radar.named == 1 and radar.hits
    assert find_lambda(states, tokenizer, CONCEPTS, DOORS).best > 0
    assert find_target(states, tokenizer, "van gogh", candidates=["painting", "photo"], settings=DOORS).candidates


def test_a_ledger_of_states_is_that_of_all_concepts_at_once(states, tokenizer):
    ledger = Ledger.of(states, tokenizer, CONCEPTS[:1], DOORS).add(CONCEPTS[1])
    whole = compute_edit(states, tokenizer, CONCEPTS, DOORS)
    found = ledger.solve().delta()
    assert float((found - whole.delta()).norm() / whole.delta().norm()) < 1e-4


def test_a_file_brings_the_edit_back_and_its_lora_is_the_edit(states, tokenizer, tmp_path):
    edit = edit_doors(states, tokenizer, CONCEPTS, DOORS, doors(pooled=True), weight, read_pooled=pooled)
    path = tmp_path / "edit.safetensors"
    save_edit(edit, path, naming="comfyui")
    again = load_edit(path)
    assert torch.equal(again.up, edit.up) and torch.equal(again.down, edit.down) and again.of_states
    assert again.pooled is not None and edit.pooled is not None and torch.equal(again.pooled.up, edit.pooled.up)
    assert [one.door for one in again.doors] == [one.door for one in edit.doors]
    assert (again.concepts, again.settings, again.base) == (edit.concepts, edit.settings, edit.base)
    tensors = load_file(path)
    for update in edit.doors:
        key = f"diffusion_model.{update.door.name}"
        up, down, alpha = (tensors[f"{key}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        factors = edit.factors(update)
        assert torch.allclose(up @ down * (alpha / down.shape[0]), factors.up @ factors.down, atol=1e-6)


@pytest.fixture(scope="module")
def saved(states, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("doors") / "edit.safetensors"
    save_edit(edit_doors(states, tokenizer, CONCEPTS[:1], DOORS, doors()[:2], weight), path, naming="comfyui")
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


@given(data=st.data())
def test_a_strangers_file_is_the_edit_or_refused_in_words(saved, tmp_path_factory, data):
    """Whatever is changed in the JSON or among the tensors, a file loads or says that it is damaged."""
    tensors, metadata = dict(saved[0]), dict(saved[1])
    label = json.loads(metadata["diff_quickfix"])
    what = data.draw(st.sampled_from(["drop", "shape", "map", "door", "field", "family"]))
    name = data.draw(st.sampled_from(sorted(tensors)))
    junk = data.draw(st.sampled_from([None, "", "AAAA", -1, 10**9, [], {}, [1], "\u00e9", float(1), "clip_l"]))
    if what == "drop":
        del tensors[name]
    elif what == "shape":
        tensors[name] = torch.zeros(data.draw(st.lists(st.integers(0, 3), max_size=3)))
    elif what == "map":
        label["states"][data.draw(st.sampled_from(sorted(label["states"])))] = junk
    elif what == "door":
        label["doors"][0][data.draw(st.sampled_from(sorted(label["doors"][0])))] = junk
    elif what == "field":
        label[data.draw(st.sampled_from(sorted(label)))] = junk
    else:
        label["encoder"] = junk
    path = tmp_path_factory.mktemp("strange") / "edit.safetensors"
    save_file(tensors, path, {**metadata, "diff_quickfix": json.dumps(label)})
    try:
        edit = load_edit(path)
    except EditFileError as error:
        assert "edit.safetensors" in str(error)
    else:
        assert all(torch.isfinite(edit.factors(update).up).all() for update in edit.doors)


def test_an_edit_is_taken_to_another_model_by_its_map(states, tokenizer):
    edit = edit_doors(states, tokenizer, CONCEPTS, DOORS, doors(), weight)
    moved = at_doors(edit, doors(), lambda door: 2 * weight(door))
    for one, two in zip(edit.doors, moved.doors, strict=True):
        assert torch.allclose(two.up, 2 * one.up, atol=1e-5)
    assert moved.base != edit.base
    with pytest.raises(DoorError, match="another kind of model"):
        at_doors(edit, [Door("x", "value", (4, 65), False)], lambda _: torch.zeros(4, 65))
    with pytest.raises(DoorError, match="NaN"):
        at_doors(edit, doors(), lambda door: weight(door) * float("nan"))


def test_states_that_do_not_fit_are_refused(states, tokenizer):
    short = dataclasses.replace(states, read=lambda ids: states.read(ids)[..., :-1])
    broken = dataclasses.replace(states, read=lambda ids: states.read(ids) * float("inf"))
    for tower, said in ((short, "expected 64 wide"), (broken, "NaN or infinity")):
        with pytest.raises(TowerError, match=said):
            compute_edit(tower, tokenizer, CONCEPTS, DOORS)
    with pytest.raises(TowerError, match="no layer 1"):
        compute_edit(states, tokenizer, CONCEPTS, dataclasses.replace(DOORS, layer=1))
    with pytest.raises(TowerError, match=r"expected 3 \+ 4"):
        state_scale(torch.zeros(1, 2, 8), torch.ones(1, 2, dtype=torch.bool), [3, 4])


def test_edits_of_states_and_of_text_encoders_are_told_apart(states, small_tower, tokenizer):
    of_states = compute_edit(states, tokenizer, CONCEPTS, DOORS)
    of_encoder = compute_edit(small_tower, tokenizer, CONCEPTS)
    assert of_states.weight_name == STATES and of_states.encoder == "sdxl"
    for tower, edit in ((states, of_encoder), (small_tower, of_states)):
        with pytest.raises(TowerError, match="asked for here"):
            measure_edit(tower, tokenizer, edit)
    with pytest.raises(ValueError, match="has no doors"):
        of_states.lora()


@given(rank=st.integers(0, 5), seed=st.integers(0, 99))
def test_scaling_there_and_back_is_the_same_map(states, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    update = LowRank(torch.randn(64, rank, generator=generator), torch.randn(rank, 64, generator=generator))
    back = states.in_keys(states.in_weight(update))
    assert torch.allclose(back.delta(), update.delta(), atol=1e-3)
    rows = states.in_weight(update).down
    assert torch.allclose(rows @ rows.T, torch.eye(rank), atol=1e-4)


@given(source=st.integers(1, 20), target=st.integers(1, 20), after=st.integers(0, 20), behind=st.integers(0, 20))
def test_later_positions_end_with_the_text(source, target, after, behind):
    ends = source + 1 + after, target + 1 + behind
    sources, targets = match_positions(source, target, 77, POSITIONS[2], ends)
    assert list(sources) == list(range(source, ends[0] + 1))
    assert targets[0] == target and all(target <= place <= ends[1] for place in targets)
    assert all(b - a in (0, 1) for a, b in pairwise(targets))


class Squares(TorchDispatchMode):
    """The operations that make a square matrix of a width."""

    def __init__(self, width):
        super().__init__()
        self.width, self.makers = width, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor) and tuple(one.shape[-2:]) == (self.width, self.width):
                self.makers.append(function)
        return made


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_states_wider_than_there_are_keys_make_no_square_of_that_width(small_tower, states, tokenizer, mode):
    """Flux.2's states are 15,360 wide: the solve, the report and the radar never make a matrix of width x width; the
    same edit of the narrow states, which are these turned into a wider space, is the oracle."""
    width = 640
    turn = torch.linalg.qr(torch.randn(width, 64, generator=torch.Generator().manual_seed(3)))[0].T
    wide = dataclasses.replace(
        states,
        read=lambda ids: (states.read(ids) * states.scale) @ turn,
        width=width,
        scale=torch.ones(width),
    )
    settings = EditSettings(lam=1e-3, positions=POSITIONS[2], preserve=("a cat", ""), preserve_weight=3.0)
    settings = dataclasses.replace(settings, hold=("",)) if mode == "hard" else settings
    with Squares(width) as squares:
        edit = compute_edit(wide, tokenizer, CONCEPTS, settings)
        measure_edit(wide, tokenizer, edit, 0.5)
        scan(wide, tokenizer, edit, ["a dog", "claude monet"])
    assert edit.rank and not squares.makers
    if mode == "hard":
        held = wide.attention_inputs([tokenizer.tokenize("").ids], 0)[0]
        assert float((held @ edit.down.T @ edit.up.T).norm()) < 1e-5 * float(held.norm())
        return
    narrow = compute_edit(states, tokenizer, CONCEPTS, settings)
    wanted = turn.T @ (narrow.delta() * states.scale[:, None] / states.scale) @ turn
    assert float((edit.delta() - wanted).norm()) < 1e-3 * float(wanted.norm())
    assert edit.report.drift == pytest.approx(narrow.report.drift, rel=1e-3)
    assert edit.report.efficacy == pytest.approx(narrow.report.efficacy, rel=1e-3)
