"""The help pages in other languages: none lags behind the English page, and each is built as that is."""

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "web" / "docs"
LANGUAGES = ("zh", "ja")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]*)\)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)]*)\)|<?(https?://[^\s)>]+)")
CODE = re.compile(r"`([^`]+)`")
EMPHASIS = re.compile(r"(\*{1,2})(?=\S)([^*]+?)(?<=\S)\1")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
HAN, KANA = re.compile(r"[\u4e00-\u9fff]"), re.compile(r"[\u3041-\u30ff]")
# What stands between names in a list.
BETWEEN = re.compile(r"[\s,`\u3001]+")


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = load_script("help_translations")
PAGES = sorted(DOCS.glob("*.md"))
BOTH = pytest.mark.parametrize(
    ("page", "language"),
    [(page, language) for page in PAGES for language in LANGUAGES],
    ids=lambda value: value if isinstance(value, str) else value.stem.removeprefix("DiffQuickFix_"),
)


def nodes_in(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())


def sockets_of(node):
    """The names of a node's inputs and outputs."""
    return {**node.get("inputs", {}), **{f"output {place}": one for place, one in node["outputs"].items()}}


class Names:
    """What a language calls nodes and sockets, and what the views say, by the English names."""

    def __init__(self, language):
        english, self.nodes = nodes_in("en"), nodes_in(language)
        self.english_titles = {name: node["display_name"] for name, node in english.items()}
        self.of_node = {name: self._sockets(node, self.nodes[name]) for name, node in english.items()}
        self.of_any = {}
        for names in self.of_node.values():
            for text, said in names.items():
                self.of_any.setdefault(text, set()).update(said)
        self.texts = json.loads((ROOT / "web" / "texts" / f"{language}.json").read_text())

    @staticmethod
    def _sockets(english, translated):
        said = sockets_of(translated)
        names = {}
        for key, socket in sockets_of(english).items():
            names.setdefault(socket["name"], set()).add(said[key]["name"])
        return names

    def said_for(self, text, node):
        """What the views or sockets call ``text``: those of the node, or else of any."""
        views = {self.texts[text]} if text in self.texts else set()
        return views | (self.of_node[node].get(text) or self.of_any.get(text, set()))


NAMES = {language: Names(language) for language in LANGUAGES}


def texts_of(page, language):
    """An English page and its translation, as readers see them."""
    translated = SCRIPT.translation_of(page, language).read_text(encoding="utf-8")
    return page.read_text(encoding="utf-8"), SCRIPT.without_mark(translated)


def code_blocks(text):
    return [line for line in text.splitlines() if line.startswith("    ")]


def without_code(text):
    lines = [line for line in text.splitlines() if not line.startswith("    ")]
    return CODE.sub("", "\n".join(lines))


def shape(text):
    """What each line is: a heading of a level, a row of so many columns, an item, or nothing of these."""
    for line in text.splitlines():
        if heading := re.match(r"(#+) ", line):
            yield heading[1]
        elif line.startswith("|"):
            yield line.replace(r"\|", "").count("|")
        elif item := re.match(r"\*(?= )|\d+(?=\.)", line):
            yield item[0]


def rows(text):
    """The tables' rows, as lists of cells."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|-")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_page_has_its_translations_and_none_lags():
    assert len(PAGES) >= 24 and SCRIPT.LANGUAGES == LANGUAGES
    assert not SCRIPT.lagging(), (
        "translate what has changed, then run scripts/help_translations.py --accept LANGUAGE PAGE"
    )
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.glob("*/*")} == {
        f"{page.stem}/{language}.md" for page in PAGES for language in LANGUAGES
    }


def test_a_translation_that_lags_is_named_until_it_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr(SCRIPT, "DOCS", tmp_path)
    page = tmp_path / "DiffQuickFix_A.md"
    page.write_text("# A\n\none\n")
    assert SCRIPT.lagging() == ["DiffQuickFix_A/zh.md is missing", "DiffQuickFix_A/ja.md is missing"]
    for language in LANGUAGES:
        path = SCRIPT.translation_of(page, language)
        path.parent.mkdir(exist_ok=True)
        path.write_text("# B\n\neins\n")
    assert [line.split(" ", 1)[1] for line in SCRIPT.lagging()] == ["does not say which English text it translates"] * 2
    assert SCRIPT.main(["--accept"]) == 0
    page.write_text("# A\n\ntwo\n")
    assert SCRIPT.lagging() == [
        f"DiffQuickFix_A/{language}.md is older than DiffQuickFix_A.md" for language in LANGUAGES
    ]
    assert SCRIPT.main([]) == 1
    assert SCRIPT.main(["--accept", "zh", "A"]) == 1
    assert SCRIPT.lagging() == ["DiffQuickFix_A/ja.md is older than DiffQuickFix_A.md"]
    assert SCRIPT.main(["--accept", "A"]) == 0
    translation = SCRIPT.translation_of(page, "zh").read_text()
    assert SCRIPT.without_mark(translation) == "# B\n\neins\n" and translation.count("<!--") == 1
    with pytest.raises(SystemExit, match="no help page B"):
        SCRIPT.main(["--accept", "B"])


@BOTH
def test_a_translation_has_the_headings_tables_and_lists_of_its_page(page, language):
    english, translated = texts_of(page, language)
    assert list(shape(translated)) == list(shape(english))
    assert translated.splitlines()[0] == f"# {NAMES[language].nodes[page.stem]['display_name']}"
    # A paragraph is one line: between these letters a line's end would show as a blank.
    blocks = re.split(r"\n\s*\n", translated.strip())
    assert len(blocks) == len(re.split(r"\n\s*\n", english.strip()))
    assert not [block for block in blocks if re.match(r"[^|*#\d\s]", block) and "\n" in block]


@BOTH
def test_a_translation_keeps_pictures_links_code_and_numbers(page, language):
    english, translated = texts_of(page, language)
    # The page looks beside the English page: scripts/help_translations.py.
    assert PICTURE.findall(translated) == PICTURE.findall(english) == [f"{page.stem}.webp"]
    assert Counter(LINK.findall(translated)) == Counter(LINK.findall(english))
    assert code_blocks(translated) == code_blocks(english)
    numbers = [Counter(NUMBER.findall(without_code(text))) for text in (translated, english)]
    assert numbers[0] == numbers[1]
    # A socket's name stands as the page shows it in that language, or as it is.
    wanted, names = Counter(CODE.findall(english)), NAMES[language].of_any
    for span in CODE.findall(translated):
        asked = [text for text in wanted if wanted[text] and (text == span or span in names.get(text, ()))]
        assert asked, f"`{span}` is not in the English page so often"
        wanted[min(asked, key=lambda text: text != span)] -= 1
    assert not +wanted


@BOTH
def test_a_translation_calls_nodes_sockets_and_measures_what_the_page_calls_them(page, language):
    english, translated = texts_of(page, language)
    names, sockets = NAMES[language], NAMES[language].of_node[page.stem]
    for title, node in zip(names.english_titles.values(), names.nodes.values(), strict=True):
        # "Causal Trace (Text Encoder)" is no "Trace".
        if re.search(rf"(?<![\w-]){re.escape(title)}(?!\w)", english):
            assert node["display_name"] in translated, title
            assert title == node["display_name"] or title not in translated
    for cells, said in zip(rows(english), rows(translated), strict=True):
        listed = [name for name in BETWEEN.split(cells[0]) if name]
        if listed and all(name in sockets for name in listed):
            rest = said[0]
            for name in listed:
                (word,) = sockets[name]
                assert word in rest, f"{name} is {word} in {language}"
                rest = rest.replace(word, "", 1)
            assert not BETWEEN.sub("", rest)
    prose = CODE.sub("", translated)
    marked = [text for _, text in EMPHASIS.findall(prose)]
    for mark, text in EMPHASIS.findall(CODE.sub("", english)):
        said = names.said_for(text, page.stem)
        # The value of a setting stays as it is, with its translation in (wide) brackets behind it.
        found = [word for word in said if word in marked] + [
            text for word in said if f"{mark}{text}{mark}\uff08{word}" in prose and text in marked
        ]
        assert not said or found, f"{text} is {said} in {language}"
        if found:
            marked.remove(found[0])


@BOTH
def test_a_translation_is_in_its_language_and_its_emphasis_shows(page, language):
    _, translated = texts_of(page, language)
    prose = [line for line in without_code(translated).splitlines() if len(re.findall(r"[A-Za-z]", line)) > 25]
    assert not [line for line in prose if not HAN.search(line) and not KANA.search(line)]
    assert HAN.search(translated)
    assert bool(KANA.search(translated)) == (language == "ja")
    lines = [re.sub(r"^\* ", "", line) for line in without_code(translated).splitlines()]
    assert not [line for line in lines if "*" in EMPHASIS.sub("", line)]
    for line in lines:
        for span in EMPHASIS.finditer(line):
            # Beside a letter, Markdown takes a star next to a mark of punctuation for a star.
            before, after = line[: span.start()][-1:], line[span.end() :][:1]
            assert span[2][0].isalnum() or not before.isalnum(), span[0]
            assert span[2][-1].isalnum() or not after.isalnum(), span[0]
