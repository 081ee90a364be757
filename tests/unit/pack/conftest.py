"""The shell in process, and a text encoder of Stable Diffusion 1.x for it."""

import pytest
import torch
from diff_quickfix.cli import main
from model_files import config, laid_out, tower_weights, used_tokens, write
from shell_models import HEADS, WIDTH


@pytest.fixture(scope="module")
def weights(tokenizer):
    return tower_weights(WIDTH, 2, used_tokens(tokenizer, "van gogh", "painting", "snoopy", "dog"), torch.float16)


@pytest.fixture
def model(tmp_path, weights, monkeypatch):
    (tmp_path / "config.json").write_text(config(WIDTH, HEADS))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model.safetensors", laid_out(weights, "sd1"), {"unet": ("F16", (1000,))})
    return "model.safetensors"


@pytest.fixture
def shell(capsys):
    """Run a command; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        try:
            code = main(arguments)
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return run
