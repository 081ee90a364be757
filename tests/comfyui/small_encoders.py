"""CLIP objects of image models that read other encoders than CLIP: ComfyUI's own classes, small, random weights."""

from __future__ import annotations

import dataclasses
import functools
import io
from typing import Any

import pytest
import torch
from door_models import CASES, Case, build

# Widths of the states are those of the small image models of ``door_models``.
_LLM = {"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64}
_T5 = {
    "t5xxl_model_config": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 2, "num_layers": 2},
    "clip_l_model_config": {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
    },
}
FAMILIES = (
    *("sd3", "z-image", "qwen-image", "flux", "chroma", "anima", "krea2", "pixart", "lumina2", "flux2"),
    *("flux2-klein-4b", "flux2-klein-9b", "wan", "cosmos-predict2", "newbie", "hunyuan-image", "ovis", "longcat"),
)
# ComfyUI fills CLIP's states of Stable Diffusion 3 up to this width.
_SD3_WIDTH = 4096


def present() -> list[str]:
    """The families that the ComfyUI under test has."""
    import comfy.supported_models

    return [name for name in FAMILIES if hasattr(comfy.supported_models, CASES[name].supported)]


@functools.cache
def objects(name: str) -> tuple[Any, Any]:
    """(MODEL, CLIP) of a family; not to be changed."""
    import comfy.latent_formats
    import comfy.model_patcher

    model = build(_case(name))
    # Latents as they are: those of the small models have too few channels for the family's own format.
    model.latent_format = comfy.latent_formats.LatentFormat()
    if name == "anima":
        table = torch.randn(4016, 1024, generator=torch.Generator().manual_seed(6))
        model.diffusion_model.llm_adapter.embed.weight = torch.nn.Parameter(table.repeat(8, 1), requires_grad=False)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu), _clip(name)


def _case(name: str) -> Case:
    case = CASES[name]
    if name != "sd3":
        return case
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": _SD3_WIDTH, "out_features": 128}}
    config = {**case.config, "context_embedder_config": embedder, "adm_in_channels": 16 + 24}
    return dataclasses.replace(case, config=config, width=_SD3_WIDTH)


def _clip(name: str) -> Any:
    import comfy.sd
    import comfy.text_encoders.flux as flux
    import comfy.text_encoders.pixart_t5 as pixart
    import comfy.text_encoders.sd3_clip as sd3

    options: dict[str, Any] = {**_T5, "dtype": torch.float32}
    if name == "sd3":
        options["t5xxl_model_config"] = {**options["t5xxl_model_config"], "d_model": _SD3_WIDTH}
        options["clip_l_model_config"] = {**options["clip_l_model_config"], "num_hidden_layers": 3}
        options["clip_g_model_config"] = {**options["clip_l_model_config"], "hidden_size": 24, "intermediate_size": 48}
        target = _target(sd3.sd3_clip(dtype_t5=torch.float32), sd3.SD3Tokenizer)
        return fill_clip(comfy.sd.CLIP(target, model_options=options))
    if name == "flux":
        return fill_clip(
            comfy.sd.CLIP(_target(flux.flux_clip(torch.float32), flux.FluxTokenizer), model_options=options)
        )
    if name in ("wan", "cosmos-predict2", "lumina2", "newbie", "flux2"):
        return fill_clip(_of_pieces(name, options))
    if name.startswith("flux2-klein"):
        large = name.endswith("9b")
        encoder = "qwen3_8b" if large else "qwen3_4b"
        # Three of three layers, where the model has 36.
        options[f"{encoder}_class"] = functools.partial(
            flux.Qwen3_8BModel if large else flux.Qwen3_4BModel, layer=[0, 1, 2]
        )
        options[f"{encoder}_model_config"] = {**_LLM, "hidden_size": CASES[name].width // 3}
        tokenizer = flux.KleinTokenizer8B if large else flux.KleinTokenizer
        return fill_clip(comfy.sd.CLIP(_target(flux.klein_te(model_type=encoder), tokenizer), model_options=options))
    if name in ("chroma", "pixart"):
        return fill_clip(
            comfy.sd.CLIP(_target(pixart.pixart_te(torch.float32), pixart.PixArtTokenizer), model_options=options)
        )
    encoder, width = {
        "z-image": ("qwen3_4b", 32),
        "qwen-image": ("qwen25_7b", 32),
        "anima": ("qwen3_06b", 1024),
        "krea2": ("qwen3vl_4b", 32),
        "hunyuan-image": ("qwen25_7b", 32),
        "ovis": ("qwen3_2b", 32),
        "longcat": ("qwen25_7b", CASES["longcat"].width),
    }[name]
    options[f"{encoder}_model_config"] = {**_LLM, "hidden_size": width}
    if name == "hunyuan-image":
        options[f"{encoder}_model_config"]["num_hidden_layers"] = 4
    target = _llm(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer", _Blind)
        if name == "krea2":
            patch.setattr("comfy.text_encoders.qwen3vl.Qwen3VLVisionModel", _Blind)
        return fill_clip(comfy.sd.CLIP(target, model_options=options))


def _of_pieces(name: str, options: dict[str, Any]) -> Any:
    """A CLIP whose tokenizer is in its file: sentence pieces, or Mistral's."""
    import comfy.sd
    import comfy.text_encoders.cosmos as cosmos
    import comfy.text_encoders.flux as flux
    import comfy.text_encoders.lumina2 as lumina2
    import comfy.text_encoders.newbie as newbie
    import comfy.text_encoders.wan as wan

    data: dict[str, Any] = {}
    t5, llm = options["t5xxl_model_config"], {**_LLM, "hidden_size": 32}
    if name == "wan":
        options["umt5xxl_model_config"] = t5
        data["spiece_model"] = pieces("umt5")
        target = _target(wan.te(), wan.WanT5Tokenizer)
    elif name == "cosmos-predict2":
        target = _target(cosmos.te(), cosmos.CosmosT5Tokenizer)
    elif name == "lumina2":
        options["gemma2_2b_model_config"] = llm
        data["spiece_model"] = pieces("gemma")
        target = _target(lumina2.te(), lumina2.LuminaTokenizer)
    elif name == "newbie":
        data |= {"gemma_spiece_model": pieces("gemma"), "jina_spiece_model": pieces("jina")}
        target = _target(newbie.te(), newbie.NewBieTokenizer)
        # One configuration for both encoders; each has what the other lacks by default.
        options["_model_config"] = {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        }
    else:
        options["mistral3_24b_model_config"] = llm
        options["mistral3_24b_class"] = functools.partial(flux.Mistral3_24BModel, layer=[0, 1, 2])
        target = _target(flux.flux2_te(), flux.Flux2Tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        # What ComfyUI converts Mistral's file with is not in every release of transformers.
        patch.setattr(flux, "load_mistral_tokenizer", lambda data: {"tokenizer_object": _bytes(), "legacy": False})
        return comfy.sd.CLIP(target, model_options=options, tokenizer_data=data)


@functools.cache
def pieces(kind: str) -> torch.Tensor:
    """A small model of sentence pieces, as text encoders' files hold it; Gemma's falls back on bytes."""
    import sentencepiece

    words = ["a photo of a red star in the style of van gogh", "painting by night", "two dogs on grass", "cat, 7 x"]
    special = {
        "umt5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
        "gemma": {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3},
        "jina": {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3},
    }[kind]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*words, *(f"{one} {other}" for one in words for other in words)]),
        model_writer=model,
        vocab_size=400 if kind == "gemma" else 120,
        hard_vocab_limit=False,
        byte_fallback=kind == "gemma",
        add_dummy_prefix=kind != "gemma",
        minloglevel=2,
        num_threads=1,
        **special,
    )
    return torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)


