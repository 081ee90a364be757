"""Lists of concepts: what is read, what is refused and where, and that a written list reads back."""

import json

import pytest
from diff_quickfix.quickfix import (
    ConceptEdit,
    ConceptListError,
    combine,
    parse_concepts,
    read_concepts,
    text_of_concepts,
)
from diff_quickfix.quickfix.concepts.lists import LARGEST_FILE, concepts_from_csv, concepts_from_json
from diff_quickfix.text.captions import KINDS, PUBLISHED_TEMPLATES
from diff_quickfix.text.prompts import PromptError
from hypothesis import given, settings
from hypothesis import strategies as st

VAN_GOGH = ConceptEdit("van gogh", "painting")
SNOOPY = ConceptEdit("snoopy", "dog", "object", ("a drawing of {x}", "{x} on grass"), 2.5)
TEXT = """# artists

van gogh -> painting
 snoopy->dog|kind=Object | WEIGHT=2.5 |template=a drawing of {x}| template={x} on grass
claude monet
"""


def test_text():
    read = parse_concepts(TEXT)
    assert read.concepts == (VAN_GOGH, SNOOPY, ConceptEdit("claude monet", "painting"))
    assert read.notes == ()
    assert parse_concepts("\ufeff" + TEXT.replace("\n", "\r\n")) == read
    assert parse_concepts("# nothing\n \n").concepts == ()


def test_csv_and_json_say_the_same(tmp_path):
    table = (
        "Kind;source;templates;weight;target\n;van gogh;;;painting\n\n"
        'object;"snoopy";a drawing of {x} | {x} on grass;2.5;dog\n;claude monet\n'
    )
    entries = [
        {"source": "van gogh", "target": "painting"},
        {"source": "snoopy", "target": "dog", "kind": "object", "weight": 2.5, "templates": list(SNOOPY.templates)},
        {"source": "claude monet", "target": None},
    ]
    for name, content in (("a.csv", table), ("b.JSON", json.dumps(entries)), ("c.txt", TEXT)):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert read_concepts(tmp_path / name) == parse_concepts(TEXT), name
    comma = concepts_from_csv('target,source\n"king, queen",a "b" c\n')
    assert comma.concepts == (ConceptEdit('a "b" c', "king, queen"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a -> b -> c", r"line 1, column 8: a second ->"),
        ("\n-> b", "line 2: The source concept is empty"),
        ("\n a ->", r"line 2, column 6: nothing stands after ->"),
        ("a -> b | kind=object | mood=blue", r"line 1, column 24: cannot read 'mood=blue'; expected one of kind="),
        ("a -> b | object", "line 1, column 10: cannot read 'object'"),
        ("a -> b | weight=1 | weight=1", "line 1, column 21: weight is set twice"),
        ("a -> b | weight=much", "line 1: the weight is 'much'"),
        ("a -> b | weight=nan", "line 1: the weight is 'nan'"),
        ("a -> b | weight=-1", r"line 1: The weight of 'a' is -1\.0"),
        ("a -> b | weight=inf", "line 1: The weight of 'a' is inf"),
        ("a -> b | kind=mood", "line 1: Unknown kind of concept 'mood'"),
        ("a -> b | kind=custom", "line 1: .*own caption templates"),
        ("a -> A", "line 1: The source and the target are both 'a'"),
        ("a -> b\nc -> d\nA  -> c", r"line 3: the concept 'A' has two targets, 'b' \(line 1\) and 'c'"),
        ("a -> b\na -> b | weight=2", "line 2: 'a' -> 'b' stands already on line 1, with another kind, weight"),
        ("a -> b\nc\0 -> d", r"line 2, column 2: found the control character '\\x00'"),
    ],
)
def test_refuses_text_by_place(text, message):
    with pytest.raises(ConceptListError, match=message):
        parse_concepts(text)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (concepts_from_csv, "", "line 1: found no source|line 1: found ''"),
        (concepts_from_csv, "van gogh,painting\n", "line 1: found 'van gogh' among the column names"),
        (concepts_from_csv, "source,colour\na,b", "line 1: found 'colour'"),
        (concepts_from_csv, "source,source\na,b", "line 1: the column source is there twice"),
        (concepts_from_csv, "source,target\na,b\nc,d,e", "line 3, column 3: found 3 cells for 2 columns"),
        (concepts_from_csv, 'source,target\na,"b', "line 2: this is no CSV table"),
        (concepts_from_csv, "source,weight\na,heavy", "line 2: the weight is 'heavy'"),
        (concepts_from_json, "[{]", "line 1 column 3"),
        (concepts_from_json, "{}", "Expected a list"),
        (concepts_from_json, '[{"source": "a", "target": "b", "mood": 1}]', "entry 1 has the unknown field 'mood'"),
        (concepts_from_json, '[{"target": "b"}]', "entry 1 lacks the field source"),
        (concepts_from_json, '[{"source": "a", "target": 5}]', "entry 1.target is 5; expected str"),
        (concepts_from_json, '[{"source": "a", "weight": true}]', "entry 1.weight is true; expected float"),
        (concepts_from_json, '[{"source": "a", "weight": NaN}]', "NaN is not a number"),
        (concepts_from_json, '["a"]', 'entry 1 is "a"'),
        (concepts_from_json, "[" * 100_000, "no JSON"),
    ],
)
def test_refuses_tables_by_place(read, text, message):
    with pytest.raises(ConceptListError, match=message):
        read(text)


