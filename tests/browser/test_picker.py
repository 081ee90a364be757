"""The subject picker on "Corrupt Prompt"."""

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
    page.wait(f"[...document.querySelectorAll('{CHIPS}')].at(-1)?.textContent === 'boats'")
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
