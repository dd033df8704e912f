# SPDX-License-Identifier: Apache-2.0
"""The screw finder: a reference view and the other view of a rectified pair to maps and volumes.

Both views pass the same encoder; features at stride 8 are correlated along the row, so that a cell
knows how well each disparity fits before the decoder looks at shape and surroundings. `mono` leaves
the other view out: the peer that detects in each image alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from stereo_screw_tracker.core.finder_grid import BINS, CELLS_HIGH, CELLS_WIDE, MAPS
from training.spine_unet.network import ConvBlock, Residual

CORRELATED = 32  # channels of the unit vectors that are compared


class Correlation(nn.Module):
    """(B, C, H, W) unit features of both views to (B, BINS, H, W) cosines, disparity 0 first.

    One matrix product per row gives every pair of columns; the diagonals that are disparities are
    then sheared into channels. That is faster than BINS shifted products, in ONNX Runtime too.
    """

    def forward(self, reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        b, c, h, w = reference.shape
        rows = reference.permute(0, 2, 3, 1).reshape(b * h, w, c)
        columns = other.permute(0, 2, 1, 3).reshape(b * h, c, w)
        table = torch.matmul(rows, columns)  # [row, x, x']
        wide = w + BINS - 1
        table = nn.functional.pad(table, (BINS - 1, 0)).reshape(b * h, w * wide)
        table = nn.functional.pad(table, (0, w)).reshape(b * h, w, wide + 1)[:, :, :BINS]
        table = table.reshape(b, h, w, BINS).permute(0, 3, 1, 2)
        return table.flip(1)  # the shear counts from the largest disparity down


class ScrewFinder(nn.Module):
    """Input (B, 2, 480, 640), reference view first; outputs at 60 x 80 cells, see finder_grid.

    maps (B, len(MAPS), 60, 80); head_volume, rod_volume (B, BINS, 60, 80): logits of the disparity.
    """

    def __init__(self, mono: bool = False, widths: tuple[int, ...] = (24, 32, 48, 80, 112)) -> None:
        super().__init__()
        stem, shared, fine, middle, coarse = widths
        self.mono = mono
        self.encoder = nn.Sequential(
            # Every pixel is seen, but only a fourth of the columns and rows is computed on.
            nn.PixelUnshuffle(4),
            ConvBlock(16, stem),
            Residual(stem),
            ConvBlock(stem, shared, 2),
            Residual(shared),
            Residual(shared),
        )
        joined = shared
        if not mono:
            self.project = nn.Conv2d(shared, CORRELATED, 1, bias=False)
            self.correlation = Correlation()
            # A cosine of 0.1 more is already much: the decoder sees them spread.
            self.spread = nn.Parameter(torch.tensor(6.0))
            joined += BINS
        self.join = nn.Sequential(
            ConvBlock(joined, fine, kernel=1), ConvBlock(fine, fine), Residual(fine)
        )
        self.down16 = nn.Sequential(ConvBlock(fine, middle, 2), Residual(middle), Residual(middle))
        self.down32 = nn.Sequential(
            ConvBlock(middle, coarse, 2), Residual(coarse), Residual(coarse)
        )
        self.up16 = nn.Sequential(ConvBlock(coarse, middle, kernel=1), Upsample())
        self.mix16 = ConvBlock(middle, middle)
        self.up8 = nn.Sequential(ConvBlock(middle, fine, kernel=1), Upsample())
        self.mix8 = nn.Sequential(ConvBlock(fine, fine), Residual(fine))
        self.maps = nn.Sequential(ConvBlock(fine, fine, kernel=1), nn.Conv2d(fine, len(MAPS), 1))
        for name in ("head", "rod"):
            if mono:
                continue
            self.add_module(f"{name}_volume", nn.Conv2d(fine, BINS, 1))
            self.register_parameter(f"{name}_trust", nn.Parameter(torch.tensor(4.0)))
        with torch.no_grad():  # begin with "nothing here", as nearly everywhere
            self.maps[-1].bias[MAPS.index("head")] = -4.0
            self.maps[-1].bias[MAPS.index("rod")] = -3.0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        b = x.shape[0]
        if self.mono:
            features = self.encoder(x[:, :1])
            joined, cosines = features, None
        else:
            both = self.encoder(torch.cat([x[:, :1], x[:, 1:]]))
            unit = nn.functional.normalize(self.project(both), dim=1)
            features = both[:b]
            cosines = self.correlation(unit[:b], unit[b:])
            joined = torch.cat([features, cosines * self.spread], dim=1)
        fine = self.join(joined)
        middle = self.down16(fine)
        middle = self.mix16(self.up16(self.down32(middle)) + middle)
        fine = self.mix8(self.up8(middle) + fine)
        maps = self.maps(fine)
        if self.mono:
            return (maps,)
        return (
            maps,
            self.head_volume(fine) + self.head_trust * cosines,
            self.rod_volume(fine) + self.rod_trust * cosines,
        )


class Upsample(nn.Module):
    """Twice the size by repetition: the cheapest, and the next convolution smooths it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


class TorchFinder:
    """A network in training behind `stereo_screw_tracker.core.finder.FinderNetwork`."""

    provider = "torch"
    model_sha256 = ""

    def __init__(self, net: ScrewFinder) -> None:
        self._net = net.eval()
        self.mono = net.mono

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            outputs = self._net(torch.from_numpy(x).to(memory_format=torch.channels_last))
        assert outputs[0].shape[-2:] == (CELLS_HIGH, CELLS_WIDE)
        return [o.float().numpy() for o in outputs]
