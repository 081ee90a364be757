"""Restored pictures on their way to the page."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from diff_quickfix.tracing.results.examples import examples_of
from diff_quickfix.tracing.results.locate import best_cell
from diff_quickfix.tracing.results.trace import CausalTrace
from PIL import Image
from runs import STEPS, conditioning, sample, sweep_inputs

pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture
def heatmap(nodes, tmp_path, monkeypatch):
    """The page's payload of a trace; temporary files lie in the test's folder."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))

    def payload(trace, *pictures):
        node = nodes["DiffQuickFix_CausalHeatmap"].execute(trace, "recovery", 800, *pictures)
        (found,) = node.ui["diff_quickfix_heatmap"]
        assert found == json.loads(json.dumps(found, allow_nan=False))
        return found

    return payload


def assert_shows(file, picture, folder):
    assert file["type"] == "temp" and file["subfolder"] == ""
    kept = np.asarray(Image.open(folder / file["filename"]).convert("RGB"))
    assert np.abs(kept / 255 - picture.numpy()).max() < 0.01


def test_each_restored_picture_goes_to_the_page_with_its_cell(nodes, shapes, corrupt, restore_text, heatmap, tmp_path):
    """Oracle: "Restore Layer State" and the stock sampler paint the same picture of a cell."""
    model, clip, vae = shapes
    inputs = sweep_inputs(shapes, sampler_name="euler", steps=STEPS, seed=3, cfg=4.0, sites="text.[02].*")
    trace, pictures = nodes["DiffQuickFix_CausalTraceText"].execute(**inputs, columns="places", pictures=512).args
    cells = len(trace.sites) * len(trace.columns)
    assert pictures.shape[0] == 2 + cells
    payload = heatmap(trace, pictures)
    assert payload["sites"] == list(trace.sites) and payload["layers"] == [0, 2]
    assert_shows(payload["pictures"]["clean"], pictures[0], tmp_path)
    assert_shows(payload["pictures"]["corrupted"], pictures[1], tmp_path)
    assert len(payload["pictures"]["restored"]) == cells
    _, _, corruption = corrupt(clip, seed=3)
    negative = conditioning(clip, "")
    for row, column, file in payload["pictures"]["restored"][:: cells // 4]:
        conditioned = restore_text(corruption, payload["layers"][row], "self_attn", trace.columns[column])
        alone = vae.decode(sample(model, conditioned, negative))[0]
        kept = np.asarray(Image.open(tmp_path / file["filename"]).convert("RGB")) / 255
        assert np.abs(kept - alone.numpy()).max() < 0.03


def test_pictures_of_another_trace_are_not_shown(text_trace, heatmap, tmp_path):
    trace, pictures = text_trace
    ((row, column, file),) = heatmap(trace, pictures)["pictures"]["restored"]
    assert (trace.sites[row], trace.columns[column]) == (best_cell(trace).site, best_cell(trace).column)
    assert_shows(file, pictures[2], tmp_path)
    part = heatmap(trace, pictures[[2, 0]])["pictures"]
    assert part["corrupted"] is None and len(part["restored"]) == 1
    assert_shows(part["clean"], pictures[0], tmp_path)
    none = {"clean": None, "corrupted": None, "restored": []}
    assert heatmap(trace, 1 - pictures)["pictures"] == none
    assert heatmap(dataclasses.replace(trace, examples=None), pictures)["pictures"] == none
    assert "pictures" not in heatmap(trace)


@pytest.mark.newest
def test_two_hundred_large_pictures_are_small_for_the_page(heatmap, tmp_path):
    sites = tuple(f"text.{layer}.mlp" for layer in range(20))
    zeros = torch.zeros(1, 1, 1)
    trace = CausalTrace(
        component="text",
        column_axis="token",
        sites=sites,
        columns=tuple("abcdefghij"),
        prompts=("a",),
        subjects=("a",),
        seeds=(0,),
        draws=1,
        clean=zeros[0],
        corrupted=zeros,
        restored=torch.zeros(1, 1, 1, 20, 10),
        score="cosine",
        control=torch.zeros(1, 1, 1, 0),
    )
    pictures = torch.rand(202, 1, 1, 3).expand(-1, 320, 512, -1)
    cells = [divmod(place, 10) for place in range(200)]
    payload = heatmap(dataclasses.replace(trace, examples=examples_of(cells, pictures)), pictures)
    assert [tuple(entry[:2]) for entry in payload["pictures"]["restored"]] == cells
    assert len(json.dumps(payload["pictures"])) < 30_000
    assert len(json.dumps(payload)) < 150_000, "what the page keeps with the workflow"
    assert Image.open(tmp_path / payload["pictures"]["clean"]["filename"]).size == (256, 160)
