# SPDX-License-Identifier: Apache-2.0
"""Numbers of the whole segmenter on views of anatomies that training never saw.

    python -m training.spine_unet.evaluate models/spine_unet.onnx --data training/data/views/validation

The measured depth and the plain colour go through `Segmenter.run` without a hint: search, close
look, upright pass. A refused view counts as one in which nothing was found.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np

from spine_nav_common.core.types import Rejected, RgbdFrame
from spine_perception.core.backends import ONNX_FP32
from spine_perception.core.grid import GRID_SIZE, pixel_maps
from spine_perception.core.inference import Network, OnnxNetwork
from spine_perception.core.instances import find_instances
from spine_perception.core.segmenter import Segmentation, Segmenter
from training.spine_unet.dataset import View, find_views, load_view

MIN_CELLS = 80  # an instance that shows less is not counted as one to be found
MATCH_M = 0.015
CLEAN_LIMIT_M = 0.0004


def evaluate(network: Network, folder: Path, limit: int = 0) -> dict[str, float]:
    """Bone and clean IoU, centre error mm, axis errors deg, instance recall and precision."""
    paths = [p for p in find_views(folder) if load_view(p).instance.any()]
    if limit and len(paths) > limit:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).astype(int)]
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no views with bone; run python -m training.spine_unet.generate"
        )
    segmenter = Segmenter(network)
    overlap = np.zeros((2, 2))
    rows: list[dict[str, float]] = []
    missed = extra = refused = 0
    network_ms, run_ms = [], []
    for index, path in enumerate(paths):
        view = load_view(path)
        start = time.perf_counter()
        seg = segmenter.run(RgbdFrame(index, view.colour, view.measured_m, view.intrinsics))
        run_ms.append((time.perf_counter() - start) * 1e3)
        if isinstance(seg, Rejected):
            refused += 1
            missed += int((np.bincount(view.instance.ravel(), minlength=2)[1:] >= MIN_CELLS).sum())
            continue
        network_ms.append(segmenter.timings_ms["network"])
        instance, tissue = _truth_on(view, seg)
        for k, (said, truth) in enumerate(
            (
                (seg.bone, instance > 0),
                (seg.clean, (instance > 0) & (tissue < CLEAN_LIMIT_M)),
            )
        ):
            known = np.isfinite(seg.points_m[..., 2])
            overlap[k] += (
                ((said > 0.5) & truth & known).sum(),
                (((said > 0.5) | truth) & known).sum(),
            )
        found, lost, wrong = _compare(view, seg, instance)
        rows += found
        missed += lost
        extra += wrong
    report = {
        "views": len(paths),
        "refused": refused,
        "bone_iou": overlap[0, 0] / max(1.0, overlap[0, 1]),
        "clean_iou": overlap[1, 0] / max(1.0, overlap[1, 1]),
        "instances": len(rows) + missed,
        "recall": len(rows) / max(1, len(rows) + missed),
        "precision": len(rows) / max(1, len(rows) + extra),
        "wrong_way_round": float(np.mean([r["rotation_deg"] > 90 for r in rows] or [0.0])),
        "network_ms": float(np.median(network_ms or [0.0])),
        "run_ms": float(np.median(run_ms)),
    }
    for name in ("centre_mm", "rotation_deg", "cranial_deg", "dorsal_deg", "vote_mm"):
        values = [r[name] for r in rows]
        if values:
            report[f"{name}_median"] = float(np.median(values))
            report[f"{name}_p95"] = float(np.percentile(values, 95))
    return {k: round(float(v), 4) for k, v in report.items()}


def _truth_on(view: View, seg: Segmentation) -> tuple[np.ndarray, np.ndarray]:
    """Instance and tissue of the view at the cells of the segmentation's grid."""
    u, v = pixel_maps(seg.grid.affine(), GRID_SIZE)
    return (
        cv2.remap(view.instance, u, v, cv2.INTER_NEAREST, borderValue=0),
        cv2.remap(view.tissue_m, u, v, cv2.INTER_NEAREST, borderValue=1.0),
    )


def _compare(
    view: View, seg: Segmentation, instance: np.ndarray
) -> tuple[list[dict[str, float]], int, int]:
    """Rows of the vertebrae that were found, the number missed, the number found wrongly."""
    instances = find_instances(seg)
    measured = np.where(np.isfinite(seg.points_m[..., 2]), instance, 0)
    rows, taken, missed = [], set(), 0
    for row in range(len(view.centre_m)):
        mine = measured == row + 1
        miss = [float(np.linalg.norm(i.centre_m - view.centre_m[row])) for i in instances]
        if mine.sum() < MIN_CELLS:
            # Small ones need not be found, but finding them is no error.
            taken.update(i for i, m in enumerate(miss) if m < MATCH_M)
            continue
        free = [i for i in range(len(instances)) if i not in taken]
        best = min(free, key=lambda i: miss[i], default=None)
        if best is None or miss[best] > MATCH_M:
            missed += 1
            continue
        taken.add(best)
        R, cranial, dorsal = instances[best].R_camera_anatomy, view.cranial[row], view.dorsal[row]
        truth = np.column_stack([np.cross(dorsal, cranial), dorsal, cranial])
        votes = seg.centre_m[mine & (seg.bone > 0.5)]
        rows.append(
            {
                "centre_mm": miss[best] * 1e3,
                "rotation_deg": _degrees((np.trace(truth.T @ R) - 1) / 2),
                "cranial_deg": _degrees(R[:, 2] @ cranial),
                "dorsal_deg": _degrees(R[:, 1] @ dorsal),
                "vote_mm": float(
                    np.nanmedian(np.linalg.norm(votes - view.centre_m[row], axis=1)) * 1e3
                )
                if len(votes)
                else 99.0,
            }
        )
    return rows, missed, len(instances) - len(taken)


def _degrees(cosine: float) -> float:
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def main() -> None:
    """Evaluate an exported model."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model", type=Path)
    p.add_argument("--data", type=Path, default=Path("training/data/views/validation"))
    p.add_argument("--limit", type=int, default=0)
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    cv2.setNumThreads(1)
    network = OnnxNetwork(args.model, ONNX_FP32, args.threads)
    print(json.dumps(evaluate(network, args.data, args.limit)))


if __name__ == "__main__":
    main()
