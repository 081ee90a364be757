"""A text encoder and a UNet small enough to be traced in milliseconds, and a prompt with a corrupted subject."""

import torch
from diff_quickfix.families.text_stacks import text_sites
from diff_quickfix.tracing.runs.cases import Case, Share, encode_rows
from diff_quickfix.tracing.runs.corruption import gaussian
from transformers import CLIPTextConfig, CLIPTextModel

CONTEXT, WIDTH, LAYERS = 10, 32, 4
SUBJECT = (3, 4)
LAST = CONTEXT - 1


def make_encoder():
    torch.manual_seed(5)
    config = CLIPTextConfig(
        vocab_size=60,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=58,
        eos_token_id=59,
        pad_token_id=59,
    )
    model = CLIPTextModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def layers_of(model):
    return getattr(model, "text_model", model).encoder.layers


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def make_case(model, draws=3, columns=(), seed=0, multiple=3.0):
    ids = torch.tensor([[58, 7, 8, 9, 10, 11, 12, 59, 59, 59]])
    table = getattr(model, "text_model", model).embeddings.token_embedding.weight
    corruption = gaussian(table[ids[0, list(SUBJECT)]], SUBJECT, draws=draws, seed=seed, multiple=multiple)

    def encode(rows):
        return model(ids.expand(rows, -1)).last_hidden_state

    return Case(
        "a house by van gogh", "van gogh", (Share("", corruption, layers_of(model)[0]),), encode, tuple(columns)
    )


def states(model, case, *rows):
    """Final text states of a case's restorations, side by side."""
    return encode_rows(case, {site.name: site for site in text_sites(model)}, rows)


def make_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(1)
    return (
        UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=2,
            attention_head_dim=4,
            cross_attention_dim=WIDTH,
            norm_num_groups=8,
        )
        .eval()
        .requires_grad_(False)
    )
