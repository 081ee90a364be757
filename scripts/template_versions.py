"""What the templates become for the models that people have: loaders with their files, prompts, sizes and samplers."""

from __future__ import annotations

from typing import Any, NamedTuple

Graph = dict[str, Any]


class Loader(NamedTuple):
    """One of ComfyUI's loaders, with its widgets' values."""

    kind: str
    gives: tuple[str, ...]
    values: tuple[str, ...]
    place: tuple[int, int]
    """Its top, and its height."""
    folder: str
    links: tuple[str, ...]
    """Where the files are that it names, in their order: the page offers to download what is missing."""

    def node(self) -> Graph:
        """Properties and outputs of a node of this kind."""
        names = [value for value in self.values if value.endswith(".safetensors")]
        models = [
            {"name": name, "url": link, "directory": self.folder} for name, link in zip(names, self.links, strict=True)
        ]
        return {
            "type": self.kind,
            "properties": {"Node name for S&R": self.kind, "models": models},
            "widgets_values": list(self.values),
        }


class Version(NamedTuple):
    """What a template needs for a kind of models that people have."""

    loaders: tuple[Loader, ...]
    size: int
    models: str
    """What to choose, in words."""
    band: str
    """What stands above the thumbnail."""
    sampler: tuple[Any, ...]
    """The widgets' values of KSampler as these models are used."""
    latent: str = "EmptyLatentImage"


def _checkpoint(name: str, link: str) -> Loader:
    return Loader("CheckpointLoaderSimple", ("MODEL", "CLIP", "VAE"), (name,), (40, 110), "checkpoints", (link,))


def _three(model: tuple[str, str], clip: Loader, vae: str) -> tuple[Loader, ...]:
    """The loaders of a model whose parts are files of their own."""
    name, link = model
    return (
        Loader("UNETLoader", ("MODEL",), (name, "default"), (40, 90), "diffusion_models", (link,)),
        clip,
        Loader("VAELoader", ("VAE",), ("ae.safetensors",), (375, 90), "vae", (vae,)),
    )


_HUB = "https://huggingface.co"
SD15, SDXL, FLUX, Z_IMAGE = "-sd15", "-sdxl", "-flux", "-z-image"
VERSIONS = {
    SD15: Version(
        (
            _checkpoint(
                "v1-5-pruned-emaonly-fp16.safetensors",
                f"{_HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
            ),
        ),
        512,
        "Stable Diffusion 1.x or 2.x file in *Load Checkpoint*",
        "Stable Diffusion 1.x / 2.x",
        (7, "fixed", 25, 7.0, "dpmpp_2m", "karras", 1.0),
    ),
    SDXL: Version(
        (
            _checkpoint(
                "sd_xl_base_1.0.safetensors",
                f"{_HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
            ),
        ),
        1024,
        "SDXL file (SDXL itself, Illustrious, NoobAI, Pony and others) in *Load Checkpoint*",
        "SDXL",
        (7, "fixed", 25, 6.0, "dpmpp_2m", "karras", 1.0),
    ),
    FLUX: Version(
        _three(
            ("flux1-dev.safetensors", f"{_HUB}/Comfy-Org/flux1-dev/resolve/main/flux1-dev.safetensors"),
            Loader(
                "DualCLIPLoader",
                ("CLIP",),
                ("clip_l.safetensors", "t5xxl_fp16.safetensors", "flux", "default"),
                (175, 130),
                "text_encoders",
                tuple(
                    f"{_HUB}/comfyanonymous/flux_text_encoders/resolve/main/{name}.safetensors"
                    for name in ("clip_l", "t5xxl_fp16")
                ),
            ),
            f"{_HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors",
        ),
        1024,
        "Flux.1 files in the three loaders",
        "Flux.1",
        (7, "fixed", 20, 1.0, "euler", "simple", 1.0),
        "EmptySD3LatentImage",
    ),
    Z_IMAGE: Version(
        _three(
            (
                "z_image_turbo_bf16.safetensors",
                f"{_HUB}/Comfy-Org/z_image_turbo/resolve/main/split_files/diffusion_models/z_image_turbo_bf16.safetensors",
            ),
            Loader(
                "CLIPLoader",
                ("CLIP",),
                ("qwen_3_4b.safetensors", "lumina2", "default"),
                (175, 130),
                "text_encoders",
                (f"{_HUB}/Comfy-Org/z_image_turbo/resolve/main/split_files/text_encoders/qwen_3_4b.safetensors",),
            ),
            f"{_HUB}/Comfy-Org/z_image_turbo/resolve/main/split_files/vae/ae.safetensors",
        ),
        1024,
        "Z-Image files in the three loaders",
        "Z-Image",
        (7, "fixed", 8, 1.0, "res_multistep", "simple", 1.0),
        "EmptySD3LatentImage",
    ),
}
# The templates with versions as people use their models: what the prompts say there, by what they say to Shapes.
_SHAPES_PROMPT = "a red circle on grass, in the style of van gogh"
_TAGS = {
    _SHAPES_PROMPT: "a quiet mountain village under a night sky, oil painting, in the style of van gogh, detailed",
    "": "blurry, low quality, watermark, text",
}
# Models without guidance read no negative prompt.
_SENTENCES = {
    _SHAPES_PROMPT: (
        "A quiet mountain village under a night sky, a few lit windows, painted in oil in the style of van gogh."
    ),
    "": "",
}
AS_USED = {"remove-a-concept": {SD15: _TAGS, SDXL: _TAGS, FLUX: _SENTENCES, Z_IMAGE: _SENTENCES}}
