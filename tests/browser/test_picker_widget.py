"""The subject picker on "Corrupt Prompt"."""

import pytest
from traces import EMBEDDINGS

BOX = ".diff-quickfix-tokens"
CHIPS = f"{BOX} button"
MARKED = f"{BOX} button[aria-pressed=true]"
SUBJECT = "window.app.graph._nodes[0].widgets.find((w) => w.name === 'subject').value"


def add_picker(page, prompt, subject):
    page.clear()
    page.add("DiffQuickFix_CorruptPrompt", at=(60, 60), size=(460, 640))
    page.view()
    type_into(page, "prompt", prompt)
    type_into(page, "subject", subject)


def type_into(page, name, text):
    """Set a widget as the page does when a user types."""
    code = """(name, text) => {
        const widget = window.app.graph._nodes[0].widgets.find((one) => one.name === name);
        widget.value = text;
        widget.callback?.(text);
    }"""
    page.run(code, name, text)


def test_the_prompt_is_cut_as_the_tokenizer_cuts_it_and_the_subject_is_marked(page, tokenizer):
    prompt = "a starry night by vincent van gogh, 3 boats"
    add_picker(page, prompt, "van gogh")
    # The default prompt names van gogh too.
    page.wait(f"document.querySelectorAll('{CHIPS}')[1]?.textContent === 'starry'")
    assert page.text_of(MARKED) == ["van", "gogh"]
    pieces = tokenizer._tokenizer.convert_ids_to_tokens(tokenizer.word_ids(prompt))
    pieces = [piece.removesuffix("</w>") for piece in pieces]
    assert page.text_of(f"{CHIPS} span") == pieces
    page.shot("picker")
    assert not page.own_complaints()


def test_a_click_chooses_a_word_and_shift_several(page):
    add_picker(page, "an elephant by georges seurat at noon", "elephant")
    page.wait(f"document.querySelectorAll('{MARKED}').length === 1")
    words = page.text_of(CHIPS)
    page.click_on(CHIPS, index=words.index("georges"))
    page.wait(f"{SUBJECT} === 'georges'")
    page.wait(f"document.querySelector('{MARKED}')?.textContent === 'georges'")
    page.click_on(CHIPS, index=words.index("seurat"), shift=True)
    page.wait(f"{SUBJECT} === 'georges seurat'")
    page.wait(f"document.querySelectorAll('{MARKED}').length === 2")


def test_a_subject_that_is_not_there_is_seen_before_queueing(page):
    add_picker(page, "a house by claude monet", "van gogh")
    page.wait(f"document.querySelector('{BOX}').dataset.problem === 'true'")
    (words,) = page.text_of(BOX)
    assert "not among the words of the prompt" in words
    assert page.text_of(MARKED) == []
    type_into(page, "subject", "monet")
    page.wait(f"document.querySelector('{BOX}').dataset.problem === 'false'")
    assert page.text_of(MARKED) == ["monet"]


def test_typing_in_the_page_is_followed(page):
    add_picker(page, "a house", "house")
    page.wait(f"document.querySelectorAll('{MARKED}').length === 1")
    page.run("[...document.querySelectorAll('textarea')].find((box) => box.value === 'a house').focus()")
    page.press("End", control=True)
    for key in " red":
        page.press(key)
    page.wait(f"[...document.querySelectorAll('{CHIPS}')].at(-1)?.textContent === 'red'")


def connect_reroute(page, source):
    """A reroute node behind the first output of a node, or behind nothing; its id."""
    code = """(source) => {
        const node = LiteGraph.createNode('Reroute');
        window.app.graph.add(node);
        if (source !== null) window.app.graph.getNodeById(source).connect(0, node, 0);
        return node.id;
    }"""
    return page.run(code, source)


FED = f"document.querySelector('{BOX}').textContent.startsWith('The {{}} is fed by a link')"
WORDS = f"[...document.querySelectorAll('{BOX} [role=group] > *')].map((one) => one.textContent)"
PICKER = "window.app.graph.nodes.find((node) => node.comfyClass === 'DiffQuickFix_CorruptPrompt')"


def feed(page, source, into):
    """Connect the first output of a node to an input of the picker's."""
    code = f"""(source, into) => {{
        const node = {PICKER};
        window.app.graph.getNodeById(source).connect(0, node, node.inputs.findIndex((slot) => slot.name === into));
    }}"""
    page.run(code, source, into)


