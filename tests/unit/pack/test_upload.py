"""What the Comfy Registry gets: nothing that its scan flags, no file too large for it, nothing missing, installable.

The registry matches strings, in comments and texts too, and publishes no rules: these are the ones that publishers of
flagged packs were told, until autumn 2026. One match hides a version from ComfyUI-Manager. The cure is to do without
what the rule looks for, or to leave a developers' file out in .comfyignore.
"""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import upload
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]
FILES = upload.uploaded_files()
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES if b"\0" not in (ROOT / name).read_bytes()}
HELP = PurePosixPath("web/docs")
LARGEST_FILE, LARGEST_UPLOAD = 10_000_000, 33_000_000

# What matches; then one text that does for every alternative.
RULES = {
    "environment manipulation": (r"os\.environ|\b(get|put|unset)env\(", ["os.environ['A']", "os.getenv('A')"]),
    "command injection": (
        r"\bsubprocess\b|\bPopen\(|os\.(system|popen|exec\w+|spawn\w+|startfile)\(",
        ["subprocess.run(", "subprocess.Popen(", "# by subprocess", "os.system(", "os.startfile("],
    ),
    "network operations": (
        r"\burllib\.request\b|urlopen\(|\bhttp\.client\b|\bhttpx\b|\brequests\.(get|post|put|patch|delete|head|request)\("
        r"|\bClientSession\b|\bsocket\.socket\(|\.(connect|bind|create_connection|send|recv)\(|gethost(name|byname)"
        r"|\bgettempdir\(|\bXMLHttpRequest\b|\bWebSocket\b|\bfetch\(\s*[\"'`]https?:",
        [
            "urllib.request.urlopen(",
            "requests.get(",
            "aiohttp.ClientSession()",
            "socket.socket(",
            "node.connect(0, other)",
            "this.draw.bind(this)",
            "s.create_connection(",
            "this.send()",
            "pipe.recv(",
        ],
    ),
    "bytecode manipulation": (
        r"import_module|\bcompile\(|\bsys\.modules\b|\bimportlib\b|\bmarshal\b|__code__",
        ["importlib.import_module(", "re.compile(", "compile(source)", "sys.modules.get("],
    ),
    "dynamic execution": (
        r"\bexec\(|\beval\(\s*[^)\s]|__import__|\bnew Function\(",
        ["exec(code)", "/a/.exec(text)", "eval(text)", "mx.eval(array)", "__import__('os')", "new Function("],
    ),
    "blacklisted URL": (r"raw\.githubusercontent\.com", ["https://raw.githubusercontent.com/a"]),
    "database connections": (r"\b(sqlite|mysql|postgres(ql)?|mongodb(\+srv)?|redis)://", ["sqlite:///a", "mysql://a"]),
    "sensitive files": (
        r"\bPath\([^()]*\)\.read_(bytes|text)\(|/etc/(passwd|shadow)|\.ssh\b|\.aws\b",
        ["Path(name).read_bytes()", "/etc/passwd"],
    ),
    "pickles": (r"\bpickle\.|\btorch\.load\(", ["pickle.load(", "torch.load("]),
    "bitcoin address": (r"\b[13][a-km-zA-HJ-NP-Z1-9]{25,34}\b", ["1BoatSLRHtKNngkdXEeobR76b53LETtpyT"]),
}
# For Python alone: they are words of other languages.
PYTHON_RULES = {
    "privilege escalation": (r"(?<![\w-])(sudo|su|doas|pkexec|runas)(?![\w-])", ["'su'", "sudo apt"]),
    "URL commands": (r"(?<![\w-])(curl|wget|ffmpeg|ffprobe|pandoc|yt-dlp)(?![\w-])", ["with ffmpeg", "'curl'"]),
}


def findings(name: str, text: str) -> list[str]:
    rules = RULES | (PYTHON_RULES if name.endswith(".py") else {})
    if name == "pyproject.toml":  # Icon and Banner are raw URLs in the registry's own guide
        rules = {rule: found for rule, found in rules.items() if rule != "blacklisted URL"}
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {rule}: {match[0]}"
        for rule, (pattern, _) in rules.items()
        for match in re.finditer(pattern, text)
    ]


def test_nothing_matches_a_rule_of_the_scan():
    assert len(TEXTS) > 100
    found = [finding for name, text in TEXTS.items() for finding in findings(name, text)]
    assert not found, "the registry would flag:\n" + "\n".join(found)


