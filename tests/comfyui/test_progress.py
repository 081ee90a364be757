"""What a node says while it works."""

import importlib
import sys
from types import SimpleNamespace

import pytest


@pytest.fixture
def progress(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.host.progress")


def test_words_go_to_the_running_node_and_nowhere_without_one(progress, monkeypatch):
    from comfy_execution.utils import CurrentNodeContext

    said = []

    class Server:
        def send_progress_text(self, text, node_id, sid=None):
            said.append((text, node_id, sid))

    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=Server()))
    monkeypatch.setitem(sys.modules, "server", server)
    progress.say("nobody hears it")
    with CurrentNodeContext("a prompt", "5:12"):
        progress.say("3 of 4 pictures")
    assert said == [("3 of 4 pictures", "5:12", None)]


def test_an_event_goes_to_the_page_that_queued_with_the_nodes_id(progress, monkeypatch):
    from comfy_execution.utils import CurrentNodeContext

    sent = []
    server = SimpleNamespace(client_id="a page", send_sync=lambda *message: sent.append(message))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    progress.send("pack_event", {"of": "nobody"})
    with CurrentNodeContext("a prompt", "5:12"):
        progress.send("pack_event", {"value": 1})
    assert sent == [("pack_event", {"value": 1, "node_id": "5:12"}, "a page")]


@pytest.mark.parametrize("server", [None, SimpleNamespace(PromptServer=SimpleNamespace())])
def test_without_a_server_nothing_is_said(progress, monkeypatch, server):
    from comfy_execution.utils import CurrentNodeContext

    monkeypatch.setitem(sys.modules, "server", server)
    with CurrentNodeContext("a prompt", "1"):
        progress.say("3 of 4 pictures")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (99.4, "99 s"), (100, "2 min"), (3599, "60 min"), (7500, "2 h 5 min")]
)
def test_durations_are_said_as_people_say_them(progress, seconds, words):
    assert progress.duration(seconds) == words
