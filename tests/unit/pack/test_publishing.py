"""What the repository tells the Comfy Registry, GitHub and those who cite it."""

import tomllib
from pathlib import Path

import changelog
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GITHUB = ROOT / ".github"


def workflow(name):
    # YAML 1.1 reads the key "on" as true.
    content = yaml.safe_load((GITHUB / "workflows" / f"{name}.yml").read_text())
    return content, content[True], next(iter(content["jobs"].values()))


def test_the_listing_is_complete():
    classifiers, urls = PYPROJECT["project"]["classifiers"], PYPROJECT["project"]["urls"]
    devices = {name.removeprefix("Environment :: ") for name in classifiers if name.startswith("Environment :: ")}
    known = {"GPU :: NVIDIA CUDA", "GPU :: AMD ROCm", "GPU :: Intel Arc", "GPU :: Apple Metal", "NPU :: Huawei Ascend"}
    assert devices == known
    assert all(urls[name].startswith(urls["Repository"]) for name in ("Documentation", "Issues"))
    assert PYPROJECT["project"]["keywords"] and PYPROJECT["project"]["authors"]
    assert PYPROJECT["tool"]["comfy"]["includes"] == [], "would bring back what .comfyignore leaves out"


def test_the_pictures_of_the_listing_have_the_asked_shapes():
    with Image.open(ROOT / "docs" / "banner.png") as banner, Image.open(ROOT / "docs" / "icon.png") as icon:
        assert banner.width * 9 == banner.height * 21
        assert icon.width == icon.height <= 400


def test_what_runs_on_github_is_what_runs_here():
    content, triggers, job = workflow("ci")
    assert {"push", "pull_request"} <= triggers.keys() and content["permissions"] == {"contents": "read"}
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_a_change_of_pyproject_publishes_with_the_changelog():
    content, triggers, job = workflow("publish")
    assert triggers["push"] == {"branches": ["main"], "paths": ["pyproject.toml"]}
    assert content["permissions"] == {"contents": "read"}
    (step,) = (step for step in job["steps"] if "node publish" in step.get("run", ""))
    assert "--changelog-file" in step["run"] and "node validate" in step["run"]
    assert set(step["env"].values()) == {"${{ secrets.REGISTRY_ACCESS_TOKEN }}"}
    assert any(line.startswith("version = ") for line in (ROOT / "pyproject.toml").read_text().splitlines())


def test_the_issue_forms_can_be_filled():
    forms = [path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 3
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert form["name"] and form["description"]
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields)
        assert all(field["attributes"]["label"] for field in fields)


def test_the_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PYPROJECT["project"]["version"]
    assert citation["license"] == PYPROJECT["project"]["license"]
    assert citation["repository-code"] == PYPROJECT["project"]["urls"]["Repository"]


TWO = "# Changelog\n\nwords\n\n## [Unreleased]\n\n- new\n\n## [0.1.0] - 2026\n\n### Added\n\n- old\n\n## [0.0.1]\n\n"


def test_a_version_gets_its_part_of_the_changelog():
    assert changelog.part_of(TWO, "0.1.0") == "### Added\n\n- old"
    assert changelog.part_of(TWO, "Unreleased") == "- new"
    assert changelog.part_of((ROOT / "CHANGELOG.md").read_text(), PYPROJECT["project"]["version"])


@pytest.mark.parametrize("version", ["0.0.1", "0.2.0", "0.1"])
def test_a_version_without_words_is_not_published(version):
    with pytest.raises(ValueError, match=rf"no words under '## \[{version}\]'"):
        changelog.part_of(TWO, version)
