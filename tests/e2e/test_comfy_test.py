"""comfy-test, with which packs test their installation, attached to our server: the pack as the archive installs it.

Not run here, of its default levels: static_capture and execution, which install Playwright and Mesa into whatever runs
them (tests/browser shows the pages, tests/e2e runs the templates); and validation, which cannot pass: it counts neither
combos of nodes in ComfyUI's V3 form nor the seed's "fixed" among a workflow's widgets, and takes the value of each for
another's. Not default, and cannot pass: coverage, which knows nodes of the V1 form alone. javascript is not default
either, and runs.
"""

import shutil
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "comfy-test.toml"
RUN = ("syntax", "install", "registration", "javascript", "instantiation")


@pytest.fixture(scope="module")
def ended(server, comfyui, registry_tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comfy-test")
    shutil.copyfile(server.log, folder / "server.log")
    pack = server.folder / "custom_nodes" / "diff-quickfix"
    levels = ("run", "--server-url", server.url, "--config", CONFIG, "--level", RUN[-1])
    places = {"COMFY_TEST_LOGS_DIR": str(folder), "COMFY_TEST_WORKSPACE_DIR": str(folder)}
    # The path: its instantiation level imports the node in a process that starts in ComfyUI's folder.
    return registry_tool(pack, "comfy_test", *levels, path=[comfyui], **places)


@pytest.mark.newest
def test_the_levels_that_run_here_are_asked_for_elsewhere_too():
    asked = tomllib.loads(CONFIG.read_text())["test"]["levels"]
    assert asked == [*RUN, "static_capture", "execution"]


@pytest.mark.newest
@pytest.mark.parametrize("level", RUN)
def test_a_level_passes(ended, level):
    assert f"[{level.upper()}] PASSED" in ended.stdout, ended.stdout[-4000:]


@pytest.mark.newest
def test_nothing_fails(ended):
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
