"""A reproduction from end to end on Shapes, in a few pictures: folder, page, going on, and the weights behind it."""

import dataclasses
import json
from html.parser import HTMLParser

import pytest
import torch
from diff_quickfix.cli import main
from diff_quickfix.demo_model.diffusers_pipelines import shapes_pipeline, shapes_xl_pipeline
from diff_quickfix.pipelines.tracing import PipelineTracer, TraceSettings
from diff_quickfix.reproduce import plan as planning
from diff_quickfix.reproduce import run as running
from diff_quickfix.reproduce.edits import Painter, edit_of, edited, measure_edits
from diff_quickfix.reproduce.plan import QUICK, experiments_for
from diff_quickfix.reproduce.prompts import prompts_for

WORDS = (
    *("reproduce", "Shapes", "--quick", "--steps", "1", "--prompts", "1", "--captions", "1", "--concepts", "1"),
    *("--attributes", "style,action", "--quiet"),
)


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.asked, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.asked += [v for k, v in attributes if k in ("src", "href") and not v.startswith(("#", "data:image/png"))]


@pytest.fixture
def few(monkeypatch):
    """Fewer sites than in quick form, and no picture is timed."""
    monkeypatch.setattr(planning, "_SITES", 1)
    monkeypatch.setattr(planning, "TEXT_KINDS", ("self_attn",))
    monkeypatch.setattr(planning, "few_layers", lambda count: [0, count - 1])
    monkeypatch.setattr(running.Reproduction, "seconds", lambda self: 7200.0)


