"""Change Edit and Find Target on the stock server, wired into Diff-QuickFix Edit as users wire them."""

import pytest
from diff_quickfix.demo_model.studies.server import ServerError

STYLES = "van gogh -> painting\ngeorges seurat -> painting"
POSITIONS = "last subject token and padding"


def say(*link):
    return {"class_type": "PreviewAny", "inputs": {"source": list(link)}}


def workflow(drop, add=""):
    ask = {"kind": "style", "preset": "guarded", "layer": 0, "positions": POSITIONS}
    return {
        "load": {"class_type": "DiffQuickFix_LoadShapesDemo", "inputs": {}},
        "list": {"class_type": "DiffQuickFix_ConceptEditList", "inputs": {"edits": STYLES, "file": "none"}},
        "target": {
            "class_type": "DiffQuickFix_FindTarget",
            "inputs": {"clip": ["load", 1], "source": "piet mondrian", "candidates": "painting\nbridget riley", **ask},
        },
        "lambda": {
            "class_type": "DiffQuickFix_FindLambda",
            "inputs": {"clip": ["load", 1], "source": "", "target": "", "concepts": ["list", 0], **ask},
        },
        "edit": {
            "class_type": "DiffQuickFix_Edit",
            "inputs": {
                "clip": ["load", 1],
                "source": "piet mondrian",
                "target": ["target", 0],
                "lam": ["lambda", 0],
                "strength": 1.0,
                "concepts": ["list", 0],
                **ask,
            },
        },
        "change": {
            "class_type": "DiffQuickFix_ChangeEdit",
            "inputs": {
                "clip": ["load", 1],
                "edit": ["edit", 1],
                "drop": drop,
                "add": add,
                "reweight": "van gogh: 2",
                "strength": 1.0,
            },
        },
        "radar": {
            "class_type": "DiffQuickFix_CollateralRadar",
            "inputs": {"clip": ["load", 1], "edit": ["change", 1], "hits": 3, "names": "georges seurat\nvan gogh"},
        },
        "say target": say("target", 0),
        "say report": say("change", 2),
        "say radar": say("radar", 0),
    }


def test_the_changed_edit_goes_on_through_the_graph(server):
    outputs = server.run(workflow("georges seurat\npiet mondrian"))
    assert outputs["say target"]["text"] == ["painting"]
    assert outputs["say report"]["text"][0].startswith("verdict: strong")
    # What was dropped is a name like any other again; what stayed is none to look at.
    assert "georges seurat" in outputs["say radar"]["text"][0]
    assert "van gogh" not in outputs["say radar"]["text"][0].splitlines()[-1]
    assert outputs["change"]["diff_quickfix_report"][:1] == outputs["say report"]["text"]


def test_a_wrong_name_is_told_on_the_node(server):
    with pytest.raises(ServerError, match="no concept 'monet'; it holds 'van gogh', 'georges seurat', 'piet mondrian'"):
        server.run(workflow("monet"))
