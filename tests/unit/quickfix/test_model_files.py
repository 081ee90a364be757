"""Text encoders in model files: found by their names, read no further than needed, copied bit by bit."""

import hashlib
import json

import pytest
import torch
from diff_quickfix.quickfix import (
    GUARDED,
    PAPER,
    ConceptEdit,
    EditSettings,
    ModelFileError,
    TensorFile,
    TensorFileError,
    TowerError,
    compute_edit,
    copy_folder,
    measure_edit,
    open_text_encoder,
    save_edit,
)
from diff_quickfix.text.captions import PUBLISHED_TEMPLATES, expand
from diff_quickfix.text.subjects import last_subject_token
from hypothesis import given
from hypothesis import strategies as st
from model_files import LAYOUTS, TABLE, config, laid_out, oracle, tower_weights, used_tokens, write
from safetensors.torch import load_file, save_file

VAN_GOGH = ConceptEdit("van gogh", "painting")
WIDTH, HEADS, LAYERS = 32, 4, 3


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return used_tokens(tokenizer, "van gogh", "painting")


@pytest.fixture(scope="module")
def weights(tokens):
    return tower_weights(WIDTH, LAYERS, tokens)


@pytest.fixture
def small(tmp_path, weights):
    """A small checkpoint in Stable Diffusion 1.x's layout."""
    (tmp_path / "config.json").write_text(config(WIDTH, HEADS))
    return write(tmp_path / "model.safetensors", laid_out(weights, "sd1"), {"unet": ("F16", (100,))})


def hollow(layout, width):
    """A tower of zeros, which costs nothing: (kind, shape) by name."""
    with torch.device("meta"):
        tensors = {
            TABLE: torch.empty(49408, width),
            "embeddings.position_embedding.weight": torch.empty(77, width),
            "encoder.layers.0.self_attn.out_proj.weight": torch.empty(width, width),
        }
    return {name: ("F16", tuple(value.shape)) for name, value in laid_out(tensors, layout).items()}


