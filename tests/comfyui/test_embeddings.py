"""Embeddings in a traced prompt. Oracle: an embedding whose vectors are those of words is these words."""

import importlib

import pytest
import torch
from conditioning import encode
from runs import sweep_inputs
from safetensors.torch import save_file

pytestmark = pytest.mark.usefixtures("inference")

REST = "in the style of van gogh, on sand"


def share(corrupted):
    """What the text encoder is given of a prompt that the node Corrupt Prompt gave."""
    (found,) = corrupted[2].case.shares
    return found


@pytest.fixture
def embedding(shapes, tmp_path, monkeypatch):
    """Put an embedding of some words, or of any vectors, into the folder that the CLIP reads."""
    clip = shapes[1]
    own = clip.tokenizer.clip_l
    monkeypatch.setattr(own, "embedding_directory", [str(tmp_path)])
    table = clip.cond_stage_model.clip_l.transformer.text_model.embeddings.token_embedding.weight

    def write(name, words):
        vectors = table[own.tokenizer(words)["input_ids"][1:-1]] if isinstance(words, str) else words
        save_file({"emb_params": vectors.detach().clone().contiguous()}, tmp_path / f"{name}.safetensors")

    write("one", "red")
    write("two", "red circle")
    write("five", "two blue stars and grass")
    write("wide", torch.randn(3, 768, generator=torch.Generator().manual_seed(1)))
    return write


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("embedding:one " + REST, "red " + REST),
        ("embedding:two " + REST, "red circle " + REST),
        ("embedding:two, " + REST, "red circle , " + REST),
        ("a photo of embedding:five " + REST, "a photo of two blue stars and grass " + REST),
        ("(embedding:five:1.3) " + REST, "(two blue stars and grass:1.3) " + REST),
        ("embedding:one embedding:two " + REST, "red red circle " + REST),
        ("in the style of van gogh embedding:two", "in the style of van gogh red circle"),
        ("embedding:one " * 80 + REST, "red " * 80 + REST),
        # ComfyUI leaves out what it does not know, and what does not fit.
        ("embedding:unknown " + REST, REST),
        ("embedding:wide " + REST, REST),
        ("a embedding:wide embedding:two " + REST, "a red circle " + REST),
    ],
)
def test_the_subject_is_found_and_hidden_at_the_words_places(shapes, corrupt, embedding, prompt, words):
    clip = shapes[1]
    torch.testing.assert_close(encode(clip, prompt), encode(clip, words), atol=1e-5, rtol=1e-5)
    got, wanted = corrupt(clip, prompt), corrupt(clip, words)
    assert share(got).corruption.positions == share(wanted).corruption.positions
    assert (share(got).chunk, share(got).chunks) == (share(wanted).chunk, share(wanted).chunks)
    for one, other in zip(got[:2], wanted[:2], strict=True):
        torch.testing.assert_close(one[0][0], other[0][0], atol=1e-4, rtol=1e-4)
    assert got[2].positions("later tokens") == wanted[2].positions("later tokens")
    assert got[2].positions("padding") == wanted[2].positions("padding")


def test_the_whole_prompt_is_hidden_with_its_embeddings(nodes, shapes, embedding):
    node = nodes["DiffQuickFix_CorruptPrompt"]
    for prompt, words in (("embedding:two " + REST, "red circle " + REST), ("embedding:wide " + REST, REST)):
        got, wanted = (
            node.execute(shapes[1], text, "van gogh", 3.0, 0, "", "whole prompt").args[0] for text in (prompt, words)
        )
        torch.testing.assert_close(got[0][0], wanted[0][0], atol=1e-4, rtol=1e-4)


def test_a_traced_prompts_columns_name_the_embeddings(nodes, shapes, embedding):
    inputs = sweep_inputs(shapes, prompts="[red] embedding:two, grass", sites="text.0.*", steps=1, controls=0)
    trace, _ = nodes["DiffQuickFix_CausalTraceText"].execute(**inputs, columns="tokens").args
    assert trace.columns == ("red", "embedding:two (2)", "embedding:two (3)", ",", "grass", "<end>", "<padding>")


