"""The template that saves and shares an edit, on the stock server: three ways to the same pictures."""

import numpy as np
import pytest
from diff_quickfix.cli import main
from diff_quickfix.demo_model.studies.demo import EDITED, as_tensor
from diff_quickfix.demo_model.studies.server import ServerError
from diff_quickfix.quickfix import load_edit

BEFORE, NODE, LORA, LOAD = "12", "17", "22", "27"


@pytest.fixture
def workflow(template):
    return template("save-and-share")


def pictures(server, outputs, node):
    return np.stack([server.picture(image) for image in outputs[node]["images"]])


def test_one_run_saves_the_edit_and_paints_with_the_file(server, scorer, workflow, capsys):
    # Another test may have painted the same pictures: older servers report nothing for results that they still hold.
    server.free()
    outputs = server.run(workflow)
    before, node, lora, load = (pictures(server, outputs, which) for which in (BEFORE, NODE, LORA, LOAD))
    assert scorer.read(as_tensor(before), "style").count(EDITED) >= 3
    assert EDITED not in scorer.read(as_tensor(node), "style")
    # The node adds the delta, the loader multiplies its factors: the last bit of a weight may differ.
    assert np.array_equal(node, load) and np.abs(node.astype(int) - lora).max() <= 2
    (report,) = outputs["7"]["text"]
    assert "efficacy" in report and "not the model" not in report
    (file,) = server.folder.rglob("van-gogh_*.safetensors")
    assert file.parent == server.folder / "output" / "loras" / "diff-quickfix"
    assert load_edit(file).concepts[0].source == "van gogh"
    assert main(["inspect", str(file)]) == 0 and "van gogh -> painting" in capsys.readouterr().out
    # Saved once, the file is offered by name, and a second save takes the next number.
    workflow["5"]["inputs"]["lora_name"] = workflow["6"]["inputs"]["file"] = f"diff-quickfix/{file.name}"
    workflow["4"]["inputs"]["naming"] = "comfyui"
    again = server.run(workflow)
    assert np.array_equal(pictures(server, again, LORA), lora) and np.array_equal(pictures(server, again, LOAD), load)
    assert len(list(file.parent.glob("van-gogh_*.safetensors"))) == 2


def needed_by(workflow, node):
    """A node of a workflow, and all that feeds it."""
    links = [value for value in workflow[node]["inputs"].values() if isinstance(value, list)]
    return {node}.union(*(needed_by(workflow, source) for source, _ in links))


@pytest.mark.parametrize(
    ("node", "changes", "message"),
    [
        ("4", {"name": "../../evil"}, "plain file name"),
        ("4", {"name": ""}, "plain file name"),
        ("6", {"file": "../../secret.safetensors"}, "not in list|no LoRA file"),
    ],
)
def test_errors_reach_the_user_in_plain_words(server, workflow, node, changes, message):
    workflow[node]["inputs"].update(changes)
    # ComfyUI runs what else can run; here there is nothing else.
    for other in workflow.keys() - needed_by(workflow, node):
        del workflow[other]
    with pytest.raises(ServerError, match=message):
        server.run(workflow)
    assert not list(server.folder.parent.rglob("evil*"))
