"""A stock server with saved traces, and Chromium with one page in each renderer."""

import os
import shutil
from pathlib import Path

import pytest
from chromium import running_chromium
from comfy_page import ComfyPage
from diff_quickfix.demo_model.studies.server import running_server
from traces import save_embeddings, save_traces


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comfyui")
    save_traces(folder / "output" / "causal_traces")
    save_embeddings(folder / "models" / "embeddings")
    (folder / "custom_nodes" / "network_guard").mkdir(parents=True)
    guard = Path(__file__).with_name("network_guard.py")
    shutil.copy(guard, folder / "custom_nodes" / "network_guard" / "__init__.py")
    with running_server(comfyui, folder) as running:
        yield running


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    program = os.environ.get("CHROMIUM_PATH", "")
    assert os.path.isfile(program), f"CHROMIUM_PATH is {program!r}; expected Chromium. Run through `make test-browser`."
    with running_chromium(program, tmp_path_factory.mktemp("browser") / "profile") as running:
        yield running


@pytest.fixture(scope="session", params=["classic", "vue"])
def page(request, browser, server):
    """ComfyUI, in each renderer: one page for all tests, since its start takes longer than most of them."""
    opened = ComfyPage(browser, server, vue=request.param == "vue")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _tidy(request):
    """No test sees what an earlier one complained about or left open."""
    if "page" in request.fixturenames:
        request.getfixturevalue("page").tidy()