def test_a_checkpoint_does_not_go_on_with_another_embedding_of_the_name(
    nodes, shapes, embedding, tmp_path, monkeypatch
):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    inputs = sweep_inputs(
        shapes, prompts="[red] embedding:two", sites="text.0.*", steps=1, controls=0, checkpoint="embedded"
    )
    node = nodes["DiffQuickFix_CausalTraceText"]
    node.execute(**inputs, columns="places", pictures=0)
    node.execute(**inputs, columns="places", pictures=0)
    embedding("two", "blue circle")
    with pytest.raises(ValueError, match="made with other tokens of the prompts;"):
        node.execute(**inputs, columns="places", pictures=0)


@pytest.mark.parametrize("subject", ["embedding:two", "Embedding:two", "embedding:two in"])
def test_an_embedding_is_no_subject(shapes, corrupt, embedding, subject):
    with pytest.raises(ValueError, match="is an embedding"):
        corrupt(shapes[1], "embedding:two " + REST, subject=subject)


def test_an_embedding_without_a_name_is_refused(shapes, corrupt, embedding):
    with pytest.raises(ValueError, match="without a name"):
        corrupt(shapes[1], REST + " embedding: ")


# --- the seam of two parts -------------------------------------------------------------------------------------------

# 74 tokens: the first part of a prompt has room for one more.
LONG = "red circle, " * 24 + "red red "


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        (LONG + "van gogh", "van gogh"),
        (LONG + "van gogh, on sand, by van gogh", "van gogh"),
        ("red circle, " * 24 + "red in the style of van gogh, on grass", "in the style of van gogh"),
    ],
)
def test_a_subject_over_the_seam_of_two_parts_is_refused_and_a_word_less_helps(shapes, corrupt, prompt, subject):
    with pytest.raises(ValueError, match=r"over the seam of parts 1 and 2 of 77 tokens .* words before it"):
        corrupt(shapes[1], prompt, subject=subject)
    moved = corrupt(shapes[1], prompt.split(", by")[0].removeprefix("red circle, red circle, "), subject=subject)
    assert share(moved).chunk == 0


def test_a_part_that_begins_in_the_midst_of_a_word_begins_with_no_subject(shapes, corrupt):
    """The seam cuts "gogh" behind "go": "gh" at the second part's start is no word of the prompt."""
    own = shapes[1].tokenizer.clip_l.tokenizer
    pieces = own.convert_ids_to_tokens(own("gogh elephantine")["input_ids"][1:-1])
    broken = next(piece for piece in pieces if not piece.endswith("</w>"))
    rest = pieces[pieces.index(broken) + 1].removesuffix("</w>")
    word = broken + rest
    prompt = LONG + word + ", on sand"
    with pytest.raises(ValueError, match="not among the words"):
        corrupt(shapes[1], prompt, subject=rest)


# --- what the subject picker is told ---------------------------------------------------------------------------------


@pytest.fixture
def prompt_tokens(pack, nodes, tmp_path, monkeypatch, embedding):
    import folder_paths

    routes = importlib.import_module(f"{pack.__name__}.nodes.host.routes")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(tmp_path)], {".safetensors"}))
    routes._tokenizer.cache_clear()
    yield routes.prompt_tokens
    routes._tokenizer.cache_clear()


def test_an_embedding_is_one_word_that_cannot_be_chosen(prompt_tokens):
    found = prompt_tokens("a embedding:five, (embedding:one:1.2) by van gogh embedding:unknown", "van gogh")
    assert found["problem"] == ""
    shown = [(word["text"], word["count"], word["choosable"], word["subject"]) for word in found["words"]]
    assert shown == [
        ("a", 1, True, False),
        ("embedding:five", 5, False, False),
        (",", 1, True, False),
        ("embedding:one", 1, False, False),
        ("by", 1, True, False),
        ("van", 1, True, True),
        ("gogh", 1, True, True),
    ]
    assert [word["tokens"] for word in found["words"] if not word["choosable"]] == [
        ["embedding:five"],
        ["embedding:one"],
    ]


def test_an_embedding_that_is_still_being_typed_is_no_error(prompt_tokens):
    found = prompt_tokens("van gogh embedding:", "van gogh")
    assert found["words"] == [] and "without a name" in found["problem"]
