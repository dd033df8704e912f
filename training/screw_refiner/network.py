# SPDX-License-Identifier: Apache-2.0
"""The refiners: paired normalised crops (B, 2, n, n) to answers, see OUTPUTS in the core's modules.

Both share the plan: one encoder for either eye with shared weights, then the eyes together.
Places are a vote: every cell gives its own answer and a weight, so that the answer moves with the
picture and a covered part can be left out.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from stereo_screw_tracker.core import refiner, rod_refiner
from training.spine_unet.network import ConvBlock, Residual

UNIT_PX = 8.0  # the networks answer in this unit, so that outputs are near one


def eye_features(encoder: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of the left and of the right eye from one encoder."""
    both = encoder(torch.cat([x[:, :1], x[:, 1:]]))
    return both[: len(x)], both[len(x) :]


class Correlation(nn.Module):
    """(B, 2*reach + 1, h, w): likeness of left to right, right shifted by -reach to reach cells."""

    def __init__(self, channels: int, width: int, reach: int, narrow: int = 8) -> None:
        super().__init__()
        self.reach = reach
        self.project = nn.Sequential(
            nn.Conv2d(channels, narrow, 1, bias=False), nn.BatchNorm2d(narrow)
        )
        cell = torch.arange(width)[None, :] * (width + 2 * reach + 1)
        band = cell + torch.arange(2 * reach + 1)[:, None]
        self.register_buffer("band", band.flatten(), persistent=False)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        both = self.project(torch.cat([left, right]))
        n, c, h, w = left.shape
        left, right = both[:n], functional.pad(both[n:], (self.reach, self.reach, 0, 0))
        # One product per image row holds every pair of cells; the band holds those within reach.
        every = torch.matmul(left.permute(0, 2, 3, 1), right.permute(0, 2, 1, 3)) / c
        near = every.flatten(2).index_select(2, self.band)
        return near.reshape(n, h, 2 * self.reach + 1, w).permute(0, 2, 1, 3)


class HeadNet(nn.Module):
    """(B, 2, 48, 48) to (B, 13)."""

    def __init__(self, narrow: int = 24, wide: int = 48, deep: int = 96, reach: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            ConvBlock(4, narrow),
            Residual(narrow),
            ConvBlock(narrow, narrow),
            Residual(narrow),
        )
        self.correlation = Correlation(narrow, refiner.CROP_SIZE // 2, reach)
        self.join = nn.Sequential(
            ConvBlock(2 * narrow + 2 * reach + 1, wide, 2), *(Residual(wide) for _ in range(3))
        )
        self.deepen = nn.Sequential(ConvBlock(wide, deep, 2), *(Residual(deep) for _ in range(3)))
        self.widen = ConvBlock(deep, wide, kernel=1)
        self.vote = nn.Sequential(ConvBlock(wide, wide), nn.Conv2d(wide, 8, 1))
        cells = refiner.CROP_SIZE // 8
        self.whole = nn.Sequential(
            ConvBlock(deep, 32, kernel=1),
            nn.Flatten(),
            nn.Linear(32 * cells * cells, 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, 9),
        )
        n = refiner.CROP_SIZE // 4
        place = ((torch.arange(n) - (n - 1) / 2) * 4 / UNIT_PX).float()
        self.register_buffer(
            "place",
            torch.stack(
                [
                    place[None, :].expand(n, n),
                    place[:, None].expand(n, n),
                    torch.zeros(n, n),
                    torch.zeros(n, n),
                ]
            )[None],
            persistent=False,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = eye_features(self.encoder, x)
        x = self.join(torch.cat([left, right, self.correlation(left, right)], dim=1))
        deep = self.deepen(x)
        up = functional.interpolate(self.widen(deep), scale_factor=2.0, mode="nearest")
        votes = self.vote(x + up).float()
        weight = torch.softmax(votes[:, 4:].flatten(2), dim=2)
        answer = (votes[:, :4] + self.place).flatten(2)
        shift = (weight * answer).sum(dim=2) * UNIT_PX
        # How far the votes differ is the best hint of how wrong their mean is.
        spread = (weight * (answer * UNIT_PX - shift[:, :, None]).abs()).sum(dim=2)
        whole = self.whole(deep).float()
        log_width = (whole[:, :4] + 0.5 * torch.log(spread + 0.02)).clamp(-5.0, 4.0)
        axis = whole[:, 4:7] - torch.tensor([0.0, 0.0, 1.0])
        axis = axis / axis.norm(dim=1, keepdim=True).clamp(min=1e-3)
        log_axis = whole[:, 7:8].clamp(-6.0, 1.0)
        return torch.cat([shift, log_width, axis, log_axis, whole[:, 8:9]], dim=1)


class RodNet(nn.Module):
    """(B, 2, 32, 32) to (B, 2, 3), the eyes alike: swapping them swaps the answers."""

    def __init__(self, narrow: int = 16, wide: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            ConvBlock(4, narrow),
            Residual(narrow),
            ConvBlock(narrow, wide, 2),
            Residual(wide),
        )
        self.join = nn.Sequential(ConvBlock(2 * wide, wide, kernel=1), Residual(wide))
        self.vote = nn.Conv2d(wide, 2, 1)
        n = rod_refiner.CROP_SIZE // 4
        self.whole = nn.Sequential(
            ConvBlock(wide, 8, kernel=1),
            nn.Flatten(),
            nn.Linear(8 * n * n, 64),
            nn.ReLU(inplace=True),
            nn.Linear(64, 2),
        )
        place = ((torch.arange(n) - (n - 1) / 2) * 4 / UNIT_PX).float()
        self.register_buffer(
            "place", place[None, None, :].expand(1, n, n).clone(), persistent=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = eye_features(self.encoder, x)
        both = torch.cat([torch.cat([left, right], dim=1), torch.cat([right, left], dim=1)])
        both = self.join(both)
        votes = self.vote(both).float()
        weight = torch.softmax(votes[:, 1].flatten(1), dim=1)
        answer = (votes[:, 0] + self.place).flatten(1)
        offset = (weight * answer).sum(dim=1, keepdim=True) * UNIT_PX
        spread = (weight * (answer * UNIT_PX - offset).abs()).sum(dim=1, keepdim=True)
        whole = self.whole(both).float()
        log_width = (whole[:, :1] + 0.5 * torch.log(spread + 0.02)).clamp(-5.0, 4.0)
        out = torch.cat([offset, log_width, whole[:, 1:]], dim=1)
        return torch.stack([out[: len(x)], out[len(x) :]], dim=1)


class TorchRefiner:
    """A network in training behind the interface of `stereo_screw_tracker.core.refiner`."""

    def __init__(self, net: nn.Module) -> None:
        self._net = net.eval()

    def run(self, x: torch.Tensor) -> list[torch.Tensor]:
        """As `BatchNetwork.run`."""
        with torch.no_grad():
            return [self._net(torch.from_numpy(x)).float().numpy()]
