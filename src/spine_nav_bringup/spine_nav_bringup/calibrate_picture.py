# SPDX-License-Identifier: Apache-2.0
"""What a calibration leaves, drawn: where in the image, and in which view."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from rod_bending_ar.pictures import INK, STYLE
from spine_perception.core.calibrate_camera import CameraFound
from spine_perception.core.calibrate_stereo import StereoFound
from spine_perception.core.coverage import Trouble
from spine_perception.core.lens import Left

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_ARROW = 0.05  # of the image's width, for the 95th percentile
_LOST = "#f0604d"
_BAR = "#5b8fd9"


def draw_residuals(path: Path, found: CameraFound | StereoFound) -> None:
    """Arrows from every corner to where its calibration (of the other views) has it, over how often each
    part was shown; RMS per view, and the views that were left out."""
    camera = found.calibration.cameras[0]
    size = (camera.width, camera.height)
    if isinstance(found, StereoFound):
        eyes = {
            "left": [(n, a) for n, a, _ in found.left],
            "right": [(n, b) for n, _, b in found.left],
        }
    else:
        eyes = {"": list(found.left)}
    seen = found.seen if isinstance(found, StereoFound) else (found.seen,)
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(
            1, len(eyes) + 1, figsize=(5.2 * (len(eyes) + 1), 4.6), layout="constrained"
        )
        for axis, (eye, left), shown in zip(axes, eyes.items(), seen):
            _arrows(axis, eye, left, size, shown)
        _bars(axes[-1], eyes, found.dropped)
        t = found.calibration.told
        fig.suptitle(
            f"{t['board']}, {t['model']}: {t['held_out_px']['rms']} px,"
            f" {t['held_out_mm']['rms']} mm (RMS) on views that took no part"
        )
        fig.savefig(path, dpi=90)
        plt.close(fig)


def _arrows(
    axis: Any, eye: str, left: Sequence[tuple[str, Left]], size: tuple[int, int], seen: np.ndarray
) -> None:
    at = np.concatenate([x.at_px for _, x in left])
    off = np.concatenate([x.px for _, x in left])
    length = np.linalg.norm(off, axis=1)
    usual = max(float(np.percentile(length, 95)), 1e-6)
    times = _ARROW * size[0] / usual
    axis.imshow(
        seen, extent=(0, size[0], size[1], 0), cmap="Greys", vmin=0, vmax=3 * max(seen.max(), 1),
        interpolation="nearest",
    )  # fmt: skip
    arrows = axis.quiver(
        *at.T, *(times * off).T, length, angles="xy", scale_units="xy", scale=1, width=0.003,
        cmap="viridis", clim=(0, usual),
    )  # fmt: skip
    axis.figure.colorbar(arrows, ax=axis, label="px", shrink=0.75)
    axis.set(
        xlim=(0, size[0]), ylim=(size[1], 0), title=f"{eye} residuals, {times:.0f} times".strip()
    )
    axis.set_aspect("equal")


def _bars(axis: Any, eyes: dict[str, list[tuple[str, Left]]], dropped: Sequence[Trouble]) -> None:
    names = [n for n, _ in next(iter(eyes.values()))]
    rms = [
        np.sqrt(np.mean([left[i][1].rms_px ** 2 for left in eyes.values()]))
        for i in range(len(names))
    ]
    out = [f"{t.view}" for t in dropped][: max(0, 60 - len(names))]
    rows = np.arange(len(names) + len(out))
    axis.barh(rows[: len(names)], rms, color=_BAR)
    axis.set_yticks(
        rows,
        [_short(n) for n in [*names, *out]],
        fontsize=max(3.5, min(8, 260 / max(len(rows), 1))),
    )
    for label in axis.get_yticklabels()[len(names) :]:
        label.set_color(_LOST)
    for row in rows[len(names) :]:
        axis.text(0, row, " left out", color=_LOST, va="center", fontsize=6)
    axis.axvline(float(np.median(rms)), color=INK, linewidth=0.8)
    axis.invert_yaxis()
    axis.set(xlabel="px RMS of the view's corners, from a fit without it", title="views")


def _short(name: str) -> str:
    return name if len(name) < 28 else "…" + name[-26:]
