"""Every text of the page's scripts is there in every language."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from diff_quickfix.families.doors import FAMILIES
from diff_quickfix.quickfix.measure.verdict import SENTENCES
from diff_quickfix.quickfix.ways import WAYS, WayError, way_of
from diff_quickfix.text.captions import KINDS

WEB = Path(__file__).resolve().parents[3] / "web"
LANGUAGES = ("zh", "ja", "ko", "de", "fr", "es", "ru")
# The first argument of t() and term(): string literals, perhaps joined by "+".
CALL = re.compile(r"""\b(?:t|term)\(\s*((?:(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')\s*\+?\s*)+)""")
LITERAL = re.compile(r""""((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)'""")
PLACE = re.compile(r"\{\w+\}")


def scripts() -> list[Path]:
    return [*sorted(WEB.glob("*.js")), *sorted(WEB.glob("lib/*.mjs"))]


def keys(source: str) -> set[str]:
    """The English texts that a script says."""
    return {
        "".join(double or single for double, single in LITERAL.findall(call)).replace('\\"', '"')
        for call in CALL.findall(source)
    }


@pytest.fixture(scope="module")
def english():
    """What the scripts say themselves, and what a report has them say."""
    return set(SENTENCES).union(*(keys(path.read_text()) for path in scripts()))


def texts(language):
    return json.loads((WEB / "texts" / f"{language}.json").read_text())


def test_keys_are_found():
    source = """t("a {b}", { b }); term("long " +
        "text"); t('say "x"'); const set = start("no"); t(name)"""
    assert keys(source) == {"a {b}", "long text", 'say "x"'}


def test_there_are_texts_and_files_for_the_languages_alone(english):
    assert len(english) > 60
    assert {path.name for path in (WEB / "texts").iterdir()} == {f"{language}.json" for language in LANGUAGES}
    (said,) = re.findall(r"LANGUAGES = (\[.*?\]);", (WEB / "lib" / "texts.mjs").read_text())
    assert tuple(json.loads(said)) == LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_lacks_no_text_and_keeps_the_places_of_values(english, language):
    found = texts(language)
    assert english - set(found) == set()
    assert set(found) - english == set()
    for text, said in found.items():
        assert sorted(PLACE.findall(said)) == sorted(PLACE.findall(text)), text
        assert said.strip() and (len(text) < 25 or said != text)
        assert said.startswith(" ") == text.startswith(" ")


def test_the_check_of_types_is_turned_off_nowhere():
    assert not [path.name for path in scripts() if re.search(r"@ts-|@type \{(any|\*|Function)\}", path.read_text())]


def test_no_sentence_is_said_past_the_languages():
    for path in scripts():
        source = re.sub(r"/\*.*?\*/", "", re.sub(r"//.*", "", path.read_text()), flags=re.DOTALL)
        rest = CALL.sub("", source)
        said = [double or single for double, single in LITERAL.findall(rest)] + re.findall(r"`([^`]*)`", rest)
        assert not [text for text in said if re.match(r"[A-Z][a-z]+ [a-z]", text)], path.name


def test_the_page_knows_whatever_a_report_says_of_where_it_edited():
    """Every way of every family: one of the sentences that the page has in other languages."""
    known = {text for text in keys((WEB / "lib" / "report_model.mjs").read_text()) if text.startswith("edited: ")}
    said = set()
    for family in FAMILIES:
        sentences = {f"edited: the image model ({family.title})"}  # Edit Image Model
        for kind in KINDS:
            for way in WAYS:
                with suppress(WayError):
                    sentences.add(way_of(family, kind, way).text(family))
        found = {text for text in known if text.format(family=family.title) in sentences}
        assert len(found) == len(sentences)
        said |= found
    assert said == known
