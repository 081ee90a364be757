"""The trace workflows on the stock server; Shapes' own CLIP looks at the pictures, and the report names the layer."""

import time

import numpy as np
import pytest
from diff_quickfix.demo_model.studies.demo import EDITED, as_tensor
from diff_quickfix.demo_model.studies.server import ServerError
from diff_quickfix.tracing.results.trace_file import load_trace


def styles(server, scorer, outputs, node):
    pictures = np.stack([server.picture(image) for image in outputs[node]["images"]])
    return scorer.read(as_tensor(pictures), "style")


def heatmap(server, outputs):
    return server.picture(outputs["7"]["images"][0])


def colored(picture):
    """Share of pixels that are neither grey nor near it."""
    spread = picture.max(-1).astype(int) - picture.min(-1)
    return float((spread > 60).mean())


@pytest.mark.newest
def test_the_text_encoder_trace_finds_the_first_self_attention(server, scorer, template):
    outputs = server.run(template("trace-text-encoder"))
    clean, corrupted, *restored = styles(server, scorer, outputs, "8")
    assert clean == EDITED and corrupted != EDITED
    # A picture for every cell, the strongest first: one brings the style back, and the weakest does not.
    assert len(restored) == 24 and restored[0] == EDITED and restored[-1] != EDITED
    (report,) = outputs["10"]["text"]
    assert "text.0.self_attn" in report
    drawing = heatmap(server, outputs)
    assert drawing.shape[1] == 1000 and colored(drawing) > 0.005


@pytest.mark.newest
def test_the_unet_trace_runs_and_draws_every_cross_attention(server, scorer, template):
    outputs = server.run(template("trace-unet"))
    clean, corrupted, *restored = styles(server, scorer, outputs, "8")
    assert clean == EDITED and corrupted != EDITED and len(restored) == 16
    (report,) = outputs["10"]["text"]
    assert "unet." in report and "cross_attn" in report
    assert heatmap(server, outputs).shape[1] == 1000


@pytest.mark.newest
def test_the_traced_layer_is_the_one_to_edit(server, scorer, template):
    """The editor is given whatever layer the trace found, and the style goes."""
    outputs = server.run(template("trace-then-edit"))
    before, after = (styles(server, scorer, outputs, node) for node in ("18", "21"))
    assert before.count(EDITED) >= 3
    assert EDITED not in after


def test_one_site_restored_by_the_stock_sampler(server, scorer, template):
    """Corrupt Prompt and Restore Layer State with a plain KSampler: the style leaves and comes back."""
    trace = template("trace-then-edit")
    sampler = trace["16"]
    prompt = {name: trace[name] for name in ("1", "2", "15", "17", "18")}
    prompt["5"] = {
        "class_type": "DiffQuickFix_CorruptPrompt",
        "inputs": {
            "clip": ["1", 1],
            "prompt": trace["12"]["inputs"]["text"],
            "subject": "van gogh",
            "noise": 3.0,
            "seed": 0,
        },
    }
    prompt["6"] = {
        "class_type": "DiffQuickFix_RestoreTextState",
        "inputs": {
            "corruption": ["5", 2],
            "layer": 0,
            "kind": "self_attn",
            "tokens": "subject and later",
        },
    }
    found = {}
    for name, source in (("corrupted", ["5", 0]), ("clean", ["5", 1]), ("restored", ["6", 0])):
        prompt["16"] = {**sampler, "inputs": {**sampler["inputs"], "positive": source}}
        found[name] = styles(server, scorer, server.run(prompt), "18")
    assert EDITED not in found["corrupted"]
    assert found["clean"].count(EDITED) >= 3 and found["restored"].count(EDITED) >= 3
    prompt["6"]["inputs"]["layer"] = 4
    assert EDITED not in styles(server, scorer, server.run(prompt), "18")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "a house by van gogh"}, "subjects in brackets"),
        ({"prompts": "<img src=x onerror=alert(1)> by [monet]] ["}, "subjects in brackets|not among|knows the subject"),
        ({"checkpoint": "../../../evil"}, "plain file name"),
        ({"sites": "text.77.*"}, "No site fits"),
    ],
)
def test_errors_reach_the_user_in_plain_words(server, template, changes, message):
    prompt = template("trace-text-encoder")
    prompt["5"]["inputs"].update(changes)
    with pytest.raises(ServerError, match=message):
        server.run(prompt)


def test_a_cancelled_trace_keeps_what_was_finished_and_goes_on(server, template):
    prompt = template("trace-text-encoder")
    prompt["5"]["inputs"].update(checkpoint="cancelled", batch_size=4)
    file = server.folder / "output" / "causal_traces" / "cancelled.trace.safetensors"
    earlier = len(progress_lines(server))
    waiting = server.queue(prompt)
    wait_for(lambda: len(progress_lines(server)) > earlier)
    asked = time.monotonic()
    server.interrupt()
    entry = wait_for(lambda: server.get_json(f"/history/{waiting}").get(waiting))
    # One step of four rows is well under this even on a busy machine; the whole trace is not.
    assert time.monotonic() - asked < 30
    assert "execution_interrupted" in [kind for kind, _ in entry["status"]["messages"]]
    half = load_trace(file)
    done = int(half.restored.isfinite().sum())
    assert done + int(half.clean.isfinite().sum()) > 0 and done < half.restored.numel()
    before = len(progress_lines(server))
    server.run(prompt)
    whole = load_trace(file)
    assert whole.restored.isfinite().all()
    kept = half.restored.isfinite()
    assert np.array_equal(whole.restored[kept].numpy(), half.restored[kept].numpy())
    again = len(progress_lines(server)) - before
    assert again <= -(-(whole.restored.numel() + whole.control.numel() + 2 - done) // 4) + 2


def wait_for(found, seconds=240):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def progress_lines(server):
    return [line for line in server.log.read_text(errors="replace").splitlines() if "Causal trace: " in line]
