"""Words beside the fields for names, while they are typed."""

from comfy_page import node_of
from diff_quickfix.quickfix.concepts.typed import SENTENCES, notes_on

NOTES = ".diff-quickfix-notes.diff_quickfix_names"
EDIT = node_of("DiffQuickFix_Edit")
# Sources, targets, kinds, and whether there is a list of concepts: every rule, its neighbours, and letters that are
# compared in other ways.
TABLE = [
    *(
        (source, target, kind, listed)
        for source in ("", "  ", "\u200b", "van gogh", "Van Gogh", "VAN  GOGH", "stra\u00dfe", "cafe\u0301")
        for target in ("", "painting", "van gogh", "STRASSE", "caf\u00e9", None)
        for kind in ("style", "object", "custom")
        for listed in (False, True)
    ),
    *(
        (name, "painting", "style", False)
        for name in (
            *(
                "(van gogh:1.3)",
                "((van gogh:1.2):.5)",
                "(van gogh)",
                "[van gogh]",
                "van gogh:1.1",
                "(a:1), (b:2)",
                "(: 1 )",
            ),
            *("ganyu (genshin impact)", "ganyu \\(genshin impact\\)", "\\(a\\:1\\)", "3:4 picture", "(van gogh:bold)"),
            *("<lora:gogh:0.8>", "van gogh <LORA:x", "a <b> c", "embedding:gogh", "my embedding:x", "reembedding:x"),
            *(
                "van gogh -> painting",
                "van gogh \u2192 painting",
                "a => b",
                "x-ray",
                "a>b",
                '"van gogh"',
                "\u201cvan gogh\u201d",
            ),
            *(
                "'van gogh'",
                "van gogh, monet",
                "van gogh,",
                "monet\nvan gogh",
                "salt AND pepper",
                "andrew band",
                "a; b",
            ),
            *(
                "\u68b5\u9ad8\u3001\u83ab\u5948",
                "\u30b4\u30c3\u30db",
                "a",
                "The",
                "of",
                "x",
                "l'art",
                "o'keeffe",
                "r2d2",
            ),
            *(
                "a\u00a0b",
                "a\u200cb",
                "\u0643\u200d\u0628",
                "\U0001f600",
                "and",
                "sand and",
                " and ",
                "-1:2",
                "a:-.5",
                "a:1.",
            ),
        )
    ),
    *(("van gogh", name, "object", False) for name in ("a, b", "the", "(x:1)", '"x"', "a -> b", "<lora:x>", "a and b")),
]


def test_the_page_and_python_notice_the_same(page):
    code = """async (table) => {
        const { notesOn, SENTENCES } = await import('/extensions/diff-quickfix/lib/typed_names.mjs');
        const told = ({ field, sentence, values }) => [field, sentence, values];
        return [SENTENCES, table.map((row) => notesOn(...row).map(told))];
    }"""
    sentences, found = page.run(code, TABLE)
    assert sentences == list(SENTENCES)
    told = [
        [list(note) for note in notes_on(source, target, kind, listed=listed)] for source, target, kind, listed in TABLE
    ]
    for row, here, there in zip(TABLE, told, found, strict=True):
        assert there == here, row
    # The rules that need no tokens are all met.
    assert {sentence for notes in told for _, sentence, _ in notes} == set(SENTENCES[:-2])


def type_into(page, node, **values):
    code = """(id, values) => Object.entries(values).forEach(([name, value]) => {
        const widget = window.app.graph.getNodeById(id).widgets.find((one) => one.name === name);
        widget.value = value;
        widget.callback?.(value);
    })"""
    page.run(code, node, values)


def said(page):
    return page.text_of(NOTES)


def test_names_for_other_encoders_are_not_judged_by_clips_tokens(page):
    page.clear()
    loader = page.add("CLIPLoader", at=(20, 60))
    edit = page.add("DiffQuickFix_Edit", at=(420, 60), size=(420, 760))
    page.connect(loader, "CLIP", edit, "clip")
    page.view()
    type_into(page, loader, type="stable_diffusion")
    type_into(page, edit, source="van gogh " * 40, target="painting")
    page.wait(f"document.querySelector('{NOTES}')?.textContent.includes('has 83 tokens')", timeout=20)
    for kind in ("qwen_image", "flux2"):
        type_into(page, loader, type=kind)
        page.wait(f"document.querySelectorAll('{NOTES}').length === 0", timeout=20)
    assert not page.own_complaints()


