"""ComfyUI's page on a stock server of its own, for the scripts that take pictures of it."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from diff_quickfix.demo_model.studies.server import running_server
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "browser"))
from chromium import running_chromium
from comfy_page import QUEUE_LEFT, ComfyPage, widget_of

__all__ = ["QUEUE_LEFT", "ComfyPage", "opened", "picture", "widget_of"]


@contextlib.contextmanager
def opened(width: int, height: int, *, vue: bool) -> Iterator[ComfyPage]:
    """A page of a size in pixels, in one of ComfyUI's two renderers; its server ends with the block."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(os.environ["COMFYUI_PATH"]), Path(folder) / "comfyui") as server,
        running_chromium(os.environ["CHROMIUM_PATH"], Path(folder) / "profile") as browser,
    ):
        page = ComfyPage(browser, server, vue=vue)
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        yield page


def picture(page: ComfyPage, clip: dict[str, float] | None = None) -> Image.Image:
    """What the page shows, or a part of it: x, y, width, height and scale."""
    given = {} if clip is None else {"clip": clip}
    data = page.call("Page.captureScreenshot", format="png", **given)["data"]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
