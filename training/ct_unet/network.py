# SPDX-License-Identifier: Apache-2.0
"""The CT U-Net: (B, 3, n, n, n) features to (B, 3, n, n, n) mask logits and (B, 3, n/2, n/2, n/2)
vectors; see `spine_planning.core.ct_network`."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from spine_planning.core.ct_network import CHANNELS, MASKS


class ConvBlock(nn.Sequential):
    """3x3x3 convolution, batch norm (folded at export), ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv3d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm3d(c_out),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two 3x3x3 convolutions around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.conv = nn.Conv3d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm(self.conv(self.first(x))))


def fold(x: torch.Tensor) -> torch.Tensor:
    """(B, C, 2d, 2h, 2w) to (B, 8 C, d, h, w)."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, c, d // 2, 2, h // 2, 2, w // 2, 2)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, 8 * c, d // 2, h // 2, w // 2)


def unfold(x: torch.Tensor) -> torch.Tensor:
    """The way back: (B, 8 C, d, h, w) to (B, C, 2d, 2h, 2w)."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, c // 8, 2, 2, 2, d, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // 8, 2 * d, 2 * h, 2 * w)


class CtUNet(nn.Module):
    """Widths per scale of 4, 8, 16 and 32 mm; skips are added. Everything runs at 4 mm or coarser,
    since one CPU core trains it; for the masks' last word each cell sees its 2 mm voxels again."""

    def __init__(self, widths: tuple[int, ...] = (16, 40, 72, 112)) -> None:
        super().__init__()
        first = widths[0]
        self.stem = ConvBlock(8 * len(CHANNELS), first)
        self.encoders = nn.ModuleList([ConvBlock(first, first)])
        for before, width, n in zip(widths[:-1], widths[1:], (1, 1, 2), strict=True):
            self.encoders.append(
                nn.Sequential(ConvBlock(before, width, 2), *(Residual(width) for _ in range(n)))
            )
        self.reduce = nn.ModuleList()
        self.decoders = nn.ModuleList()
        for before, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.reduce.append(ConvBlock(before, width, kernel=1))
            self.decoders.append(ConvBlock(width, width))
        self.vector_head = nn.Sequential(ConvBlock(first, 24, kernel=1), nn.Conv3d(24, 3, 1))
        self.sharp = ConvBlock(first + 8 * len(CHANNELS), 32)
        self.mask_head = nn.Conv3d(32, 8 * len(MASKS), 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        skips = []
        voxels = fold(x)
        y = self.stem(voxels)
        for encoder in self.encoders:
            y = encoder(y)
            skips.append(y)
        for reduce, decoder, skip in zip(self.reduce, self.decoders, skips[-2::-1], strict=True):
            up = nn.functional.interpolate(reduce(y), scale_factor=2.0, mode="nearest")
            y = decoder(up + skip)
        masks = self.mask_head(self.sharp(torch.cat([y, voxels], 1)))
        return unfold(masks), self.vector_head(y)


class TorchNetwork:
    """A network in training as `spine_planning.core.ct_network.CtNetwork`."""

    def __init__(self, net: CtUNet) -> None:
        self._net = net.eval()

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            masks, vectors = self._net(torch.from_numpy(x))
        return masks[0].float().numpy(), vectors[0].float().numpy()
