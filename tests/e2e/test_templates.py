"""The templates as the stock server lists and runs them: those that no other file tests, and other models' versions."""

import json
import time

import numpy as np
import pytest
import template_versions
import templates
import torch
from diff_quickfix.demo_model.reader import Reader
from diff_quickfix.demo_model.studies.demo import EDITED, as_tensor
from diff_quickfix.demo_model.studies.server import PACK
from diff_quickfix.tracing.results.comparison import compare
from diff_quickfix.tracing.results.trace_file import load_trace
from diff_quickfix.tracing.scores.clip import preprocess
from random_models import clip_l, clip_vision_l, sd15, tiny_vae

NAMES = templates.shapes_templates()
WORDS = "a van gogh painting of a shape"


def titled(name):
    """A template's nodes' ids by title, or by type where they have none."""
    return {node.get("title", node["type"]): str(node["id"]) for node in templates.read(name)["nodes"]}


def pictures(server, outputs, node):
    return np.stack([server.picture(image) for image in outputs[node]["images"]])


def styles(server, scorer, outputs, node):
    return scorer.read(as_tensor(pictures(server, outputs, node)), "style")


def test_every_template_is_listed_with_its_picture(server):
    (pack,) = [pack for pack in server.get_json("/workflow_templates") if "diff-quickfix" in pack]
    listed = server.get_json("/workflow_templates")[pack]
    assert sorted(listed) == sorted(templates.every_name())
    for name in listed:
        assert server.get_json(f"/api/workflow_templates/{pack}/{name}.json")["nodes"]
        assert server.get(f"/api/workflow_templates/{pack}/{name}.jpg").startswith(b"\xff\xd8")


def test_every_node_has_tooltips_a_help_page_and_a_template(known):
    used = {node["type"] for name in NAMES for node in templates.read(name)["nodes"]}
    ours = {name: info for name, info in known.items() if info["python_module"].endswith("diff-quickfix")}
    assert len(ours) >= 24 and used >= ours.keys()
    for name, info in ours.items():
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        assert all(options.get("tooltip") for _, options in inputs.values()), name
        assert len(info["output_tooltips"]) == len(info["output"]) and all(info["output_tooltips"]), name
        assert (PACK / "web" / "docs" / f"{name}.md").read_text().startswith(f"# {info['display_name']}\n")


@pytest.mark.newest
def test_remove_a_concept(server, template):
    """The sheet: the style in the left column, and in the right the same seeds without it."""
    outputs = server.run(template("remove-a-concept"))
    at = titled("remove-a-concept")
    (sheet,) = pictures(server, outputs, at["Before and after"])
    reader = Reader()
    before, after = (reader.read(as_tensor(np.stack(column)))["style"] for column in columns_of(sheet, 4, 128))
    assert before.count(EDITED) >= 3 and EDITED not in after
    text, report = outputs[at["DiffQuickFix_RemoveConcept"]]["diff_quickfix_report"][:2]
    assert text.startswith("edited: the image model") and report["doors"] > 1 and report["breadth"]["list"] == "short-1"
    (changes,) = outputs[at[templates.SHEET]]["diff_quickfix_report"]
    assert changes.startswith('Beside "before", the 4 pictures changed by ') and changes.count("% changed;") == 4


def columns_of(sheet, rows, side):
    """The pictures on a sheet of two columns, whose pixels are enlarged by two, at their own size."""
    paper = np.array([251, 250, 247])
    filled = (sheet != paper).any(-1)
    # Labels fill less of a line than pictures do.
    tall, wide = filled.mean(1) > 0.9, filled[filled.mean(1) > 0.9].mean(0) > 0.9
    tops, lefts = (np.flatnonzero(np.diff(np.pad(one, 1).astype(int)) == 1) for one in (tall, wide))
    assert (len(tops), len(lefts)) == (rows, 2)
    return [[sheet[top : top + 2 * side : 2, left : left + 2 * side : 2] for top in tops] for left in lefts]


