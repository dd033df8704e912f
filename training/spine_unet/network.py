# SPDX-License-Identifier: Apache-2.0
"""The U-Net: (B, 11, H, W) features to (B, 2, H, W) mask logits and (B, 9, H/2, W/2) vectors.

Vector channels, in the ray frame of the cell: 0..2 offset from the cell's point to the dorsal
centre of its vertebra (unit CENTRE_SCALE_M), 3..5 cranial, 6..8 dorsal direction (unnormalised).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

MASK_CHANNELS, VECTOR_CHANNELS = 2, 9


class ConvBlock(nn.Sequential):
    """3x3 convolution, batch norm (folded at export), ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm(self.conv(self.first(x))))


class SpineUNet(nn.Module):
    """Widths per scale 1/2, 1/4, 1/8, 1/16, 1/32; skips are added, which is cheaper than joining."""

    def __init__(self, c_in: int = 11, widths: tuple[int, ...] = (32, 64, 96, 128, 192)) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), ConvBlock(4 * c_in, widths[0]))
        blocks = (0, 1, 1, 2, 2)
        self.encoders = nn.ModuleList([ConvBlock(widths[0], widths[0])])
        for before, width, n in zip(widths[:-1], widths[1:], blocks[1:], strict=True):
            self.encoders.append(
                nn.Sequential(ConvBlock(before, width, 2), *(Residual(width) for _ in range(n)))
            )
        self.reduce = nn.ModuleList()
        self.decoders = nn.ModuleList()
        for before, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.reduce.append(ConvBlock(before, width, kernel=1))
            self.decoders.append(nn.Sequential(ConvBlock(width, width), ConvBlock(width, width)))
        self.mask_head = nn.Sequential(
            nn.Conv2d(widths[0], 4 * MASK_CHANNELS, 1), nn.PixelShuffle(2)
        )
        self.vector_head = nn.Sequential(
            ConvBlock(widths[0], 48, kernel=1), nn.Conv2d(48, VECTOR_CHANNELS, 1)
        )

        # Which way is up is seen in the large: the coarse scales answer it, and are told off for it.
        self.coarse_heads = nn.ModuleList(nn.Conv2d(width, 3, 1) for width in widths[-2:])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Mask logits and vectors; in training also the cranial direction at 1/16 and 1/32."""
        x = self.stem(x)
        skips = []
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
        for reduce, decoder, skip in zip(self.reduce, self.decoders, skips[-2::-1], strict=True):
            up = nn.functional.interpolate(reduce(x), scale_factor=2.0, mode="nearest")
            x = decoder(up + skip)
        coarse = [head(skip) for head, skip in zip(self.coarse_heads, skips[-2:], strict=True)]
        masks, vectors = self.mask_head(x), self.vector_head(x)
        # The fine scale only adds to what the coarse ones say of the cranial direction.
        for answer in coarse:
            up = nn.functional.interpolate(answer, size=vectors.shape[-2:], mode="bilinear")
            vectors = torch.cat([vectors[:, :3], vectors[:, 3:6] + up, vectors[:, 6:]], dim=1)
        return (masks, vectors, *coarse) if self.training else (masks, vectors)


class TorchNetwork:
    """A network in training behind the interface of `spine_perception.core.inference.Network`."""

    provider = "torch"
    model_sha256 = ""

    def __init__(self, net: SpineUNet) -> None:
        self._net = net.eval()

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            batch = torch.from_numpy(x).to(memory_format=torch.channels_last)
            masks, vectors = self._net(batch)
        return masks[0].float().numpy(), vectors[0].float().numpy()
