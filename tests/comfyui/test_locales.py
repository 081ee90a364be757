"""Every language says everything that the nodes say."""

import importlib.util

import pytest
from diff_quickfix.demo_model.studies.server import PACK


@pytest.fixture(scope="module")
def locales():
    spec = importlib.util.spec_from_file_location("locales_script", PACK / "scripts" / "locales.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def english(locales, nodes):
    return locales.english(nodes.values())


def test_english_is_what_the_nodes_say(locales, english):
    assert len(english["nodeDefs"]) >= 14
    assert locales.read("en") == english, "run scripts/locales.py"


def test_every_part_of_every_nodes_category_is_a_key_that_the_page_looks_up(english, nodes):
    categories = english["main"]["nodeCategories"]
    parts = {part for node in nodes.values() for part in node.CATEGORY.split("/")}
    assert parts == set(categories) and len(parts) >= 5
    # The page reads a point in a key as a step into the next object.
    assert not [part for part in parts if "." in part]


@pytest.mark.parametrize("language", ["zh", "ja", "ko", "de", "fr", "es", "ru"])
def test_a_language_lacks_no_key_and_has_none_too_many(locales, english, language):
    found = locales.read(language)
    assert not locales.missing(english, found), f"run scripts/locales.py {language}"
    assert {path for path, _ in locales.leaves(found)} == {path for path, _ in locales.leaves(english)}
    # Names of settings stay as they are; the sentences must be translated.
    by_path = dict(locales.leaves(found))
    same = [path for path, text in locales.leaves(english) if len(text) > 30 and by_path[path] == text]
    assert not same


def test_a_translation_of_what_has_changed_is_dropped(locales):
    before = {"Node": {"name": "old", "inputs": {"a": "same", "b": "gone"}}}
    after = {"Node": {"name": "new", "inputs": {"a": "same", "c": "added"}}}
    german = {"Node": {"name": "alt", "inputs": {"a": "gleich", "b": "weg", "c": "dazu"}}}
    kept = locales.without_changed(before, after, german)
    assert kept == {"Node": {"inputs": {"a": "gleich", "c": "dazu"}}}
    assert locales.missing(after, kept) == [("Node", "name")]
    assert locales.without_changed(after, after, german)["Node"]["name"] == "alt"


@pytest.mark.parametrize("language", ["en", "zh", "ja", "ko", "de", "fr", "es", "ru"])
def test_names_hold_no_sign_that_the_page_would_take_for_a_variable(locales, language):
    for path, text in locales.leaves(locales.read(language)):
        if path[-1] != "tooltip":
            assert not set("{}@|") & set(text), path


def test_a_taken_text_replaces_one_text_and_the_same_words_elsewhere_keep_theirs(locales, tmp_path, monkeypatch):
    monkeypatch.setattr(locales, "ROOT", tmp_path)
    wanted = {
        "nodeDefs": {"a": {"name": "edit", "tooltip": "old"}, "b": {"name": "edit"}},
        "main": {"nodeCategories": {"edit": "edit", "new": "new"}},
    }
    locales.write("de", {"nodeDefs": {"a": {"name": "Bearbeitung", "tooltip": "alt"}}, "main": {}})
    locales.take("de", wanted, {"new": "neu", "old": "vorig"})
    found = locales.read("de")
    assert found["nodeDefs"] == {"a": {"name": "Bearbeitung", "tooltip": "vorig"}, "b": {"name": "Bearbeitung"}}
    assert found["main"]["nodeCategories"] == {"edit": "Bearbeitung", "new": "neu"}
    found["main"]["nodeCategories"]["edit"] = "bearbeiten"
    locales.write("de", found)
    locales.take("de", wanted, {})
    assert locales.read("de") == found
