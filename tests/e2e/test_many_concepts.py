"""Three styles removed in one solve on the stock server; Shapes' own CLIP reads the pictures."""

import numpy as np
import pytest
from diff_quickfix.demo_model.studies.demo import as_tensor
from diff_quickfix.demo_model.studies.server import ServerError

REMOVED, KEPT = ("van gogh", "georges seurat", "piet mondrian"), "bridget riley"
EACH = 2


@pytest.fixture
def workflow(template):
    return template("remove-many-concepts")


def node(workflow, kind):
    (found,) = (entry for entry in workflow.values() if entry["class_type"] == kind)
    return found["inputs"]


@pytest.mark.newest
def test_the_workflow_removes_three_styles_and_keeps_the_fourth(scorer, workflow, columns):
    _, painted = columns(workflow)
    before, after = (
        np.array(scorer.read(as_tensor(painted[name]), "style")).reshape(-1, EACH) for name in ("before", "after")
    )
    for row, name in enumerate((*REMOVED, KEPT)):
        assert (before[row] == name).any(), before
    for row, name in enumerate(REMOVED):
        assert (after[row] != name).all(), after
    assert (after[-1] == KEPT).sum() >= (before[-1] == KEPT).sum(), after


def report_alone(workflow):
    """The edit and its report, and nothing painted."""
    kinds = tuple(f"DiffQuickFix_{name}" for name in ("LoadShapesDemo", "ConceptEditList", "AddConceptEdit", "Edit"))
    prompt = {key: entry for key, entry in workflow.items() if entry["class_type"] in kinds}
    (edit,) = (key for key, entry in prompt.items() if entry["class_type"] == "DiffQuickFix_Edit")
    prompt["100"] = {"class_type": "PreviewAny", "inputs": {"source": [edit, 2]}}
    return prompt


def test_the_list_may_lie_in_a_file(server, workflow):
    folder = server.folder / "input" / "lists"
    folder.mkdir()
    rows = ["source,target", *(f"{name},painting" for name in REMOVED)]
    (folder / "styles.csv").write_text("\n".join(rows), encoding="utf-8")
    prompt = report_alone(workflow)
    node(workflow, "DiffQuickFix_ConceptEditList").update({"edits": "", "file": "lists/styles.csv"})
    (report,) = server.run(prompt)["100"]["text"]
    assert "efficacy" in report and "over 8" in report
    for bad in ("../../server.log", "none.csv"):
        node(workflow, "DiffQuickFix_ConceptEditList")["file"] = bad
        with pytest.raises(ServerError, match="not in list"):
            server.run(prompt)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edits": "van gogh -> painting\nvan gogh -> monet"}, r"line 2: the concept 'van gogh' has two targets"),
        ({"edits": "van gogh -> painting | mood=blue"}, r"line 1, column 24: cannot read 'mood=blue'"),
        ({"edits": "# nothing"}, "holds no edit"),
    ],
)
def test_errors_reach_the_user_in_plain_words(server, workflow, changes, message):
    node(workflow, "DiffQuickFix_ConceptEditList").update(changes)
    with pytest.raises(ServerError, match=message):
        server.run(report_alone(workflow))