def test_shapes_is_reproduced_and_gone_on_with(few, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert main([*WORDS, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "text (style): cannot be told" in said and "wrote report.html" in said
    result = json.loads((out / "result.json").read_text())
    assert {one["component"] for one in result["traces"]} == {"text", "image"}
    assert [one["layer"] for one in result["edits"] if one["experiment"] == "layers"] == [0, 5]
    assert all(entry["distance"] > 0 for one in result["edits"] for entry in one["painted"] if entry["names"])
    assert "action" in result["skipped"][0] and len(result["skipped"]) == 1
    text = (out / "report.html").read_text()
    page = Links(text)
    assert page.asked == [] and page.tags.count("svg") == 4 and "script" not in page.tags
    for known in (
        "does not hold where",
        "were not published",
        "96.40",
        "2602.19631",
        result["identity"]["unet weights"],
    ):
        assert known in text or known.capitalize() in text, known

    def refused(*_):
        raise AssertionError("painted again")

    monkeypatch.setattr(PipelineTracer, "trace", refused)
    monkeypatch.setattr(Painter, "measure", refused)
    assert main([*WORDS, "--out", str(out), "--json"]) == 0
    again = json.loads((out / "result.json").read_text())
    assert again == result
    printed = json.loads(capsys.readouterr().out)
    assert printed["verdicts"] == result["verdicts"] and printed["estimated_seconds"] > 0
    assert main([*WORDS, "--steps", "2", "--out", str(out)]) == 1
    assert "settings: steps" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["Shapes XL", "Shapes DiT"])
def test_the_other_miniatures_are_reproduced(few, tmp_path, model):
    words = [model if word == "Shapes" else word for word in WORDS]
    single = [] if model == "Shapes DiT" else ["single"]  # an edit beside T5 takes long
    assert main([*words, "--attributes", "style", "--concepts", str(len(single)), "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert [one["experiment"] for one in result["edits"]] == [*single, "ten"] and len(result["traces"]) == 2
    assert {one["verdict"] for one in result["verdicts"]} == {"cannot be told"}
    said = {one["claim"]: one["why"] for one in result["verdicts"]}
    assert ("transformer" in said["spread"]) == (model == "Shapes DiT")
    assert "the edit at each layer" in (tmp_path / "report.html").read_text().lower()


def test_a_dry_run_tells_and_does_nothing(few, tmp_path, capsys):
    assert main([*WORDS, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "text-style: 1 prompts" in said and "2.0 h" in said and "skipped: Traces of the attribute action" in said
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def pipe():
    return shapes_pipeline()


def small(pipe, **settings):
    return PipelineTracer(pipe, TraceSettings(steps=1, guidance=5.0, **settings))


def experiments(pipe, model="Shapes", **size):
    tracers = {name: small(pipe, component=name) for name in ("text", "image")}
    return experiments_for(tracers, prompts_for(model), dataclasses.replace(QUICK, **size), ("style",))


def test_the_duration_is_that_of_one_timed_picture(monkeypatch):
    """Of few steps, by all steps and pictures."""
    size = dataclasses.replace(QUICK, prompts=1, captions=1, concepts=1)
    work = running.Reproduction(running.Asked("Shapes", size, 30, attributes=("style",)))
    painted, clock = [], iter((100.0, 100.5))
    monkeypatch.setattr(work, "_paint", lambda tracer, prompt: painted.append(tracer.settings.steps))
    monkeypatch.setattr(running.time, "monotonic", lambda: next(clock))
    assert work.seconds() == pytest.approx(0.5 * 30 / 2 * work.experiments.pictures)
    assert painted == [1, 2]


def test_an_edit_is_taken_back_bit_by_bit(pipe):
    before = {name: value.clone() for name, value in pipe.text_encoder.state_dict().items()}
    one = experiments(pipe).edited[1]
    with pytest.raises(KeyboardInterrupt), edited(pipe, edit_of(pipe, one)):
        inside = pipe.text_encoder.state_dict()
        changed = [name for name, value in before.items() if not torch.equal(value, inside[name])]
        raise KeyboardInterrupt
    assert len(changed) == 1 and changed[0].endswith("layers.1.self_attn.out_proj.weight")
    assert all(torch.equal(value, before[name]) for name, value in pipe.text_encoder.state_dict().items())


def test_an_edit_is_measured_by_its_pictures(pipe, tmp_path, monkeypatch):
    """Distances and scores are those of the pipeline's own pictures with the edit in its weights."""

    class Brightness:
        name = "brightness"

        def __call__(self, pictures, prompt):
            return pictures.mean((1, 2, 3))

    tracer = PipelineTracer(pipe, TraceSettings(steps=1, guidance=5.0), Brightness())
    painter = Painter(tracer, (3, 4), {"unet": "a"})
    one = experiments(pipe, captions=1).edited[0]
    (found,) = measure_edits(painter, [one], tmp_path)
    prompts = (*one.captions, *one.others)
    plain = [tracer.paint(prompts, seed) for seed in (3, 4)]
    with edited(pipe, edit_of(pipe, one)):
        moved = [tracer.paint(prompts, seed) for seed in (3, 4)]
    for number, entry in enumerate(found.painted):
        distance = sum(float((a - b)[number].square().mean().sqrt()) for a, b in zip(plain, moved, strict=True)) / 2
        bright = [sum(float(tracer.pictures(one)[number].mean()) for one in which) / 2 for which in (plain, moved)]
        assert entry.prompt == prompts[number] and entry.names == (number < 1)
        assert entry.distance == pytest.approx(distance, abs=1e-5)
        assert [entry.before, entry.after] == pytest.approx(bright, abs=1e-5)
    assert found.score == "brightness"
    (path,) = tmp_path.glob("*.json")
    path.write_text("{}")
    assert measure_edits(painter, [one], tmp_path) == (found,)
    other = Painter(tracer, (3,), {"unet": "b"})
    assert other.key(one) != painter.key(one) and Painter(tracer, (3, 4), {"unet": "a"}).key(one) == painter.key(one)


def test_a_model_of_several_encoders_is_edited_elsewhere_and_says_so():
    found = experiments(shapes_xl_pipeline(), "Shapes XL")
    assert {one.experiment for one in found.edited} == {"single", "ten"}
    assert all(one.layer is None for one in found.edited)
    assert len(found.skipped) == 1 and "not the paper's edit" in found.skipped[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prompts", "0"), "at least 1"),
        (("--scorer", "latent"), "expected clip:"),
        (("--attributes", "mood"), "mood"),
        (("--attributes", ","), "nothing"),
        (("--seeds", "a"), "expected seeds"),
    ],
)
def test_wrong_usage_is_told_before_any_work(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "Shapes", "--out", "x", *words])
    assert ended.value.code == 2 and said in capsys.readouterr().err
