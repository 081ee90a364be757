"""Start a stock ComfyUI server with this pack, and talk to it over HTTP; for the demo and the end-to-end tests."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PACK = Path(__file__).resolve().parents[2]


class ServerError(RuntimeError):
    """The server did not start, or refused or failed a workflow; the message carries what it said."""


@dataclass(frozen=True)
class Server:
    """A running server: its address, its working folder and its log file."""

    url: str
    folder: Path
    log: Path

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as reply:
            return reply.read()

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, value: Any) -> bytes:
        """POST a value as JSON."""
        body, headers = json.dumps(value).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}{path}", body, headers), timeout=60) as reply:
            return reply.read()

    def free(self) -> None:
        """Have the server forget all cached results and unload all models before its next workflow."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(1.5)

    def interrupt(self) -> None:
        """Cancel the workflow that runs."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/interrupt", b""), timeout=60).close()

    def queue(self, workflow: dict[str, Any]) -> str:
        """POST an API-format workflow; returns the prompt's id.

        Raises:
            ServerError: the server finds the workflow invalid.
        """
        try:
            return json.loads(self.post("/prompt", {"prompt": workflow}))["prompt_id"]
        except urllib.error.HTTPError as error:
            raise ServerError(f"The server refused the workflow: {error.read().decode()[:4000]}") from None

    def run(self, workflow: dict[str, Any], *, timeout: float = 600) -> dict[str, Any]:
        """Run a workflow to its end; returns the outputs by node id.

        Raises:
            ServerError: it was refused, failed (with the failing node's message), or took longer than ``timeout``.
        """
        prompt = self.queue(workflow)
        ends = time.monotonic() + timeout
        while time.monotonic() < ends:
            entry = self.get_json(f"/history/{prompt}").get(prompt)
            if entry:
                for kind, message in entry["status"]["messages"]:
                    if kind == "execution_error":
                        raise ServerError(f"{message['node_type']}: {message['exception_message']}")
                return entry["outputs"]
            time.sleep(0.1)
        raise ServerError(f"The workflow did not end within {timeout:.0f} s.\n{self.log_tail()}")

    def picture(self, image: dict[str, str]) -> np.ndarray:
        """One entry of a node's ``images`` output, as uint8 (height, width, 3)."""
        data = self.get("/view?" + urllib.parse.urlencode(image))
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def log_tail(self, characters: int = 4000) -> str:
        return self.log.read_text(errors="replace")[-characters:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running_server(comfyui: Path, folder: Path, *, start_within: float = 240) -> Iterator[Server]:
    """A ComfyUI server on the CPU with this pack as its only custom node, ended when the block ends.

    Args:
        comfyui: ComfyUI's root.
        folder: a folder for its models, input, output and user data. Where its ``custom_nodes`` holds no
            ``diff-quickfix``, this clone is linked there.

    Raises:
        ServerError: it ended or did not answer in time; the message has the end of its log.
    """
    for name in ("custom_nodes", "models", "input", "output", "user", "temp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    link = folder / "custom_nodes" / "diff-quickfix"
    if not link.exists():
        link.symlink_to(PACK, target_is_directory=True)
    port = _free_port()
    server = Server(f"http://127.0.0.1:{port}", folder, folder / "server.log")
    command = [
        sys.executable,
        str(comfyui / "main.py"),
        "--cpu",
        "--listen",
        "127.0.0.1",
        "--port",
        str(port),
        "--base-directory",
        str(folder),
        "--database-url",
        "sqlite:///:memory:",
        "--disable-auto-launch",
        "--disable-api-nodes",
        "--preview-method",
        "none",
    ]
    with server.log.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=comfyui)
    try:
        _wait_until_ready(server, process, start_within)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_ready(server: Server, process: subprocess.Popen, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise ServerError(f"ComfyUI ended with code {process.returncode} while starting:\n{server.log_tail()}")
        try:
            server.get("/system_stats")
            return
        except OSError:
            time.sleep(0.25)
    raise ServerError(f"ComfyUI did not answer within {seconds:.0f} s:\n{server.log_tail()}")