def test_words_stand_beside_the_fields_as_long_as_they_are_true(page):
    page.clear()
    loader = page.add("DiffQuickFix_LoadShapesDemo", at=(20, 60))
    edit = page.add("DiffQuickFix_Edit", at=(420, 60), size=(420, 760))
    encode = page.add("CLIPTextEncode", at=(20, 300), widgets={"text": "a (house:1.2) by Van Gogh"})
    page.connect(loader, "clip", edit, "clip")
    page.connect(edit, "clip", encode, "clip")
    page.view()
    page.rest(0.8)
    assert not said(page)
    before = page.run(f"[{EDIT}.serialize().widgets_values, {EDIT}.size[1]]")
    assert len(before[0]) == 12
    type_into(page, edit, source="(van gogh:1.3)", target="cat, dog")
    page.wait(f"document.querySelector('{NOTES}')?.children.length === 2")
    first, second = page.run(f"[...document.querySelector('{NOTES}').children].map((line) => line.textContent)")
    assert first.endswith('source: parentheses and weights are prompt syntax; write "van gogh"')
    assert "target: reads as 2 names" in second
    page.rest(0.5)
    page.shot("name-notes")
    # They stand behind the fields, whole, and over none of them.
    order = page.run(f"{EDIT}.widgets.map(({{ name }}) => name)")
    assert order[:3] == ["source", "target", "diff_quickfix_names"]
    assert page.run(
        "(({ scrollHeight, clientHeight }) => scrollHeight <= clientHeight)"
        f"(document.querySelector('{NOTES}').parentElement)"
    )
    # What is saved has no gap, and comes back as it was.
    graph = page.run("window.app.graph.serialize()")
    (kept,) = [node["widgets_values"] for node in graph["nodes"] if node["type"] == "DiffQuickFix_Edit"]
    assert kept == ["(van gogh:1.3)", "cat, dog", *before[0][2:]]
    page.load(graph)
    page.wait(f"document.querySelector('{NOTES}')?.children.length === 2")
    assert page.run(f"{EDIT}.serialize().widgets_values") == kept
    sent = page.run(
        "window.app.graphToPrompt().then(({ output, workflow }) => [Object.values(output), workflow.nodes])"
    )
    assert "diff_quickfix_names" not in str(sent)
    # What only the server sees: tokens, and prompts.
    type_into(page, edit, source="claude monet", target="painting")
    page.wait(f"document.querySelector('{NOTES}')?.textContent.includes('in none of the 1 prompts')")
    # What is muted, or encoded with nothing, is no prompt; wires and modes are looked at, whatever is typed.
    code = "(id, mode) => { window.app.graph.getNodeById(id).mode = mode; }"
    page.run(code, encode, 2)
    page.wait(f"document.querySelectorAll('{NOTES}').length === 0")
    page.run(code, encode, 0)
    page.wait(f"document.querySelector('{NOTES}')?.textContent.includes('in none of the 1 prompts')")
    page.run("(id) => { window.app.graph.getNodeById(id).disconnectInput(0); }", encode)
    page.wait(f"document.querySelectorAll('{NOTES}').length === 0")
    page.connect(edit, "clip", encode, "clip")
    page.wait(f"document.querySelector('{NOTES}')?.textContent.includes('in none of the 1 prompts')")
    type_into(page, edit, source="van gogh " * 40)
    page.wait(f"document.querySelector('{NOTES}')?.textContent.includes('has 83 tokens')")
    type_into(page, edit, source="van gogh")
    page.wait(f"document.querySelectorAll('{NOTES}').length === 0")
    assert page.run(f"[{EDIT}.serialize().widgets_values, {EDIT}.size[1]]") == before
    assert not page.own_complaints()