@pytest.mark.newest
def test_edit_the_image_model(server, scorer, template):
    at = titled("edit-the-image-model")
    outputs = server.run(template("edit-the-image-model"))
    read = {t: styles(server, scorer, outputs, at[t]) for t in ("As it is", "Maps edited", "Conditioning edited")}
    assert read["As it is"].count(EDITED) >= 3
    assert EDITED not in read["Maps edited"] and EDITED not in read["Conditioning edited"]


@pytest.mark.newest
def test_restore_a_layer(server, scorer, template):
    prompt, at = template("restore-a-layer"), titled("restore-a-layer")
    outputs = server.run(prompt)
    clean, corrupted = (styles(server, scorer, outputs, at[title]) for title in ("Clean", "Corrupted"))
    assert clean.count(EDITED) >= 3 and EDITED not in corrupted
    assert styles(server, scorer, outputs, at["Restored in the text encoder"]).count(EDITED) >= 3
    # Words reach the UNet through cross-attention alone: with all of it restored, the picture is the clean one.
    whole = pictures(server, outputs, at["Restored in the UNet"]).astype(int)
    assert np.abs(whole - pictures(server, outputs, at["Clean"])).max() <= 2


@pytest.mark.newest
def test_guard_an_edit(server, scorer, template, columns):
    """Two pictures of another style, which only the plain edit bends, and two of the style that both remove."""
    at = titled("guard-an-edit")
    outputs, painted = columns(template("guard-an-edit"))
    before, plain, guarded = (scorer.read(as_tensor(painted[name]), "style") for name in ("before", "after", "third"))
    other = before[0]
    assert before == [other] * 2 + [EDITED] * 2 and other != EDITED
    assert other not in plain[:2] and guarded[:2] == [other] * 2
    assert EDITED not in plain[2:] + guarded[2:]
    plain, guarded = (outputs[at[title]]["diff_quickfix_report"][1] for title in ("Plain edit", "Guarded edit"))
    assert guarded["drift"] < plain["drift"] / 3
    for title in ("Efficacy against drift", "What the guarded edit does"):
        assert pictures(server, outputs, at[title]).shape[2] == 900


@pytest.mark.newest
def test_change_an_edit(server, scorer, template, columns):
    """The first edit takes one style and leaves the other; the changed one does the reverse."""
    at = titled("change-an-edit")
    outputs, painted = columns(template("change-an-edit"))
    before, first, changed = (scorer.read(as_tensor(painted[name]), "style") for name in ("before", "after", "third"))
    dropped, added = "georges seurat", "bridget riley"
    assert before == [dropped] * 2 + [added] * 2
    assert dropped not in first[:2] and first[2:] == [added] * 2
    assert changed[:2] == [dropped] * 2 and added not in changed[2:]
    table, *_ = outputs[at["DiffQuickFix_FindTarget"]]["diff_quickfix_report"]
    ranked = [line[:14].strip() for line in table.splitlines()[2:-1]]
    # A plain word is a better target than another style, which the edit would bring.
    assert len(ranked) == 6 and ranked[0] in ("painting", "image", "photo") and ranked[-1] == "piet mondrian"
    assert pictures(server, outputs, at["Targets"]).shape[0] == 1


@pytest.mark.newest
def test_compare_traces(server, template):
    """Two layers at four steps; the table is the difference of the two traces' effects."""
    prompt, at = template("compare-traces"), titled("compare-traces")
    for trace in ("Trace: noise", "Trace: other words"):
        prompt[at[trace]]["inputs"].update(sites="text.0.*, text.4.*", steps=4)
    prompt["900"] = {
        "class_type": "DiffQuickFix_SaveTrace",
        "inputs": {
            "trace": [at["Trace: other words"], 0],
            "name": "words",
            "csv": False,
        },
    }
    outputs = server.run(prompt)
    folder = server.folder / "output" / "causal_traces"
    noise, words = (load_trace(folder / f"{name}_00001.trace.safetensors") for name in ("noise", "words"))
    assert (folder / "noise_00001.trace.csv").is_file()
    wanted = compare(noise, words).difference.flatten().tolist()
    (table,) = outputs[at["Noise - other words"]]["text"]
    found = [float(line.rsplit(",", 1)[1]) for line in table.splitlines()[1:]]
    assert len(found) >= 8 and found == pytest.approx(wanted, abs=1e-4)


