"""Progress, words and cancel of long work inside a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_execution.utils import get_executing_context


def progress_bar() -> Callable[[int, int], None]:
    """A function (done, all) that moves the running node's progress bar, and ends the work when the user cancels.

    The function raises InterruptProcessingException then.
    """
    bar = comfy.utils.ProgressBar(1)

    def show(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return show


def say(text: str) -> None:
    """Show a line of text on the running node. Nothing happens outside a node or without a server."""
    node = _node_of_a_server()
    if node is not None:
        from server import PromptServer

        PromptServer.instance.send_progress_text(text, node)


def send(event: str, data: dict[str, Any]) -> None:
    """Send the page that queued the running node an event of the pack, with the node's id as ``node_id`` beside its
    data. Nothing happens outside a node or without a server."""
    node = _node_of_a_server()
    if node is not None:
        from server import PromptServer

        PromptServer.instance.send_sync(event, {**data, "node_id": node}, PromptServer.instance.client_id)


def _node_of_a_server() -> str | None:
    """The running node's id; None outside a node or without a server."""
    running = get_executing_context()
    try:
        # Not at the top: importing ComfyUI's server starts half of it. Around a running node it is there already.
        from server import PromptServer
    except ImportError:
        return None
    served = getattr(PromptServer, "instance", None) is not None
    return running.node_id if running is not None and served else None


def duration(seconds: float) -> str:
    """As people say it: "40 s", "3 min", "2 h 5 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
