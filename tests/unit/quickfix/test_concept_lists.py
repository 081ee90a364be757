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
from hypothesis import assume, given, settings
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
        (concepts_from_json, "[5]", "entry 1 is 5"),
        (concepts_from_json, '["a, b"]', "line 1: 'a, b' holds ','"),
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


ARROWS = [
    "->",
    "-->",
    "=>",
    "\u2192",
    "\u21d2",
    "\u27f6",
    "\u2794",
    "\u279c",
    "\u27a1\ufe0f",
    "\u27f9",
    "\u2014>",
    "\uff0d\uff1e",
]
QUOTES = [
    "{}",
    '"{}"',
    "'{}'",
    "\u201c{}\u201d",
    "\u201e{}\u201c",
    "\u00ab{}\u00bb",
    "\u300c{}\u300d",
    "\u2018{}\u2019",
]
BULLETS = ["", "- ", "* ", "\u2022 ", "  \u2013 ", "1. ", "12) "]
UNSEEN = ["", "\u200b", "\ufeff", "\u2060", "\u00ad", "\u200e", "\u202a"]
PLAIN = st.from_regex("[a-z\u00e9\u4e2d]{1,5}( [a-z0-9'-]{1,5})?", fullmatch=True).filter(
    lambda name: name[-1] not in "'-"
)


@pytest.mark.parametrize("name", ["o'keeffe", "rock 'n' roll", "the '80s", "a '0"])
def test_an_apostrophe_within_single_quotes_belongs_to_the_name(name):
    assert parse_concepts(f"'{name}' -> monet").concepts == (ConceptEdit(name, "monet"),)
    assert parse_concepts(f"monet -> '{name}'").concepts == (ConceptEdit("monet", name),)


def test_quotes_within_quotes_are_told():
    with pytest.raises(ConceptListError, match="quotes within quotes"):
        parse_concepts("'the dogs' home' -> monet")


@settings(max_examples=100)
@given(
    PLAIN,
    PLAIN,
    st.sampled_from(ARROWS),
    st.sampled_from(QUOTES),
    st.sampled_from(QUOTES),
    st.sampled_from(BULLETS),
    st.sampled_from(UNSEEN),
    st.sampled_from(["", "  # my favourite", " // seen"]),
    st.sampled_from(["", " ", "\u00a0"]),
)
def test_lines_as_people_write_them_mean_the_plain_line(
    source, target, arrow, one, other, bullet, unseen, comment, space
):
    assume(source.casefold() != target.casefold())
    unseen_inside = source[:1] + unseen + source[1:]
    line = f"{unseen}{bullet}{one.format(unseen_inside)}{space}{arrow}{unseen}{space}{other.format(target)}{comment}"
    assert parse_concepts(f"// a comment\n\n{line}\n#end").concepts == (ConceptEdit(source, target),)
    if bullet == comment == "" and one == other == "{}":
        assert parse_concepts(f'"{line}"').concepts == (ConceptEdit(source, target),), "the whole line in quotes"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("van gogh, monet", "could mean several things"),
        ("van gogh; monet -> painting", "holds ';'"),
        ("van gogh -> painting, photo", "holds ','"),
        ("van gogh\u3001monet", "could mean several things"),
        ("van gogh\tpainting", "could mean several things"),
        ("van gogh: painting", "holds ':'"),
        ("van gogh = painting", "holds '='"),
        ("van gogh > painting", "holds '>'"),
        ("painting <- van gogh", "an arrow points to the left"),
        ("painting \u2190 van gogh", "an arrow points to the left"),
        ('"van gogh -> painting" -> x"', "quote at one end|a second ->"),
        ('"van gogh -> painting', "quote at one end"),
        ("van gogh \u2192 painting \u2192 photo", "column 21: a second \u2192"),
        ('{"source": "van gogh"}', "looks like JSON"),
    ],
)
def test_what_could_mean_two_things_is_refused_with_line_and_reason(line, reason):
    with pytest.raises(ConceptListError, match=f"line \\d+.*({reason})"):
        parse_concepts(line)


def test_a_name_in_quotes_is_taken_to_the_letter():
    assert parse_concepts('"star wars: a new hope"').concepts == (ConceptEdit("star wars: a new hope", "painting"),)
    read = parse_concepts('"van gogh, # the painter" -> "1. painting"').concepts
    assert read == (ConceptEdit("van gogh, # the painter", "1. painting"),)
    assert parse_concepts("king's road -> road").concepts == (ConceptEdit("king's road", "road"),)


def test_other_forms_are_known_by_how_they_begin(tmp_path):
    wanted = parse_concepts(TEXT).concepts
    fields = [{name: getattr(c, name) for name in ("source", "target", "kind", "templates", "weight")} for c in wanted]
    table = (
        "source,target,kind,weight,templates\nvan gogh,painting\nsnoopy,dog,object,2.5,a drawing of {x}|{x} on grass\n"
    )
    for content in (json.dumps(fields), f"\ufeff \n{json.dumps(fields, indent=1)}\n", table + "claude monet\n"):
        assert parse_concepts(content).concepts == wanted
        (tmp_path / "a.txt").write_text(content, encoding="utf-8")
        assert read_concepts(tmp_path / "a.txt").concepts == wanted
    assert parse_concepts('["van gogh", "snoopy => dog | kind=object"]').concepts == (
        VAN_GOGH,
        ConceptEdit("snoopy", "dog", "object"),
    )


def test_joiners_stay_where_a_script_needs_them():
    persian = "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert ConceptEdit(persian, "word").source == persian
    assert ConceptEdit("van\u200cgogh", "painting").source == "vangogh"


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
        assert any(set(concept.source + concept.target) & set("\"'") for concept in wanted)
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
