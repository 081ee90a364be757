"""Shapes' training: it goes on where it was interrupted, and every stage runs."""

import dataclasses

import pytest
import torch
from diff_quickfix.demo_model.training import train
from diff_quickfix.demo_model.training.fitting import fit
from diff_quickfix.demo_model.training.training_set import RECIPE
from safetensors.torch import load_file
from torch.nn import Linear

SMALL = dataclasses.replace(
    RECIPE,
    pictures=48,
    clip_steps=2,
    clip_batch=8,
    autoencoder_steps=1,
    autoencoder_batch=2,
    vision_steps=1,
    vision_batch=8,
    unet_steps=2,
    unet_batch=2,
    unet_offset_from=1,
    unet_noisy_from=1,
)


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


def test_every_stage_of_the_training_runs(tmp_path):
    for name in ("pictures", "clip", "autoencoder", "vision", "unet"):
        train.STAGES[name](SMALL, tmp_path)
    pictures, scenes = train.load_pictures(tmp_path)
    assert len(pictures) == len(scenes) == 48
    state = load_file(tmp_path / "unet.safetensors")
    names = [name.removeprefix("unet.") for name in state if name.startswith("unet.")]
    assert names and any(not torch.equal(state[f"unet.{n}"], state[f"average.{n}"]) for n in names)
    assert load_file(tmp_path / "vision.optimizer.safetensors")["step"] == 1
