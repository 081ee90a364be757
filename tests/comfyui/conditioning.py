"""Text states by ComfyUI's own path."""

import torch


def encode(clip, text):
    """The conditioning of a prompt, as CLIPTextEncode makes it."""
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text), return_pooled=False).clone()


def attention_outputs(encoder, runs):
    """What the first self-attention of a CLIP's encoder gives for (CLIP, prompt) after (CLIP, prompt)."""
    outputs = []
    layer = encoder.transformer.text_model.encoder.layers[0].self_attn
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach().clone()))
    try:
        for clip, text in runs:
            encode(clip, text)
    finally:
        handle.remove()
    return outputs
