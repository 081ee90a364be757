"""An edit and a trace, from loading the model to saving the result, open no connection and start no process."""

import socket
import sys

import pytest
import torch
from runs import sweep_inputs

EVENTS = (
    "socket.connect",
    "socket.sendto",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
    "os.system",
)
_seen: list | None = None


def _note(event, arguments):
    if _seen is not None and event in EVENTS:
        _seen.append((event, repr(arguments)[:200]))


# An audit hook stays for good; it takes notes only while a test asks it to.
sys.addaudithook(_note)


@pytest.fixture
def connections():
    global _seen
    _seen = []
    yield _seen
    _seen = None


def test_a_connection_would_be_seen(connections):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", 9))
    socket.getaddrinfo("127.0.0.1", 80)
    assert {event for event, _ in connections} == {"socket.connect", "socket.getaddrinfo"}


def test_an_edit_and_a_trace_ask_nobody(nodes, edit, tmp_path, monkeypatch, connections):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    loras = ([str(tmp_path / "loras")], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", loras)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    with torch.inference_mode():
        shapes = nodes["DiffQuickFix_LoadShapesDemo"].execute().args
        edited, made, _ = edit(shapes[1])
        (file,) = nodes["DiffQuickFix_SaveEditAsLoRA"].execute(made, "edit", "kohya", 1.0, "fp32").args
        nodes["DiffQuickFix_LoadEdit"].execute(shapes[1], file, 1.0)
        nodes["DiffQuickFix_CorruptPrompt"].execute(edited, "a house by van gogh", "van gogh", 3.0, 0)
        for kind, more in (("Text", {"columns": "tokens"}), ("UNet", {"step_windows": 1, "branch": "cond"})):
            inputs = sweep_inputs(shapes, sites="*.1.*", steps=1, controls=1, pictures=3)
            trace, pictures = nodes[f"DiffQuickFix_CausalTrace{kind}"].execute(**inputs, **more).args
            nodes["DiffQuickFix_CausalHeatmap"].execute(trace, "recovery", 800, pictures)
            nodes["DiffQuickFix_SaveTrace"].execute(trace, kind, True)
    assert connections == []