@pytest.fixture(scope="module")
def scored(server, template):
    """What *score-with-clip* gives as it is, with Shapes' own scorer."""
    return server.run(template("score-with-clip"))


@pytest.mark.newest
def test_the_scores_fall_behind_the_edit(server, scorer, scored):
    at, means = titled("score-with-clip"), {}
    for when in ("before", "after"):
        seen = as_tensor(pictures(server, scored, at[when.capitalize()]))
        (lines,) = scored[at[f"Each picture ({when})"]]["text"]
        scores = [float(line) for line in lines.splitlines()]
        # The pictures came back as 8-bit files.
        assert scores == pytest.approx(scorer.clip_score(seen, [WORDS] * len(seen)).tolist(), abs=0.02)
        means[when] = float(scored[at[f"Mean ({when})"]]["text"][0])
        assert means[when] == pytest.approx(np.mean(scores), abs=1e-3)
    assert means["after"] < means["before"] - 0.1


@pytest.fixture(scope="module")
def clip_folder(server, comfyui):
    """A small CLIP in transformers' form, random, where Load CLIP Scorer looks; and the model."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(1)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**shape, "vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406}
    vision = {**shape, "image_size": 64, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()
    path = server.folder / "models" / "clip_vision" / "clip-vit-large-patch14"
    model.save_pretrained(path)
    CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer").save_pretrained(path)
    return model


def rescored(prompt_of, kind):
    """The template with one of the muted scorers unmuted and connected in place of Shapes'."""
    graph = templates.read("score-with-clip")
    for node in graph["nodes"]:
        node["mode"] = 0
    whole = prompt_of(graph)
    (scorer,) = (key for key, node in whole.items() if node["class_type"] == kind)
    for node in whole.values():
        if node["class_type"] == "DiffQuickFix_CLIPScore":
            node["inputs"]["scorer"] = [scorer, 0]
    return whole


@pytest.mark.newest
def test_a_clip_in_a_folder_scores_the_same_pictures(server, prompt_of, scored, clip_folder, tokenizer):
    at = titled("score-with-clip")
    outputs = server.run(rescored(prompt_of, "DiffQuickFix_LoadCLIPScorer"))
    ids = torch.tensor([tokenizer.tokenize(WORDS).ids])
    for when in ("before", "after"):
        seen = as_tensor(pictures(server, scored, at[when.capitalize()])).permute(0, 2, 3, 1)
        with torch.no_grad():
            out = clip_folder(input_ids=ids, pixel_values=preprocess(seen, 64))
        wanted = (out.logits_per_image[:, 0] / clip_folder.logit_scale.exp()).tolist()
        (lines,) = outputs[at[f"Each picture ({when})"]]["text"]
        assert [float(line) for line in lines.splitlines()] == pytest.approx(wanted, abs=0.01)


def test_comfyuis_own_clip_loaders_feed_the_scorer(server, prompt_of, put_model):
    at = titled("score-with-clip")
    put_model("clip_vision/clip_vision_l.safetensors", clip_vision_l)
    put_model("text_encoders/clip_l.safetensors", clip_l, projected=True)
    prompt = rescored(prompt_of, "DiffQuickFix_CLIPVisionScorer")
    outputs = server.run(prompt)
    scores = [
        float(line)
        for when in ("before", "after")
        for line in outputs[at[f"Each picture ({when})"]]["text"][0].splitlines()
    ]
    # Four digits each: two may be alike. That they are right is tested in process, on smaller towers.
    assert len(scores) == 8 and len(set(scores)) >= 6 and all(-1 <= score <= 1 for score in scores)


@pytest.fixture(scope="module")
def model_files(server, put_model):
    """The files that the templates' loaders name: Stable Diffusion 1.x at its real size, others as small models."""
    put_model(f"checkpoints/{template_versions.VERSIONS[template_versions.SD15].loaders[0].values[0]}", sd15)
    put_model("text_encoders/clip_l.safetensors", clip_l, projected=True)
    put_model("vae/ae.safetensors", tiny_vae)
    for loader in (loader for version in template_versions.VERSIONS.values() for loader in version.loaders):
        for name in (value for value in loader.values if value.endswith(".safetensors")):
            path = server.folder / "models" / loader.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # What small_models.py gives in its place is read from no file.
            if not path.exists():
                path.touch()


