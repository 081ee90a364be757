"""The tokens of a prompt, as the subject picker asks for them: what is shown is what the tracing nodes will read."""

import importlib

import pytest


@pytest.fixture
def prompt_tokens(pack, nodes):
    return importlib.import_module(f"{pack.__name__}.nodes.host.routes").prompt_tokens


PROMPTS = (
    "a Starry night by Vincent van Gogh, 3 boats",
    "georges seurat's (elephant:1.3)!",
    "caf\u00e9 \U0001f600 \u6771\u4eac r2d2",
)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_tokens_are_those_of_the_encoder_word_by_word(prompt_tokens, shapes, prompt):
    own = shapes[1].tokenizer.clip_l
    ids = [int(entry[0]) for entry in own.tokenize_with_weights(prompt)[0]]
    pieces = own.tokenizer.convert_ids_to_tokens(ids[1 : ids.index(own.end_token, 1)])
    words = prompt_tokens(prompt, "")["words"]
    assert [token for word in words for token in word["tokens"]] == [piece.removesuffix("</w>") for piece in pieces]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_word_that_is_offered_can_be_the_subject(prompt_tokens, prompt):
    words = prompt_tokens(prompt, "")["words"]
    for place, word in enumerate(words):
        chosen = prompt_tokens(prompt, word["text"])
        assert chosen["problem"] == "" and chosen["words"][place]["subject"], word


def test_every_occurrence_is_marked_and_the_node_agrees_on_where(prompt_tokens, corrupt_positions):
    prompt = "van gogh painted van gogh"
    marked = [word["subject"] for word in prompt_tokens(prompt, "Van Gogh")["words"]]
    assert marked == [True, True, False, True, True]
    assert corrupt_positions(prompt, "Van Gogh") == (1, 2, 4, 5)


@pytest.fixture
def corrupt_positions(nodes, shapes):
    def run(prompt, subject):
        node = nodes["DiffQuickFix_CorruptPrompt"]
        return node.execute(shapes[1], prompt, subject, 3.0, 0).args[2].case.shares[0].corruption.positions

    return run


@pytest.mark.parametrize(
    ("prompt", "subject", "problem"),
    [
        ("a house", "tree", "not among"),
        ("a house", " ", "is empty"),
        ("", "tree", "not among"),
        ("tree " + "red " * 90 + "tree", "tree", "occurs in 2 of the 2 parts"),
    ],
)
def test_what_is_wrong_with_a_subject_is_said(prompt_tokens, prompt, subject, problem):
    found = prompt_tokens(prompt, subject)
    assert problem in found["problem"]
    assert not any(word["subject"] for word in found["words"])
    assert {word["part"] for word in found["words"]} <= {0, 1}


@pytest.fixture
def name_notes(pack, nodes):
    return importlib.import_module(f"{pack.__name__}.nodes.host.routes").name_notes


@pytest.mark.parametrize(
    ("name", "prompts", "said"),
    [
        ("Van Gogh", ["a house", "a (van gogh:1.2) house"], None),
        ("van gogh", ["a house", "a van goghs"], "none of the 2 prompts"),
        ("gogh", ["red " * 90 + "van gogh"], None),
        ("van gogh", ["a house embedding:"], None),
        ("van gogh", [], None),
        ("ganyu (genshin impact)", ["ganyu \\(genshin impact\\), smiling"], None),
        ("red " * 73, [], "has 76 tokens with a caption around it, of which CLIP reads 75"),
        ("red " * 72, [], None),
    ],
)
def test_tokens_and_prompts_are_told_of_a_name(name_notes, name, prompts, said):
    notes = name_notes(name, "painting", "style", False, prompts)
    told = [note["sentence"].format(**note["values"]) for note in notes]
    assert len(told) == (said is not None) and all(said in text for text in told), told


@pytest.mark.parametrize(
    ("name", "prompts", "said"),
    [
        ("red " * 200, [], False),
        ("Van Gogh", ["a house", "by (van gogh:1.2)"], False),
        ("van gogh", ["by van (gogh:1.2)"], False),
        ("ganyu (genshin impact)", ["ganyu \\(genshin impact\\), smiling"], False),
        ("van gohg", ["a house by van gogh"], True),
    ],
)
def test_another_encoders_tokens_are_not_judged_by_clips(name_notes, name, prompts, said):
    notes = name_notes(name, "painting", "object", False, prompts, clip=False)
    assert [note["sentence"][:21] for note in notes] == ["is in none of the {co"] * said


def test_what_the_rules_notice_comes_first(name_notes):
    found = name_notes("(x:1.2)", "x" * 10, "style", False, ["a house"])
    assert [(note["field"], note["values"]) for note in found] == [("source", {"name": "x"})]
