"""Shapes' training: it goes on where it was interrupted, and every stage runs."""

import dataclasses
import functools

import pytest
import torch
from diff_quickfix.demo_model.training import denoising, train, training_set
from diff_quickfix.demo_model.training.export import export, restore
from diff_quickfix.demo_model.training.fitting import fit, following
from diff_quickfix.demo_model.training.training_set import RECIPES, load_pictures
from diff_quickfix.demo_model.training.warm_start import adopt
from safetensors.torch import load_file
from torch.nn import Linear

SMALL = {
    "pictures": 48,
    "clip_steps": 2,
    "clip_batch": 8,
    "autoencoder_steps": 1,
    "autoencoder_batch": 2,
    "vision_steps": 1,
    "vision_batch": 8,
    "unet_steps": 2,
    "unet_batch": 2,
    "unet_offset_from": 1,
    "unet_noisy_from": 1,
}


def run_fit(out, *, break_at=None):
    torch.manual_seed(0)
    module = Linear(3, 2)

    def loss_of_step(step):
        if step == break_at:
            raise KeyboardInterrupt
        return module(torch.randn(4, 3, generator=torch.Generator().manual_seed(step))).square().mean()

    fit("line", {"module": module}, loss_of_step, steps=9, rate=0.1, out=out, save_every=2)
    return module.weight


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = run_fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_fit(tmp_path / "broken", break_at=5)
    assert torch.equal(run_fit(tmp_path / "broken"), whole)


def test_weights_without_moments_are_where_a_training_begins(tmp_path):
    weight = run_fit(tmp_path).detach().clone()
    (tmp_path / "line.optimizer.safetensors").unlink()
    after = run_fit(tmp_path)
    assert not torch.equal(after, weight), "it trained on"
    assert after.square().sum() < weight.square().sum(), "not from random weights"


@pytest.mark.parametrize("model", RECIPES)
def test_every_stage_of_the_training_runs(tmp_path, model):
    recipe = dataclasses.replace(RECIPES[model], **SMALL)
    for name in ("pictures", "clip", "autoencoder", "vision", "unet"):
        train.STAGES[name](recipe, tmp_path)
    pictures, scenes = load_pictures(tmp_path)
    assert len(pictures) == len(scenes) == 48
    state = load_file(tmp_path / "unet.safetensors")
    names = [name.removeprefix("unet.") for name in state if name.startswith("unet.")]
    assert names and any(not torch.equal(state[f"unet.{n}"], state[f"average.{n}"]) for n in names)
    assert load_file(tmp_path / "vision.optimizer.safetensors")["step"] == 1

    # What is shipped of it is where another machine goes on.
    own = tmp_path / "shipped"
    shared = own if model == "shapes" else tmp_path / "world"
    architecture = dataclasses.replace(recipe.architecture, folder=own, shared=shared)
    export(recipe, tmp_path, architecture)
    (tmp_path / "elsewhere").mkdir()
    restore(recipe, tmp_path / "elsewhere", architecture)
    restored = load_file(tmp_path / "elsewhere" / "unet.safetensors")
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[f"unet.{name}"], state[f"average.{name}"].half().float()) for name in names)
    for name in ("pictures.npy", "scenes.json"):
        (tmp_path / "elsewhere" / name).symlink_to(tmp_path / name)
    for stage in ("autoencoder", "vision", "unet"):
        train.STAGES[stage](recipe, tmp_path / "elsewhere")


def test_an_interrupted_unet_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """Of Shapes XL, whose conditioning and sizes are drawn at random too."""
    recipe = dataclasses.replace(RECIPES["xl"], **SMALL | {"unet_steps": 3, "clip_steps": 1})
    for name in ("pictures", "clip", "autoencoder"):
        train.STAGES[name](recipe, tmp_path)
    monkeypatch.setattr(denoising, "fit", functools.partial(fit, save_every=1))
    (tmp_path / "broken").mkdir()
    for name in ("pictures.npy", "scenes.json", "latents.safetensors", "clip.safetensors"):
        (tmp_path / "broken" / name).symlink_to(tmp_path / name)
    train.STAGES["unet"](recipe, tmp_path)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        draws = iter([training_set.caption] * 4 + [stop] * 2)
        patch.setattr(training_set, "caption", lambda *args, **more: next(draws)(*args, **more))
        train.STAGES["unet"](recipe, tmp_path / "broken")
    assert load_file(tmp_path / "broken" / "unet.optimizer.safetensors")["step"] == 2
    train.STAGES["unet"](recipe, tmp_path / "broken")
    whole, broken = (load_file(folder / "unet.safetensors") for folder in (tmp_path, tmp_path / "broken"))
    assert whole.keys() == broken.keys() and all(torch.equal(whole[name], broken[name]) for name in whole)


def test_a_warm_start_takes_what_agrees_and_leaves_the_rest():
    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.text_model = torch.nn.Module()
            self.text_model.embeddings = torch.nn.Module()
            self.text_model.embeddings.token_embedding = torch.nn.Embedding(3, 2)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.text, self.same, self.wider, self.linear = Words(), Linear(2, 2), Linear(2, 3), Linear(2, 2)

    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = "text.text_model.embeddings.token_embedding.weight"
    old = {
        table: torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]),
        "same.weight": torch.full((2, 2), 5.0),
        "wider.weight": torch.full((2, 2), 6.0),
        "linear.weight": torch.arange(4.0).reshape(2, 2, 1, 1),
        "gone.weight": torch.ones(1),
    }
    assert adopt(model, old) == 3
    after = model.state_dict()
    assert torch.equal(after["same.weight"], old["same.weight"])
    assert torch.equal(after["linear.weight"], old["linear.weight"][:, :, 0, 0]), "a 1x1 convolution's"
    assert torch.equal(after[table][[0, 2]], old[table][[0, 2]])
    assert torch.equal(after[table][1], before[table][1]), "a word that was never read"
    for name in ("same.bias", "wider.weight", "linear.bias"):
        assert torch.equal(after[name], before[name])


def test_an_average_follows_the_weights():
    """Oracle: the sum of all weights so far, each with its share."""
    average, module = Linear(2, 2), Linear(2, 2)
    follow, expected = following(average, module, 0.5), average.weight.detach().clone()
    for step, decay in enumerate((0.1, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5)):
        torch.nn.init.normal_(module.weight)
        follow(step)
        expected = decay * expected + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(average.weight.detach(), expected)


@pytest.mark.parametrize(
    ("model", "stage", "said"),
    [("dit", "unet", "has no stage unet; its stages are pictures, parts, t5"), ("xl", "t5", "has no stage t5")],
)
def test_a_stage_of_another_model_is_refused(tmp_path, capsys, model, stage, said):
    with pytest.raises(SystemExit):
        train.main([stage, "--model", model, "--out", str(tmp_path / "new")])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
