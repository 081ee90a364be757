"""Shapes' autoencoder: eight-fold downsampling to sixteen channels, as cheap as can be.

The encoder is linear: the leading principal components of 8x8 pixel patches, scaled so that coarse components stay a
little larger than fine ones. The decoder adds what its neighbours tell about a patch to the linear reconstruction.
Stable Diffusion's own ``AutoencoderKL`` does not shrink: its group norms have 32 groups, and with one channel to a
group they wipe out the absolute level of every color.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import Conv2d, ConvTranspose2d

from . import architecture as shape

PATCH = 8
WIDTHS = (96, 64, 32, 16)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, channels, 3, padding=1)
        self.conv2 = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(nn.functional.silu(self.conv1(nn.functional.silu(x))))


class Autoencoder(nn.Module):
    """Pictures (n, 3, h, w) in [-1, 1] to latents (n, 16, h/8, w/8) of about unit variance, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Conv2d(3, shape.LATENT_CHANNELS, PATCH, PATCH)
        self.linear_decoder = ConvTranspose2d(shape.LATENT_CHANNELS, 3, PATCH, PATCH)
        stages: list[nn.Module] = [Conv2d(shape.LATENT_CHANNELS, WIDTHS[0], 3, padding=1), _Residual(WIDTHS[0])]
        for before, after in pairwise(WIDTHS):
            stages += [
                _Residual(before),
                Conv2d(before, 4 * after, 1),
                nn.PixelShuffle(2),
                _Residual(after),
            ]
        last = Conv2d(WIDTHS[-1], 3, 3, padding=1)
        nn.init.zeros_(last.weight)
        last.register_parameter("bias", nn.Parameter(torch.zeros(3)))
        self.refiner = nn.Sequential(*stages, nn.SiLU(), last)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.encoder(pictures)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.linear_decoder(latents) + self.refiner(latents)

    @staticmethod
    def _bias(module: Conv2d | ConvTranspose2d) -> torch.Tensor:
        assert module.bias is not None
        return module.bias

    @torch.no_grad()
    def fit_principal_components(self, pictures: torch.Tensor) -> None:
        """Set the encoder, and its linear inverse, to the principal components of the pictures' patches.

        Component i, of standard deviation s_i, is scaled to a standard deviation proportional to sqrt(s_i); the mean
        variance over the channels is one.
        """
        pixels = self.encoder.weight[0].numel()
        patches = nn.functional.unfold(pictures, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, pixels).double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        keep = shape.LATENT_CHANNELS
        deviation, basis = values.flip(0)[:keep].sqrt(), vectors.flip(1)[:, :keep]
        gain = deviation.rsqrt()
        gain = gain / ((gain * deviation).square().mean().sqrt())
        self.encoder.weight.copy_((basis * gain).T.reshape(self.encoder.weight.shape))
        self._bias(self.encoder).copy_(-(mean @ basis) * gain)
        self.linear_decoder.weight.copy_((basis / gain).T.reshape(self.linear_decoder.weight.shape))
        # The bias of a transposed convolution is one number per color; the rest of the mean patch is left to the
        # refiner.
        self._bias(self.linear_decoder).copy_(mean.reshape(3, -1).mean(1))
