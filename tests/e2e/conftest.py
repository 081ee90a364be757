"""One stock ComfyUI server for all end-to-end tests: the pack as the registry's archive installs it, and small models
behind ComfyUI's loaders (small_models.py)."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import templates
import upload
from diff_quickfix.demo_model.scorer import ShapesScorer
from diff_quickfix.demo_model.studies.server import running_server
from in_process import set_up_comfyui
from random_models import cached


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comfyui")
    upload.copy_upload(folder / "custom_nodes" / "diff-quickfix")
    (folder / "custom_nodes" / "small_models.py").symlink_to(Path(__file__).with_name("small_models.py"))
    with running_server(comfyui, folder) as running:
        yield running


@pytest.fixture(scope="session")
def scorer():
    """Shapes' own CLIP, which reads pictures."""
    return ShapesScorer()


@pytest.fixture(scope="session")
def known(server):
    """What the server knows of all nodes."""
    return server.get_json("/object_info")


@pytest.fixture(scope="session")
def prompt_of(known):
    """Makes the API prompt that the page makes of a graph, but with half its sampling steps.

    Shapes' pictures read the same with ten steps as with twenty, and the steps are most of what these tests cost.
    """

    def make(graph):
        prompt = templates.prompt_of(graph, known)
        for node in prompt.values():
            if "steps" in node["inputs"]:
                node["inputs"]["steps"] //= 2
        return prompt

    return make


@pytest.fixture(scope="session")
def template(prompt_of):
    """Makes the API prompt of a template of the pack, by the template's name."""
    return lambda name: prompt_of(templates.read(name))


@pytest.fixture(scope="session")
def columns(server):
    """Runs a prompt with a Before/After Sheet; gives its outputs, and the pictures (n, h, w, 3) of each input."""

    def run(prompt):
        (sheet,) = (node for node in prompt.values() if node["class_type"] == templates.SHEET)
        given = {name: value for name, value in sheet["inputs"].items() if isinstance(value, list)}
        shown = {f"shown:{name}": {"class_type": "PreviewImage", "inputs": {"images": given[name]}} for name in given}
        outputs = server.run({**prompt, **shown})
        read = {
            name: np.stack([server.picture(image) for image in outputs[f"shown:{name}"]["images"]]) for name in given
        }
        return outputs, read

    return run


@pytest.fixture(scope="session")
def put_model(server, comfyui):
    """Put a real-size model with random weights where the server's loaders look, under a name.

    It is built with ComfyUI's own classes when the cache lacks it.
    """

    def put(name, build, **options):
        link = server.folder / "models" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        kept_as = "-".join((build.__name__.replace("_", "-"), *options))
        set_up_comfyui(comfyui)
        try:
            path = cached(kept_as, lambda: build(**options))
        finally:
            sys.path.remove(str(comfyui))
        if not link.exists():
            os.symlink(path, link)

    return put