def _bytes() -> Any:
    """A tokenizer of bytes and a few pairs of them, with Mistral's special tokens where Mistral has them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = [
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        *(f"<special_{number}>" for number in range(5, 11)),
        "<pad>",
    ]
    special += ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "n"), ("i", "n"), ("\u0120", "v"), ("g", "o"), ("go", "g"), ("gog", "h")]
    tokens = [*special, *letters, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def _llm(name: str) -> Any:
    if name == "z-image":
        import comfy.text_encoders.z_image as module

        return _target(module.ZImageTEModel, module.ZImageTokenizer)
    if name == "qwen-image":
        import comfy.text_encoders.qwen_image as module

        return _target(module.QwenImageTEModel, module.QwenImageTokenizer)
    if name == "hunyuan-image":
        import comfy.text_encoders.hunyuan_image as module

        return _target(module.te(byt5=False), module.HunyuanImageTokenizer)
    if name == "ovis":
        import comfy.text_encoders.ovis as module

        return _target(module.OvisTEModel, module.OvisTokenizer)
    if name == "longcat":
        import comfy.text_encoders.longcat_image as module

        return _target(module.LongCatImageTEModel, module.LongCatImageTokenizer)
    if name == "anima":
        import comfy.text_encoders.anima as module

        return _target(module.AnimaTEModel, module.AnimaTokenizer)
    import comfy.text_encoders.krea2 as module

    # Three of three layers, where the model has twelve.
    module.KREA2_TAP_LAYERS[:] = [0, 1, 2]
    return _target(module.Krea2TEModel, module.Krea2Tokenizer)


class _Blind(torch.nn.Module):
    """In place of an encoder's vision tower, which is large and reads no text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()


def _target(model: Any, own: Any) -> Any:
    class Target:
        clip = model
        tokenizer = own
        params: dict = {}  # noqa: RUF012

    return Target


# Numbers of the largest table that is filled.
_LARGE = 2**25


def fill_clip(clip: Any) -> Any:
    """Random weights, in place."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in clip.cond_stage_model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif parameter.numel() > _LARGE:
                # Rows that overlap, of one short run of numbers.
                run = torch.randn(7 * len(parameter) + parameter.shape[1], generator=generator)
                parameter.data = run.as_strided(parameter.shape, (7, 1))
            elif "embed" in name or "shared" in name:
                # A table of random rows, repeated: drawing a whole vocabulary takes long.
                rows = torch.randn(4099, parameter.shape[1], generator=generator)
                for start in range(0, len(parameter), 4099):
                    part = parameter[start : start + 4099]
                    part.copy_(rows[: len(part)].roll(start // 4099, 1))
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    return clip


def text_states(family):
    """The text states of a family, opened for an edit."""
    from pack_under_test.nodes.host.editing.image_model import open_image_model
    from pack_under_test.nodes.host.editing.text_states import open_text_states

    model, clip = objects(family)
    return open_text_states(clip, open_image_model(model).family, model)