def small(prompt, **edit):
    """The prompt at 64 x 64 pixels in two steps; edit: other inputs of Remove Concept."""
    for node in prompt.values():
        if node["class_type"] in ("EmptyLatentImage", "EmptySD3LatentImage"):
            node["inputs"] = {"width": 64, "height": 64, "batch_size": 1}
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
        if node["class_type"] == "DiffQuickFix_RemoveConcept":
            node["inputs"] |= edit
    return prompt


@pytest.mark.newest
def test_an_sd15_version_paints(server, template, model_files):
    """Random weights of the real size: the edit reaches the picture."""
    prompt, at = small(template("remove-a-style-sd15")), titled("remove-a-style-sd15")
    outputs = server.run(prompt)
    before, after = (pictures(server, outputs, at[title]) for title in ("Before", "After"))
    assert before.shape == after.shape == (1, 64, 64, 3) and not np.array_equal(before, after)


@pytest.mark.newest
@pytest.mark.parametrize(
    ("suffix", "family"),
    [(template_versions.SDXL, "SDXL"), (template_versions.FLUX, "Flux.1"), (template_versions.Z_IMAGE, "Z-Image")],
)
def test_another_familys_version_paints(server, template, model_files, suffix, family):
    """Small models of the family's topology through the stock loaders: the edit alone changes the picture."""
    name = f"remove-a-concept{suffix}"
    at, changed = titled(name), {}
    for strength in (1.0, 0.0):
        outputs = server.run(small(template(name), strength=strength, breadth="none"))
        (changed[strength],) = outputs[at[templates.SHEET]]["diff_quickfix_report"]
        text, report = outputs[at["DiffQuickFix_RemoveConcept"]]["diff_quickfix_report"][:2]
        assert text.startswith(f"edited: the image model ({family}") and report["doors"] >= 1
        assert pictures(server, outputs, at["Before and after"]).shape[0] == 1
    assert changed[1.0].startswith('Beside "before", the picture changed by ')
    assert changed[0.0].startswith('Beside "before", the picture changed not at all in "after".')


def test_the_server_accepts_the_other_versions(server, template, model_files, clip_folder):
    for name in sorted(set(templates.every_name()) - set(NAMES)):
        reply = json.loads(server.post("/prompt", {"prompt": small(template(name))}))
        assert not reply["node_errors"], name
    server.post("/queue", {"clear": True})
    server.interrupt()
    ends = time.monotonic() + 120
    while any(server.get_json("/queue").values()):
        assert time.monotonic() < ends
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["Remove a concept (Diff-QuickFix)", "trace-a-prompt"])
def test_the_server_lists_a_blueprint_of_nodes_that_it_knows(server, known, name):
    listed = server.get_json("/global_subgraphs")
    (entry,) = [
        key
        for key, one in listed.items()
        if one["name"] == name and one["info"]["node_pack"] == "custom_nodes.diff-quickfix"
    ]
    graph = json.loads(server.get_json(f"/global_subgraphs/{entry}")["data"])
    (subgraph,), (node,) = graph["definitions"]["subgraphs"], graph["nodes"]
    assert node["type"] == subgraph["id"] and subgraph["description"]
    for inside, outside in ((subgraph["inputs"], node["inputs"]), (subgraph["outputs"], node["outputs"])):
        assert [(one["name"], one["type"]) for one in inside] == [(one["name"], one["type"]) for one in outside]
    inner = {one["id"]: one for one in subgraph["nodes"]}
    links = {link["id"]: link for link in subgraph["links"]}
    for link in links.values():
        if link["target_id"] in inner:
            assert inner[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
        if link["origin_id"] in inner:
            assert link["id"] in inner[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
    for place, socket in enumerate(subgraph["inputs"]):
        for number in socket["linkIds"]:
            assert (links[number]["origin_id"], links[number]["origin_slot"]) == (-10, place)
    for one in inner.values():
        if one["type"] != "MarkdownNote":
            assert len(one["widgets_values"]) <= len(templates.widget_names(known[one["type"]]))