def as_stored(weights, dtype):
    return {name: value.to(dtype) for name, value in weights.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_tower_in_a_file_is_the_tower_in_memory(tmp_path, weights, tokenizer, layout, dtype):
    (tmp_path / "config.json").write_text(config(WIDTH, HEADS, "gelu"))
    stored = as_stored(weights, dtype)
    path = write(tmp_path / "model.safetensors", laid_out(stored, layout), {"unet": ("F16", (100,))})
    found, wanted = open_text_encoder(path).tower, oracle(stored, HEADS, "gelu")
    assert (found.num_layers, found.width) == (LAYERS, WIDTH)
    ids = [tokenizer.tokenize(text).ids for text in ("van gogh", "a painting of a dog", "")]
    for layer in range(LAYERS):
        assert torch.equal(found.attention_inputs(ids, layer), wanted.attention_inputs(ids, layer))
    assert torch.equal(found.hidden_states(ids), wanted.hidden_states(ids))


@pytest.mark.parametrize("settings", [PAPER, GUARDED, EditSettings(layer=2)])
def test_an_edit_from_a_file_is_the_edit_from_memory_bit_by_bit(small, weights, tokenizer, settings):
    """What the node computes (its tower is a mapping over the model's weights) and what the shell computes."""
    edits = [
        compute_edit(tower, tokenizer, [VAN_GOGH], settings)
        for tower in (open_text_encoder(small).tower, oracle(weights, HEADS))
    ]
    hashes = {hashlib.sha256(edit.up.numpy().tobytes() + edit.down.numpy().tobytes()).digest() for edit in edits}
    assert len(hashes) == 1 and edits[0].rank > 0
    assert edits[0].base == edits[1].base and edits[0].weight_name == edits[1].weight_name


REAL = {
    # layout of the file, its encoder, width, the padding that belongs to it
    "sd1": ("clip_l", 768, 49407),
    "sd2": ("clip_h", 1024, 0),
    "sdxl, second": ("sdxl_clip_g", 1280, 0),
}


@pytest.mark.parametrize("layout", REAL)
def test_a_text_encoder_of_real_size_is_read_by_a_few_megabytes(tmp_path, monkeypatch, tokens, layout):
    encoder, width, padding = REAL[layout]
    stored = tower_weights(width, 1, tokens, torch.float16)
    holes = {"unet": ("F16", (2_000_000_000,))}
    holes |= {
        name.replace("s.0.", "s.1."): ("F16", tuple(value.shape))
        for name, value in laid_out(stored, layout).items()
        if "s.0." in name.removeprefix(LAYOUTS[layout][0])
    }
    path = write(tmp_path / "model.safetensors", laid_out(stored, layout), holes, tokens)
    assert path.stat().st_size > 4_000_000_000
    read, names = [], set()
    read_bytes, read_tensor = TensorFile._read, TensorFile.tensor
    monkeypatch.setattr(TensorFile, "_read", lambda *a: (read.append(a[3]), read_bytes(*a))[1])
    monkeypatch.setattr(TensorFile, "tensor", lambda self, name: (names.add(name), read_tensor(self, name))[1])
    found = open_text_encoder(path, encoder)
    tokenizer = found.tokenizer()
    assert found.encoder == encoder and tokenizer.pad_token == padding and found.tower.num_layers == 2
    assert not read, "opening reads headers only"
    ids = [prompt.ids for prompt in tokenizer.tokenize_all(["a van gogh painting", "van gogh", "painting", ""])]
    inputs = found.tower.attention_inputs(ids, 0)
    assert max(read) <= 2 * width * width, "no tensor larger than one projection is read"
    assert sum(read) < 16_000_000
    assert not [name for name in names if "s.1." in name.removeprefix(LAYOUTS[layout][0])], "only the layer asked for"
    heads, activation = width // 64, "quick_gelu" if encoder == "clip_l" else "gelu"
    assert (found.tower.heads, found.tower.activation, found.tower.encoder) == (heads, activation, encoder)
    assert torch.equal(inputs, oracle(stored, heads, activation).attention_inputs(ids, 0))


def test_sdxls_encoders_are_told_apart_and_must_be_named(tmp_path):
    path = write(tmp_path / "model.safetensors", {}, hollow("sdxl, first", 768) | hollow("sdxl, second", 1280))
    with pytest.raises(ModelFileError, match="several text encoders, such as SDXL; editable are sdxl_clip_l, sdxl_cli"):
        open_text_encoder(path)
    for encoder, width, heads in (("sdxl_clip_l", 768, 12), ("sdxl_clip_g", 1280, 20)):
        found = open_text_encoder(path, encoder)
        assert (found.encoder, found.tower.width, found.tower.heads) == (encoder, width, heads)
        assert found.tower.encoder == encoder
    with pytest.raises(ModelFileError, match="no text encoder clip_h; it has sdxl_clip_l, sdxl_clip_g"):
        open_text_encoder(path, "clip_h")
    with pytest.raises(ModelFileError, match="Unknown text encoder 't5'"):
        open_text_encoder(path, "t5")


def test_a_bare_clip_l_may_be_sdxls(tmp_path):
    path = write(tmp_path / "clip.safetensors", {}, hollow("bare", 768))
    assert open_text_encoder(path).encoder == "clip_l"
    assert open_text_encoder(path, "sdxl_clip_l").encoder == "sdxl_clip_l"


@pytest.mark.parametrize("name", ["model.safetensors", "model.fp16.safetensors"])
def test_diffusers_folders(tmp_path, weights, tokenizer, name):
    inner = tmp_path / "text_encoder"
    inner.mkdir()
    (inner / "config.json").write_text(config(WIDTH, HEADS))
    write(inner / name, laid_out(weights, "bare"))
    for folder in (tmp_path, inner):
        found = open_text_encoder(folder)
        assert found.file.path == inner / name and found.vocabulary == tmp_path / "tokenizer"
        assert torch.equal(found.tower.hidden_states([[1, 2]]), oracle(weights, HEADS).hidden_states([[1, 2]]))
    second = tmp_path / "text_encoder_2"
    second.mkdir()
    with pytest.raises(ModelFileError, match="text_encoder_2 holds no model"):
        open_text_encoder(tmp_path)
    write(second / name, {"encoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2, 2)})
    with pytest.raises(ModelFileError, match="several text encoders"):
        open_text_encoder(tmp_path)


def sharded(folder, weights, count, index=True):
    """A text encoder's folder as large ones are saved: tensors dealt out to several files, and an index of them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config(WIDTH, HEADS))
    stored = laid_out(weights, "bare")
    shards = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    dealt = {name: shards[number % count] for number, name in enumerate(stored)}
    for shard in shards:
        write(folder / shard, {name: value for name, value in stored.items() if dealt[name] == shard})
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dealt}))
    return folder


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("count", [2, 5])
def test_a_text_encoder_in_several_files_is_read_whole(tmp_path, weights, tokenizer, count, index):
    folder = sharded(tmp_path / "model" / "text_encoder", weights, count, index)
    wanted = compute_edit(oracle(weights, HEADS), tokenizer, [VAN_GOGH], EditSettings(layer=1))
    for model in (folder.parent, folder, folder / f"model-00001-of-{count:05}.safetensors"):
        found = open_text_encoder(model)
        assert found.tower.num_layers == LAYERS
        edit = compute_edit(found.tower, found.tokenizer(), [VAN_GOGH], EditSettings(layer=1))
        assert torch.equal(edit.up, wanted.up) and torch.equal(edit.down, wanted.down)
    made = copy_folder(folder, found.deltas(edit), folder.parent, tmp_path / "copy")
    assert len(made.patched) == 1
    patched = open_text_encoder(tmp_path / "copy").tower.weight(edit.weight_name)
    torch.testing.assert_close(patched, found.tower.weight(edit.weight_name) + edit.delta())
    with pytest.raises(TensorFileError, match=f"in {count} files; copy the whole folder"):
        found.file.copy(tmp_path / "one.safetensors", {})
    (folder / f"model-00002-of-{count:05}.safetensors").unlink()
    for model in (folder.parent, folder / f"model-00001-of-{count:05}.safetensors"):
        with pytest.raises(TensorFileError, match=f"model-00002-of-{count:05}.safetensors, one of {count} files"):
            open_text_encoder(model)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../a"}}', '{"weight_map": 5}']
)
def test_a_damaged_index_is_refused(tmp_path, weights, text):
    folder = sharded(tmp_path / "text_encoder", weights, 2)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(TensorFileError, match=r"model.safetensors.index.json (is damaged|names no files)"):
        open_text_encoder(folder)


def test_the_models_own_context_length_counts(tmp_path, weights, tokenizer):
    """An encoder of 248 positions (LongCLIP): the edit is the one of prompts as long, not of prompts of 77 tokens."""
    generator = torch.Generator().manual_seed(3)
    long = {**weights, "embeddings.position_embedding.weight": 0.05 * torch.randn(248, WIDTH, generator=generator)}
    (tmp_path / "config.json").write_text(config(WIDTH, HEADS))
    encoder = open_text_encoder(write(tmp_path / "model.safetensors", laid_out(long, "sd1")))
    own = encoder.tokenizer()
    assert own.context_length == encoder.tower.context_length == 248
    edit = compute_edit(encoder.tower, own, [VAN_GOGH], PAPER)
    assert edit.report.pairs == sum(
        248 - last_subject_token(p, "van gogh", own) for p in own.tokenize_all(expand(PUBLISHED_TEMPLATES, "van gogh"))
    )
    for make in (
        lambda t: compute_edit(encoder.tower, t, [VAN_GOGH], PAPER),
        lambda t: measure_edit(encoder.tower, t, edit),
    ):
        with pytest.raises(TowerError, match="prompts of 77 tokens, the text encoder reads 248"):
            make(tokenizer)


def test_a_folder_named_by_a_dot_is_called_by_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "my model"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in (".", "./", "../my model"):
        with pytest.raises(ModelFileError, match="The folder my model holds no model"):
            open_text_encoder(name)
    write(folder / "model.safetensors", {"unet": torch.ones(3)})
    with pytest.raises(ModelFileError, match=r"^my model holds no CLIP text encoder"):
        open_text_encoder(".")


def test_what_holds_no_usable_text_encoder_is_refused(tmp_path, weights, tokens):
    def refused(message, error=ModelFileError):
        with pytest.raises(error, match=message):
            open_text_encoder(tmp_path / "model.safetensors").tower.hidden_states([[1, 2]])

    path = tmp_path / "model.safetensors"
    refused("Cannot read", TensorFileError)
    write(path, {"unet": torch.ones(3)})
    refused("holds no CLIP text encoder")
    write(path, laid_out(weights, "sd1"))
    refused("32 wide, which is none of Stable Diffusion's")
    (tmp_path / "config.json").write_text(config(WIDTH, 0))
    refused("32 wide")
    (tmp_path / "config.json").write_text(config(WIDTH, HEADS))
    write(path, laid_out(weights, "sd1") | laid_out(weights, "bare"))
    refused("several text encoders of one size")
    write(path, {n: v for n, v in laid_out(weights, "sd1").items() if "layers.0.mlp" not in n})
    refused("no weight named encoder.layers.0.mlp", TowerError)
    quantized = laid_out(weights, "sd1")
    name = next(name for name in quantized if "layers.0.self_attn.q_proj.weight" in name)
    shape = quantized.pop(name).shape
    write(path, quantized, {name: ("F8_E4M3", (shape[0], shape[1] // 2))})
    refused("type F8_E4M3: quantized", TensorFileError)
    content = write(path, laid_out(weights, "sd1")).read_bytes()
    path.write_bytes(content[:-1])
    refused("truncated", TensorFileError)
    path.write_bytes(content + b"x")
    refused("damaged", TensorFileError)
    for other in (b"", b"PK\x03\x04" + bytes(100), content[:20], b"GGUF" + bytes(100)):
        path.write_bytes(other)
        refused("no sound safetensors file", TensorFileError)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.safetensors"
    table = torch.randn(100, 5, generator=torch.Generator().manual_seed(0)).half()
    save_file({"a": torch.ones(3), "table": table}, path)
    return TensorFile(path), table


@given(st.lists(st.integers(0, 99), max_size=30))
def test_rows_are_the_rows(table, numbers):
    wanted = torch.tensor(numbers, dtype=torch.long)
    found = table[0].rows("table", wanted)
    assert torch.equal(found, table[1][wanted]) and found.dtype == torch.float16


@given(st.data())
def test_no_bytes_crash_the_reader(tmp_path_factory, data):
    content = bytearray(json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.sampled_from([len(content), len(content) - 1, 2, 2**63]))
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + content + bytes(8))
    try:
        file = TensorFile(path)
        for name in file.places:
            file.tensor(name)
    except TensorFileError:
        pass


def test_a_copy_differs_in_the_replaced_tensor_alone(small, tmp_path):
    name = LAYOUTS["sd1"][0] + "encoder.layers.0.self_attn.out_proj.weight"
    before, file, told = small.read_bytes(), TensorFile(small), []
    fresh = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    file.copy(tmp_path / "copy.safetensors", {name: fresh}, progress=lambda *step: told.append(step))
    after, place = (tmp_path / "copy.safetensors").read_bytes(), file.places[name]
    assert small.read_bytes() == before
    assert after[: place.start] == before[: place.start] and after[place.end :] == before[place.end :]
    assert after[place.start : place.end] == fresh.numpy().tobytes()
    assert told[-1] == (len(before), len(before))
    with pytest.raises(FileExistsError):
        file.copy(tmp_path / "copy.safetensors", {name: fresh})
    with pytest.raises(TensorFileError, match="shape"):
        file.copy(tmp_path / "other.safetensors", {name: fresh[:1]})

    class Cancelled(Exception):
        pass

    def cancel(*_):
        raise Cancelled

    with pytest.raises(Cancelled):
        file.copy(tmp_path / "other.safetensors", {name: fresh}, progress=cancel)
    assert not [entry for entry in tmp_path.iterdir() if "other" in entry.name]


def test_a_copy_rounds_to_the_files_own_precision(tmp_path):
    save_file({"w": torch.zeros(2, 2, dtype=torch.bfloat16), "x": torch.ones(1)}, tmp_path / "a.safetensors")
    fresh = torch.tensor([[1.0, 1.001], [-2.5, 3e-5]])
    file = TensorFile(tmp_path / "a.safetensors")
    file.copy(tmp_path / "b.safetensors", {"w": fresh})
    assert torch.equal(load_file(tmp_path / "b.safetensors")["w"], fresh.bfloat16())
    with pytest.raises(TensorFileError, match="do not fit into BF16"):
        file.copy(tmp_path / "c.safetensors", {"w": fresh * 3e38})
    assert not (tmp_path / "c.safetensors").exists()


def test_an_edit_is_measured_as_it_was_computed(small, tokenizer, tmp_path):
    encoder = open_text_encoder(small)
    for settings in (PAPER, GUARDED):
        edit = compute_edit(encoder.tower, tokenizer, [VAN_GOGH, ConceptEdit("dog", "cat", "object")], settings)
        again = measure_edit(encoder.tower, tokenizer, edit)
        for name in ("efficacy", "specificity", "drift", "empty_prompt_drift", "relative_norm"):
            assert getattr(again, name) == pytest.approx(getattr(edit.report, name), abs=1e-5), name
        assert again.pairs == edit.report.pairs and again.worst_hit[0][0] == edit.report.worst_hit[0][0]
        nothing = measure_edit(encoder.tower, tokenizer, edit, strength=0.0)
        assert nothing.drift == nothing.efficacy == 0 and nothing.specificity == 1


def test_an_edit_of_another_model_is_refused(small, tokenizer, tmp_path):
    edit = compute_edit(open_text_encoder(small).tower, tokenizer, [VAN_GOGH], PAPER)
    wide = oracle(tower_weights(2 * WIDTH, 1, [0]), HEADS)
    with pytest.raises(TowerError, match="32 x 32; this text encoder's is 64 x 64"):
        measure_edit(wide, tokenizer, edit)
    save_edit(edit, tmp_path / "fix.safetensors")
    with pytest.raises(ModelFileError, match="holds no CLIP text encoder"):
        open_text_encoder(tmp_path / "fix.safetensors")
    assert TABLE in oracle(tower_weights(WIDTH, 1, [0]), HEADS).weights
