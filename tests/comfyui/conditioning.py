"""Text states by ComfyUI's own path."""

import torch


def encode(clip, text):
    """The conditioning of a prompt, as CLIPTextEncode makes it."""
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text), return_pooled=False).clone()