def unfeed(page, into):
    page.run(f"(into) => {PICKER}.disconnectInput({PICKER}.inputs.findIndex((slot) => slot.name === into))", into)


def test_a_prompt_that_a_link_feeds_shows_no_words_of_the_widget(page):
    add_picker(page, "a house by claude monet", "monet")
    page.wait(f"document.querySelectorAll('{MARKED}').length === 1")
    string = page.add("PrimitiveString", at=(600, 60), widgets={"value": "a tree"})
    primitive = page.add("PrimitiveNode", at=(600, 400))
    for source in (string, connect_reroute(page, string), primitive):
        feed(page, source, "prompt")
        page.wait(f"{FED.format('prompt')} && {WORDS}.length === 0")
        unfeed(page, "prompt")
        page.wait(f"document.querySelectorAll('{CHIPS}').length === 5 && !{FED.format('prompt')}")
    # A reroute that nothing goes into feeds nothing: the node reads its widget.
    feed(page, connect_reroute(page, None), "prompt")
    page.rest(0.5)
    assert len(page.text_of(CHIPS)) == 5
    feed(page, string, "prompt")
    page.wait(FED.format("prompt"))
    page.shot("picker-fed")
    page.load(page.run("window.app.graph.serialize()"))
    page.wait(f"document.querySelector('{BOX}') && {FED.format('prompt')} && {WORDS}.length === 0")
    unfeed(page, "prompt")
    page.wait(f"document.querySelectorAll('{CHIPS}').length === 5")
    assert not page.own_complaints()


def test_where_a_link_feeds_the_subject_no_word_is_marked_nor_can_be_chosen(page):
    add_picker(page, "a house by claude monet", "monet")
    page.wait(f"document.querySelectorAll('{MARKED}').length === 1")
    feed(page, page.add("PrimitiveString", at=(600, 60), widgets={"value": "house"}), "subject")
    page.wait(f"{WORDS}.length === 5 && document.querySelectorAll('{CHIPS}').length === 0")
    assert "The subject is fed by a link" in page.text_of(BOX)[0]
    unfeed(page, "subject")
    page.wait(f"document.querySelector('{MARKED}')?.textContent === 'monet'")


def test_a_widget_that_is_set_by_nobody_who_tells_is_followed(page):
    add_picker(page, "a house", "house")
    page.wait(f"document.querySelectorAll('{MARKED}').length === 1")
    page.run(f"{PICKER}.widgets.find((one) => one.name === 'prompt').value = 'a red house'")
    page.wait(f"{WORDS}.join(' ') === 'a red house'")


@pytest.mark.parametrize(
    ("prompt", "words", "embeddings"),
    [
        ("embedding:mystyle a house", ["embedding:mystyle", "a", "house"], [0]),
        ("a (embedding:mystyle:1.2) house", ["a", "embedding:mystyle", "house"], [1]),
        (
            "embedding:styles/other.safetensors, a house embedding:mystyle",
            ["embedding:styles/other.safetensors", ",", "a", "house", "embedding:mystyle"],
            [0, 4],
        ),
    ],
)
def test_an_embedding_is_one_chip_that_cannot_be_chosen(page, prompt, words, embeddings):
    add_picker(page, prompt, "house")
    page.wait(f"document.querySelectorAll('{MARKED}').length === 1 && {WORDS}.length === {len(words)}")
    assert page.run(WORDS) == words
    fixed = page.run(f"[...document.querySelectorAll('{BOX} [role=group] > *')].map((one) => one.tagName !== 'BUTTON')")
    assert [place for place, one in enumerate(fixed) if one] == embeddings
    page.click_on(f"{BOX} .diff-quickfix-fixed")
    assert page.run(SUBJECT) == "house"
    count = sum(
        EMBEDDINGS[words[place].removeprefix("embedding:").removesuffix(".safetensors")] for place in embeddings
    )
    assert f"{len(words) - len(embeddings) + count} tokens" in page.text_of(BOX)[0]
    page.shot("picker-embedding")
    # Nor can a range that goes over it.
    page.click_on(CHIPS, index=0)
    page.click_on(CHIPS, index=len(words) - len(embeddings) - 1, shift=True)
    page.wait(f"!{SUBJECT}.includes('embedding')")
    assert not page.own_complaints()
