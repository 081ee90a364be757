"""Many concepts as sums: equal to all pairs at once, weights and all, and no larger for more of them."""

import dataclasses

import pytest
import torch
from diff_quickfix.quickfix import (
    GUARDED,
    PAPER,
    POSITIONS,
    ConceptEdit,
    Statistics,
    TextTower,
    build_guard,
    compute_edit,
)
from diff_quickfix.quickfix.encoder.attention import attend, attend_rows
from diff_quickfix.quickfix.measure.contested import near_preserved
from diff_quickfix.quickfix.measure.stopwatch import Stopwatch
from diff_quickfix.quickfix.solver.closed_form import symmetric_product
from diff_quickfix.quickfix.stream import KeySums, edited_layer, encode_pairs, gather_pairs, tokenize_pairs
from diff_quickfix.text.subjects import SubjectError, naming_any
from hypothesis import given
from hypothesis import strategies as st

CONCEPTS = [
    ConceptEdit("van gogh", "painting", weight=3.0),
    ConceptEdit("snoopy", "a small dog", "object", ("{x}", "{x} in a house")),
    ConceptEdit("claude monet", "painting"),
]


@given(
    seed=st.integers(0, 99),
    bodies=st.lists(st.integers(1, 10), min_size=1, max_size=9),
    padding=st.sampled_from([0, 9]),
    start=st.integers(0, 15),
)
def test_shared_padding_is_attended_as_if_it_were_not(seed, bodies, padding, start):
    """Oracle: plain attention over every caption's own rows."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(bodies), 16), padding)
    for row, body in enumerate(bodies):
        ids[row, :body] = torch.randint(0, 9, (body,), generator=generator)
    ids[0, -1] = 5
    distinct, lookup = torch.unique(torch.arange(16) * 10 + ids, return_inverse=True)
    q, k, v = torch.randn(3, len(distinct), 12, generator=generator) * 2
    expected = attend(q[lookup], k[lookup], v[lookup], 3)[:, start:]
    torch.testing.assert_close(attend_rows(q, k, v, lookup, ids, 3, start), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("published_bias", [False, True])
@pytest.mark.parametrize("positions", POSITIONS)
def test_sums_over_keys_are_sums_over_pairs(small_tower, tokenizer, positions, published_bias):
    """Oracle: gram, cross and energy from every pair's own key and residual."""
    settings = dataclasses.replace(PAPER, positions=positions, published_bias=published_bias)
    pairs = tokenize_pairs(tokenizer, CONCEPTS, positions)
    keys = encode_pairs(small_tower, pairs, settings, [concept.weight for concept in CONCEPTS])
    weight, bias = edited_layer(small_tower, settings)
    residuals = keys.residuals(weight, bias)
    counts = torch.tensor([c.weight for c in CONCEPTS]).repeat_interleave(torch.tensor(pairs.counts))
    expected = Statistics.empty(64, 64).add(keys.source, residuals, counts)
    found = keys.sums().statistics(weight, bias)
    for name in ("gram", "cross"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
    assert found.energy == pytest.approx(expected.energy, rel=1e-5) and found.pairs == expected.pairs
    gathered = gather_pairs(small_tower, tokenizer, CONCEPTS, settings, Stopwatch())
    torch.testing.assert_close(gathered.sums.gram, found.gram, rtol=1e-6, atol=1e-6)


def test_a_concept_that_is_its_target_asks_for_exactly_nothing(small_tower, tokenizer):
    pairs = tokenize_pairs(tokenizer, [CONCEPTS[0]], POSITIONS[1])
    same = dataclasses.replace(pairs, target=pairs.source)
    sums = encode_pairs(small_tower, same, PAPER).sums()
    assert not sums.moment.any() and not sums.change.any() and sums.gram.any()


@given(n=st.integers(0, 9), width=st.integers(1, 9), seed=st.integers(0, 9))
def test_symmetric_product(n, width, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, weights = torch.randn(n, width, generator=generator), torch.rand(n, generator=generator)
    product = symmetric_product(rows, weights)
    torch.testing.assert_close(product, (rows * weights[:, None]).double().T @ rows.double(), rtol=1e-5, atol=1e-6)
    assert torch.equal(product, product.T)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("guarded", [False, True])
def test_a_weight_counts_like_repetition(small_tower, tokenizer, positions, guarded):
    """E7, for few pairs solved as they are and for many in sums; efficacy too."""
    settings = dataclasses.replace(GUARDED if guarded else PAPER, positions=positions)
    other = CONCEPTS[1]
    weighed = compute_edit(small_tower, tokenizer, [ConceptEdit("van gogh", "painting", weight=3), other], settings)
    repeated = compute_edit(small_tower, tokenizer, [ConceptEdit("van gogh", "painting")] * 3 + [other], settings)
    torch.testing.assert_close(weighed.delta(), repeated.delta(), rtol=1e-3, atol=1e-5)
    assert weighed.report.efficacy == pytest.approx(repeated.report.efficacy, abs=1e-4)
    plain = compute_edit(small_tower, tokenizer, [ConceptEdit("van gogh", "painting"), other], settings)
    assert not torch.allclose(weighed.delta(), plain.delta(), rtol=1e-2, atol=1e-4)


def test_memory_does_not_grow_with_the_list(small_tower, tokenizer, monkeypatch):
    """Pairs of a batch are gone when the next is made: at no time do two batches live."""
    import weakref

    from diff_quickfix.quickfix import stream

    alive = []

    def watched(*arguments):
        assert sum(reference() is not None for reference in alive) <= 1
        pairs = tokenize_pairs(*arguments)
        alive.append(weakref.ref(pairs))
        return pairs

    monkeypatch.setattr(stream, "tokenize_pairs", watched)
    concepts = [ConceptEdit(f"artist {number}", "painting", templates=("{x}",)) for number in range(200)]
    assert len(gather_pairs(small_tower, tokenizer, concepts, PAPER, Stopwatch())) > 200 * 70
    assert len(alive) == 4


def test_sums_add_up_like_pairs(small_tower, tokenizer):
    shares = [
        encode_pairs(small_tower, tokenize_pairs(tokenizer, [c], POSITIONS[1]), PAPER, [c.weight]).sums()
        for c in CONCEPTS
    ]
    total = sum(shares, KeySums.empty(64))
    whole = encode_pairs(
        small_tower, tokenize_pairs(tokenizer, CONCEPTS, POSITIONS[1]), PAPER, [c.weight for c in CONCEPTS]
    ).sums()
    for one, other in zip(dataclasses.astuple(total), dataclasses.astuple(whole), strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-5, atol=1e-5)


def test_a_concept_cut_off_is_refused_before_the_first_batch(small_tower, tokenizer):
    concepts = [ConceptEdit(f"artist {number}", "painting") for number in range(70)]
    for long in ("word " * 73, "word " * 76):
        with pytest.raises(SubjectError, match="cut off"):
            compute_edit(
                small_tower,
                tokenizer,
                [*concepts, ConceptEdit(long, "painting")],
                PAPER,
                progress=lambda *_: pytest.fail("work began"),
            )


def test_prompts_that_name_a_concept_are_found_by_whole_words(tokenizer):
    prompts = ["a dog", "a hotdog", "Van  Gogh, a dog", "van goghs", ""]
    assert naming_any(prompts, ["van gogh", "snoopy"], tokenizer) == {"Van  Gogh, a dog"}
    assert naming_any(prompts, ["dog"], tokenizer) == {"a dog", "Van  Gogh, a dog"}


def test_layers_above_the_first_stream_too(small_tower, tokenizer):
    assert isinstance(small_tower, TextTower)
    settings = dataclasses.replace(PAPER, layer=1)
    pairs = tokenize_pairs(tokenizer, CONCEPTS, settings.positions)
    keys = encode_pairs(small_tower, pairs, settings)
    inputs = small_tower.attention_inputs(pairs.ids, 1)
    assert torch.equal(keys.source, inputs[pairs.source[:, 0], pairs.source[:, 1]])
    torch.testing.assert_close(
        keys.changes(), inputs[pairs.target[:, 0], pairs.target[:, 1]] - keys.source, rtol=0, atol=0
    )


def test_a_source_that_a_preserved_prompt_means_too_is_told(small_tower, tokenizer):
    """By the key at the last word; a prompt that names the source is refused or left out already."""
    settings = dataclasses.replace(PAPER, preserve=("van goghs", "a red square", ""), hold=("snoopys",))
    keys = [
        small_tower.attention_inputs([tokenizer.tokenize(text).ids], 0)[0, tokenizer.tokenize(text).eos - 1]
        for text in ("van gogh", "van goghs", "a red square")
    ]
    near, far = (float(torch.cosine_similarity(keys[0], key, dim=0)) for key in keys[1:])
    told = near_preserved(small_tower, tokenizer, [ConceptEdit("van gogh", "painting")], settings)
    assert far < 0.95
    assert [(source, prompt) for source, prompt, _ in told] == [("van gogh", "van goghs")] * (near > 0.95)
    doubled = TextTower.from_weights(
        {**small_tower.weights, "embeddings.token_embedding.weight": torch.ones(49408, 64)}, heads=small_tower.heads
    )
    (source, prompt, cosine), *_ = near_preserved(doubled, tokenizer, [ConceptEdit("van gogh", "painting")], settings)
    assert (source, cosine) == ("van gogh", pytest.approx(1.0)) and prompt in settings.preserve + settings.hold
    kept = dataclasses.replace(PAPER, preserve=(prompt,))
    report = compute_edit(doubled, tokenizer, [ConceptEdit("van gogh", "painting")], kept).report
    assert f"contested: 'van gogh' and the preserved {prompt!r}" in report.text()
    assert near_preserved(small_tower, tokenizer, [ConceptEdit("van gogh", "painting")], PAPER) == ()


@pytest.mark.parametrize("settings", [PAPER, GUARDED])
def test_the_condition_of_few_pairs_is_that_of_their_sums(small_tower, tokenizer, settings):
    concepts = [ConceptEdit("van gogh", "painting", weight=3.0)]
    guard = build_guard(small_tower, tokenizer, concepts, settings)
    wide = dataclasses.replace(settings, positions=POSITIONS[0])
    pairs = gather_pairs(small_tower, tokenizer, concepts, wide, Stopwatch())
    assert pairs.few is not None
    wanted = pairs.sums.condition(lam=0.3, kept=guard.kept, held=guard.held)
    assert pairs.condition(0.3, guard) == pytest.approx(wanted, rel=1e-6)
