"""One stock ComfyUI server with the pack, for all end-to-end tests."""

import json

import pytest
from diff_quickfix.demo_model.server import PACK, running_server


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    with running_server(comfyui, tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture
def listed_template(server):
    """Check that the template browser lists a template, with a picture, and that it has a tested prompt's nodes."""

    def check(name, prompt):
        listed = server.get_json("/workflow_templates")
        (names,) = [names for pack, names in listed.items() if "diff-quickfix" in pack]
        assert name in names
        assert (PACK / "workflows" / f"{name}.jpg").is_file()
        template = json.loads((PACK / "workflows" / f"{name}.json").read_text())
        kinds = sorted(node["type"] for node in template["nodes"] if node["type"] != "MarkdownNote")
        assert kinds == sorted(node["class_type"] for node in prompt.values())
        return template

    return check