def test_refuses_files(tmp_path):
    cases = {
        "a.xlsx": (b"", "ends in '.xlsx'; expected one of .csv, .json, .txt"),
        "b.txt": (b"a -> b\nc\xe9 -> d", "b.txt, line 2 is not in UTF-8"),
        "c.txt": (b"#" * (LARGEST_FILE + 1), "c.txt is larger than 8 MB"),
        "d.csv": (b"name\na", "d.csv, line 1: found 'name'"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConceptListError, match=message):
            read_concepts(tmp_path / name)
    with pytest.raises(ConceptListError, match=r"none.txt cannot be read"):
        read_concepts(tmp_path / "none.txt")


def test_repeats_count_once_and_are_told():
    read = parse_concepts("van gogh -> painting\nsnoopy -> dog\nVan  Gogh -> Painting")
    assert read.concepts == (VAN_GOGH, ConceptEdit("snoopy", "dog"))
    assert read.notes == ("line 3 repeats line 1, 'Van  Gogh' -> 'Painting': counted once",)
    joined = combine([VAN_GOGH, SNOOPY], [VAN_GOGH])
    assert joined.concepts == (VAN_GOGH, SNOOPY) and len(joined.notes) == 1
    with pytest.raises(ConceptListError, match="concept 2: the concept 'van gogh' has two targets"):
        combine([VAN_GOGH], [ConceptEdit("van gogh", "monet")])


NAMES = st.text(st.sampled_from("abz \u00e9\u4e2d'=#,;\"{}.-"), min_size=1, max_size=12)
TEMPLATES = st.lists(st.text("ab {}=,", max_size=6).map(lambda text: f"{text}{{x}}".strip()), min_size=1, max_size=3)


@st.composite
def concepts(draw):
    try:
        return ConceptEdit(
            draw(NAMES),
            draw(NAMES),
            draw(st.sampled_from(KINDS)),
            tuple(draw(TEMPLATES)) if draw(st.booleans()) else None,
            draw(st.floats(1e-300, 1e300)),
        )
    except PromptError:
        return SNOOPY


@settings(max_examples=25)
@given(st.lists(concepts(), max_size=3, unique_by=lambda concept: " ".join(concept.source.casefold().split())))
def test_a_written_list_reads_back(wanted):
    try:
        text = text_of_concepts(wanted)
    except ConceptListError:
        assert any(concept.source.startswith("#") or "->" in concept.source + concept.target for concept in wanted)
        return
    assert parse_concepts(text).concepts == tuple(wanted)
    fields = [{name: getattr(c, name) for name in ("source", "target", "kind", "templates", "weight")} for c in wanted]
    assert concepts_from_json(json.dumps(fields)).concepts == tuple(wanted)


@given(
    st.text(st.one_of(st.sampled_from('ab->|=#,;"\n\t {}x\ufeff\0'), st.characters()), max_size=60),
    st.sampled_from(["", "source,target\n", "van gogh -> painting\n", '[{"source": ']),
)
def test_no_text_does_worse_than_a_clear_error(text, start):
    for read in (parse_concepts, concepts_from_csv, concepts_from_json):
        try:
            found = read(start + text)
        except ConceptListError as error:
            assert str(error)
        else:
            assert all(isinstance(concept, ConceptEdit) for concept in found.concepts)


def test_weights_are_positive_numbers():
    assert ConceptEdit("a", "b", weight=2).templates == PUBLISHED_TEMPLATES
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(PromptError, match="weight of 'a'"):
            ConceptEdit("a", "b", weight=weight)
