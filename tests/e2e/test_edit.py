"""The stock server runs the pack's workflows, and Shapes' own CLIP looks at what came out."""

import numpy as np
import pytest
from diff_quickfix.demo_model.studies.demo import EDITED, as_tensor, compare, demo_scenes
from diff_quickfix.demo_model.studies.evaluate import edit_prompts
from diff_quickfix.demo_model.studies.server import PACK, ServerError

STEPS = 10


@pytest.fixture
def workflow(template):
    return template("remove-a-style")


def pictures(server, outputs, node):
    return np.stack([server.picture(image) for image in outputs[node]["images"]])


def test_the_server_knows_the_nodes_and_their_tooltips(server):
    known = server.get_json("/object_info")
    ours = {name: info for name, info in known.items() if name.startswith("DiffQuickFix_")}
    assert {f"{name}.md" for name in ours} == {page.name for page in (PACK / "web" / "docs").glob("*.md")}
    for info in ours.values():
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        assert all(options.get("tooltip") for _, options in inputs.values())
        assert len(info["output_tooltips"]) == len(info["output"]) and all(info["output_tooltips"])


def test_the_workflow_removes_the_style_and_keeps_the_picture(server, scorer, workflow):
    outputs = server.run(workflow)
    before, after = (as_tensor(pictures(server, outputs, node)) for node in ("12", "13"))
    assert before.shape == after.shape == (4, 3, 128, 128)
    assert scorer.read(before, "style").count(EDITED) >= 3
    assert EDITED not in scorer.read(after, "style")
    # The report reaches the page through the node's own output: in words, and as numbers.
    report, measures = outputs["2"]["diff_quickfix_report"]
    assert "efficacy" in report and "drift" in report
    assert 0.5 < measures["efficacy"] <= 1 and measures["worst_hit"]


@pytest.mark.newest
def test_editing_layer_0_removes_a_style_and_spares_the_others(server, scorer):
    result = compare(server, demo_scenes(own=4, others=1), steps=STEPS)
    own = np.array([scene.style == EDITED for scene in result.scenes])
    before, after = (np.array(scorer.read(as_tensor(p), "style")) for p in (result.before, result.after))
    assert (before[own] == EDITED).sum() >= 3
    assert (after[own] != EDITED).all()
    truth = np.array([scene.style for scene in result.scenes])
    right = [(read == truth)[~own].sum() for read in (before, after)]
    assert right[1] >= right[0] - 1


@pytest.mark.newest
def test_editing_a_later_layer_removes_nothing(server, scorer):
    result = compare(server, edit_prompts(EDITED, 3), steps=STEPS, layer=3)
    before, after = (scorer.read(as_tensor(p), "style") for p in (result.before, result.after))
    assert before.count(EDITED) >= 2 and after == before


def test_strength_zero_paints_the_very_same_pixels(server):
    result = compare(server, edit_prompts(EDITED, 1), steps=STEPS, strength=0.0)
    assert np.array_equal(result.before, result.after)


def test_the_next_workflow_is_not_affected_by_an_edit(server, workflow):
    first = pictures(server, server.run(workflow), "12")
    server.free()
    for node in ("2", "4", "6", "9", "11", "13"):
        del workflow[node]
    again = pictures(server, server.run(workflow), "12")
    assert np.array_equal(first, again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": ""}, "source concept is empty"),
        ({"source": "red " * 80}, "cut off"),
        ({"layer": 40}, "no layer 40"),
        ({"target": "van gogh"}, "different target"),
    ],
)
def test_errors_reach_the_user_in_plain_words(server, workflow, changes, message):
    workflow["2"]["inputs"].update(changes)
    with pytest.raises(ServerError, match=message):
        server.run(workflow)


def test_the_pages_scripts_and_help_are_served(server):
    scripts = [path for path in server.get_json("/extensions") if "diff-quickfix" in path]
    names = sorted(path.rsplit("/", 1)[1] for path in scripts)
    assert names == ["node_views.js"]
    folder = scripts[0].rsplit("/", 1)[0]
    docs = PACK / "web" / "docs"
    pages = [*docs.glob("*.md"), *docs.glob("*/*.md")]
    assert len(pages) % 3 == 0
    for page in pages:
        served = server.get(f"{folder}/docs/{page.relative_to(docs).as_posix()}").decode()
        assert served == page.read_text(encoding="utf-8")


def test_the_servers_log_has_no_complaint_about_the_pack(server):
    log = server.log.read_text(errors="replace")
    assert not [line for line in log.splitlines() if "IMPORT FAILED" in line and "diff-quickfix" in line]
    complaints = [line for line in log.splitlines() if "missing" in line.lower() and "key" in line.lower()]
    assert not complaints
