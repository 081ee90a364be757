"""Names in captions, as the tokenizers of T5 and of Qwen cut them."""

import pytest
from small_encoders import objects, text_states


@pytest.fixture
def opened(pack, inference):
    return text_states


@pytest.mark.newest
@pytest.mark.parametrize("family", ["z-image", "flux", "anima"])
def test_a_subject_is_found_in_captions_of_any_script(family, opened):
    tokenizer = opened(family).tokenizer
    for name in (
        "van gogh",
        "Dali",
        "r2d2",
        "\u0437\u0432\u0435\u0437\u0434\u0430" if family == "z-image" else "\u00e9toile",
        "x",
        "7 x",
    ):
        for template in ("{x}", "a photo of {x}", "{x}, at night", "by {x} and by {x}", "\u00ab{x}\u00bb"):
            (caption,) = tokenizer.tokenize_all([template.replace("{x}", name)])
            spans = tokenizer.spans(template, name)
            assert len(spans) == template.count("{x}")
            decoded = ["".join(text_of(family, caption.ids[span.start : span.stop]).split()) for span in spans]
            assert all("".join(name.split()) in text for text in decoded), (template, name, decoded)
            # A mark may be glued to it, a word not.
            assert all(len(text) <= len("".join(name.split())) + 2 for text in decoded), (template, name, decoded)


def text_of(family, ids):
    tokenizer = objects(family)[1].tokenizer
    own = tokenizer.qwen3_4b if family == "z-image" else tokenizer.t5xxl
    return own.tokenizer.decode(list(ids))


def test_what_names_a_concept_is_told_by_its_words(opened):
    tokenizer = opened("z-image").tokenizer
    prompts = [
        "by Van  Gogh's hand",
        "van goghs",
        "\u30b4\u30c3\u30db\u306e\u7d75",
        "a caf\u00e9",
        "category",
        "cat-like",
        "",
    ]
    assert tokenizer.naming(prompts, ["van gogh"]) == {prompts[0]}
    assert tokenizer.naming(prompts, ["\u30b4\u30c3\u30db"]) == {"\u30b4\u30c3\u30db\u306e\u7d75"}
    assert tokenizer.naming(prompts, ["cafe\u0301"]) == {"a caf\u00e9"}
    assert tokenizer.naming(prompts, ["cat"]) == {"cat-like"}
    assert tokenizer.naming(prompts, [" "]) == set()
