"""An edit holds where people write names: in the middle, weighted, in capitals, behind 77 tokens.

Measured where the edit acts, in ComfyUI's own encode path and under its own patching: what the edited layer says at the
concept's last token, beside what it says of the same prompt with the target in the concept's place.
"""

import pytest
import torch
from conditioning import encode

# The pack's own code; ComfyUI's version has little to do with it.
pytestmark = pytest.mark.newest

CHUNK = 77
EOS = 49407
FILLER = "a red circle on grass, " * 14
PROMPTS = {
    "end": "a red circle on grass, in the style of {}",
    "front": "{} painting of a red circle on grass",
    "middle": "a red circle in the style of {} on grass, at night",
    "weighted": "a red circle in the style of ({}:1.2) on grass, at night",
    "bracketed": "a red circle, (by {}:0.6), on grass",
    "second chunk": FILLER + "in the style of {}, at night",
    "punctuation": "A RED CIRCLE! (in: the style of) {}.",
}


def chunks(clip, text):
    """Token ids of each chunk as ComfyUI makes them."""
    return [[token for token, *_ in chunk] for chunk in clip.tokenize(text)["l"]]


def said(clip, text):
    """What the first self-attention says, (chunks, 77, width)."""
    seen = []
    layer = clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers[0].self_attn
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    try:
        encode(clip, text)
    finally:
        handle.remove()
    return torch.cat(seen)


def last_token(clip, text, name):
    """(chunk, position) of the last token of a name in a prompt."""
    (wanted,) = chunks(clip, name)
    wanted = wanted[1 : wanted.index(EOS)]
    for number, row in enumerate(chunks(clip, text)):
        for start in range(CHUNK - len(wanted)):
            if row[start : start + len(wanted)] == wanted:
                return number, start + len(wanted) - 1
    raise AssertionError(f"{name!r} is not in {text!r}")


def reached(clip, edited, prompt, source, target):
    """Share of the way from the source's to the target's output at the source's last token."""
    here, there = (last_token(clip, prompt.format(name), name) for name in (source, target))
    before, after = (said(which, prompt.format(source))[here] for which in (clip, edited))
    wanted = said(clip, prompt.format(target))[there]
    return 1 - float((after - wanted).norm() / (before - wanted).norm())


@pytest.fixture(scope="module")
def edits(shapes, nodes):
    """Shapes' CLIP after an edit of each name, made as the node makes them."""
    node, clip = nodes["DiffQuickFix_Edit"], shapes[1]
    made = {}

    def get(name):
        if name not in made:
            with torch.inference_mode():
                made[name] = node.execute(
                    clip, name, "painting", "style", "guarded", 0, 0.0, "last subject token and padding", 1.0
                ).args[0]
        return made[name]

    return get


@pytest.mark.parametrize("where", PROMPTS)
@pytest.mark.parametrize("name", ["van gogh", "Van Gogh", "katsushika hokusai"])
def test_the_edit_holds_wherever_a_name_stands(shapes, edits, name, where):
    """Names of two and of five tokens. Every one of these sentences is unlike the edit's own captions."""
    clip = shapes[1]
    assert len(chunks(clip, PROMPTS[where].format(name))) == (2 if where == "second chunk" else 1)
    assert reached(clip, edits(name.lower()), PROMPTS[where], name, "painting") > 0.3


def test_a_name_that_is_not_edited_stays_where_it_is(shapes, edits):
    clip = shapes[1]
    for where in ("middle", "second chunk"):
        assert abs(reached(clip, edits("van gogh"), PROMPTS[where], "georges seurat", "painting")) < 0.1


def test_weights_act_behind_the_encoder_so_the_edit_sees_the_plain_prompt(shapes, edits):
    edited = edits("van gogh")
    plain, weighted = (said(edited, PROMPTS[where].format("van gogh"))[0] for where in ("middle", "weighted"))
    assert torch.equal(plain, weighted)
    texts = [encode(edited, PROMPTS[where].format("van gogh")) for where in ("middle", "weighted")]
    assert not torch.equal(*texts)


def test_a_further_chunk_is_edited_as_a_prompt_of_its_own(shapes, edits):
    """ComfyUI encodes each 75 tokens apart: the second chunk's text states are those of its words alone."""
    clip, edited = shapes[1], edits("van gogh")
    long = PROMPTS["second chunk"].format("van gogh")
    _, second = chunks(clip, long)
    words = clip.tokenizer.clip_l.tokenizer.decode(second[1 : second.index(EOS)])
    assert "van gogh" in words
    alone = encode(edited, words)
    assert chunks(clip, words) == [second]
    both = encode(edited, long)
    assert both.shape[1] == 2 * CHUNK
    torch.testing.assert_close(both[:, CHUNK:], alone, rtol=1e-4, atol=1e-4)
    # The first chunk does not name the concept, and nearly keeps its text states.
    untouched = encode(clip, long)
    change = torch.linalg.vector_norm((both - untouched).unflatten(1, (2, CHUNK)), dim=(0, 2, 3))
    assert change[0] < 0.1 * untouched[:, :CHUNK].norm() and change[1] > 2 * change[0]
