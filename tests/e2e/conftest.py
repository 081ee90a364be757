"""One stock ComfyUI server with the pack, for all end-to-end tests."""

import pytest
from diff_quickfix.demo_model.server import running_server


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    with running_server(comfyui, tmp_path_factory.mktemp("comfyui")) as running:
        yield running