@pytest.mark.parametrize("rule", RULES | PYTHON_RULES)
def test_each_rule_finds_what_publishers_were_told(rule):
    for text in (RULES | PYTHON_RULES)[rule][1]:
        assert any(f": {rule}: " in finding for finding in findings("a.py", f"# x\n{text}\n")), text


def test_evaluation_mode_is_not_taken_for_the_function():
    assert not findings("a.py", "model.eval().requires_grad_(False)")


def test_no_file_is_too_large_to_be_scanned():
    sizes = {name: (ROOT / name).stat().st_size for name in FILES}
    assert not {name: size for name, size in sizes.items() if size > LARGEST_FILE}
    assert sum(sizes.values()) < LARGEST_UPLOAD


def test_what_is_needed_to_run_is_there_and_what_is_not_is_not():
    for name in ("__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "web/node_views.js"):
        assert name in FILES
    for name in upload.left_out_paths(ROOT):
        assert (ROOT / name).exists(), f".comfyignore names {name}, which is not there"
    assert {PurePosixPath(name).parts[0] for name in FILES}.isdisjoint({"tests", "scripts", ".ci", ".github", ".git"})


def imported(name: str) -> set[str]:
    """The modules of the pack that a module names in relative imports, as paths without suffix."""
    found = set()
    for node in ast.walk(ast.parse(TEXTS[name])):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = list(PurePosixPath(name).parts[: -node.level])
            base = "/".join([*package, *(node.module or "").split(".")]).strip("/")
            found |= {base, *(f"{base}/{alias.name}".strip("/") for alias in node.names)}
    return found


def test_every_module_that_is_imported_is_there():
    def modules(paths):
        return {re.sub(r"(/?__init__)?\.py$", "", path) for path in paths if path.endswith(".py")}

    there, all_there = modules(FILES), modules(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
    wanted = {(name, path) for name in FILES if name.endswith(".py") for path in imported(name)}
    assert len([path for _, path in wanted if path in there]) > 200
    assert not [pair for pair in wanted if pair[1] in all_there - there]


def test_every_script_that_is_imported_is_there():
    found = [
        (name, PurePosixPath(name).parent.joinpath(target))
        for name, text in TEXTS.items()
        if name.endswith((".js", ".mjs"))
        for target in re.findall(r"(?:from|import)\s*\(?\s*[\"'](\.{1,2}/[^\"']+)[\"']", text)
    ]
    own = [(name, (ROOT / path).resolve()) for name, path in found]
    own = [
        (name, path.relative_to(ROOT).as_posix()) for name, path in own if path.is_relative_to(ROOT)
    ]  # not ComfyUI's
    assert len(own) > 5
    assert not [f"{name} imports {path}" for name, path in own if path not in FILES]


def named_files(name: str) -> set[str]:
    """The files of the pack that a Markdown file links to, shows, or names in backticks with a folder and a suffix."""
    folder, text = PurePosixPath(name).parent, TEXTS[name]
    if folder.is_relative_to(HELP):  # the page looks for a translation's pictures beside the English page
        folder = HELP
    links = re.findall(r"\]\(([^)\s#]+)", text) + re.findall(r"(?:src|href)=\"([^\"#]+)\"", text)
    beside = {(ROOT / folder / link).resolve() for link in links if "://" not in link}
    spoken = {ROOT / path for path in re.findall(r"`((?:[\w.-]+/)+[\w-]+\.[a-z]{2,5})`", text)}
    return {path.relative_to(ROOT).as_posix() for path in beside | {path for path in spoken if path.exists()}}


def test_every_file_that_a_text_names_is_there():
    found = {(name, path) for name in FILES if name.endswith(".md") for path in named_files(name)}
    assert ("README.md", "docs/shell.md") in found and len(found) > 30
    there = {*FILES, *(folder.as_posix() for name in FILES for folder in PurePosixPath(name).parents)}
    assert not [f"{name} names {path}" for name, path in found if path not in there]


def test_the_icon_and_the_banner_are_files_of_the_repository():
    comfy = tomllib.loads(TEXTS["pyproject.toml"])["tool"]["comfy"]
    repository = tomllib.loads(TEXTS["pyproject.toml"])["project"]["urls"]["Repository"]
    for key in ("Icon", "Banner"):
        start = repository.replace("github.com", "raw.githubusercontent.com") + "/main/"
        assert comfy[key].startswith(start) and (ROOT / comfy[key].removeprefix(start)).is_file()


def test_pyproject_lists_the_packages_that_are_there():
    config = tomllib.loads(TEXTS["pyproject.toml"])["tool"]["setuptools"]
    folders = {PurePosixPath(name).parent for name in FILES if name.endswith("__init__.py")}
    assert set(config["packages"]) == {".".join(("diff_quickfix", *folder.parts)) for folder in folders}


def make_tree(root: Path, ignored: list[str], names) -> None:
    (root / ".comfyignore").write_text("# a remark\n\n" + "\n".join(ignored))
    (root / ".gitignore").write_text("__pycache__/\n*.egg-info/\n")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


TREE = ("a.py", "tests/a.py", "a/tests/b.py", "testsuite.py", "docs/icon.png", "docs/more/icon.png")
LEFT_OUT = ["tests/", "docs/icon.png"]
KEPT = ["a.py", "a/tests/b.py", "docs/more/icon.png", "testsuite.py"]


@pytest.mark.parametrize("git", [True, False], ids=["git", "no git"])
def test_the_set_is_what_is_tracked_without_what_is_left_out(tmp_path, git):
    make_tree(tmp_path, LEFT_OUT, [*TREE, "__pycache__/a.pyc", "a/__pycache__/b.pyc", "x.egg-info/PKG"])
    if git:
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert upload.uploaded_files(tmp_path) == [".comfyignore", ".gitignore", *KEPT]
    copy = tmp_path.parent / f"copy-{git}"
    assert upload.copy_upload(copy, tmp_path) == upload.uploaded_files(copy)


def test_the_set_of_this_tree_is_the_same_without_git(tmp_path):
    upload.copy_upload(tmp_path / "copy")
    assert upload.uploaded_files(tmp_path / "copy") == FILES


@given(pattern=st.sampled_from(["*.png", "docs/?", "!a.py", "[ab].py", "/docs"]))
def test_a_pattern_that_is_no_plain_path_is_refused(tmp_path_factory, pattern):
    folder = tmp_path_factory.mktemp("tree")
    make_tree(folder, [pattern], ["a.py"])
    with pytest.raises(ValueError, match="expected plain paths"):
        upload.uploaded_files(folder)


def test_the_registrys_own_tool_packs_the_same_files(tmp_path, registry_tool):
    for name in ("pyproject.toml", ".comfyignore"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    others = [path if not path.endswith("/") else f"{path}a.py" for path in upload.left_out_paths(ROOT)]
    for name in (name for name in (*FILES, *others) if not (tmp_path / name).exists()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for command in (["init", "-q"], ["add", "--all", "--force"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    ended = registry_tool(tmp_path, "comfy_cli", "--skip-prompt", "--no-enable-telemetry", "node", "pack")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with zipfile.ZipFile(tmp_path / "node.zip") as archive:
        assert sorted(archive.namelist()) == FILES


def test_the_registrys_own_tool_finds_the_pack_valid(registry_tool):
    ended = registry_tool(ROOT, "comfy_cli", "--skip-prompt", "--no-enable-telemetry", "node", "validate")
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0 and "All validation checks passed" in said and "arning" not in said, said


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with an editable installation of a copy of the upload, as docs/shell.md tells to make one."""
    source, target = tmp_path_factory.mktemp("source") / "diff-quickfix", tmp_path_factory.mktemp("site")
    upload.copy_upload(source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    options = ["--disable-pip-version-check", "--target", str(target), "--editable", str(source)]
    result = subprocess.run([*command, *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return target


def test_the_installation_has_the_shell(installed):
    (found,) = importlib.metadata.distributions(path=[str(installed)], name="diff-quickfix")
    scripts = {point.name: point.value for point in found.entry_points if point.group == "console_scripts"}
    assert scripts == {"diff-quickfix": "diff_quickfix.cli:main"}


def test_an_editable_installation_gives_the_kernels_without_comfyui(installed):
    code = (
        f"import site, sys; site.addsitedir({str(installed)!r}); import diff_quickfix.quickfix as q; "
        "assert 'comfy' not in sys.modules; print(q.__file__)"
    )
    # -I: neither PYTHONPATH nor the working folder can lend the package.
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).parent.name == "quickfix"
    assert "source" in result.stdout
