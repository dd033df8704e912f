# SPDX-License-Identifier: Apache-2.0
"""Numbers on views of anatomies that training never saw, with sensor faults, no augmentation.

    python training/evaluate.py models/spine_unet.onnx --data training/data/validation
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from dataset import Sample, View, central_grid, find_views, load_view, make_sample
from spine_perception.core.features import roll_of
from spine_perception.core.grid import GRID_SIZE, Grid, camera_points, sample_depth
from spine_perception.core.instances import assign_cells, find_instances
from spine_perception.core.segmenter import segmentation_of

Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
MIN_CELLS = 80  # an instance that shows less is not counted as one to be found
MATCH_M = 0.015


def evaluate(network: object, folder: Path, limit: int = 0) -> dict[str, float]:
    """Bone and clean IoU, centre error mm, axis error deg, instance recall and precision.

    `network` is a torch module or a callable on (1, C, n, n) arrays. The same seed every time.
    """
    run = _as_callable(network)
    paths = [p for p in find_views(folder) if load_view(p).instance.any()]
    if limit and len(paths) > limit:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).astype(int)]
    if not paths:
        raise FileNotFoundError(f"{folder}: no views with bone; run training/generate.py")
    overlap = np.zeros((2, 2))
    rows: list[dict[str, float]] = []
    missed = extra = 0
    for index, path in enumerate(paths):
        view = load_view(path)
        affine = central_grid(view, GRID_SIZE)
        sample = make_sample(view, affine, GRID_SIZE, np.random.default_rng(index), augment=False)
        masks, vectors = run(sample.x[None])
        for k, truth in enumerate((sample.bone, sample.clean)):
            said = (masks[k] > 0) & (sample.weight > 0)
            overlap[k] += (said & (truth > 0)).sum(), (said | (truth > 0)).sum()
        found, lost, wrong = _compare(view, affine, sample, masks, vectors)
        rows += found
        missed += lost
        extra += wrong
    report = {
        "views": len(paths),
        "bone_iou": overlap[0, 0] / max(1.0, overlap[0, 1]),
        "clean_iou": overlap[1, 0] / max(1.0, overlap[1, 1]),
        "instances": len(rows) + missed,
        "recall": len(rows) / max(1, len(rows) + missed),
        "precision": len(rows) / max(1, len(rows) + extra),
    }
    for name in ("centre_mm", "rotation_deg", "cranial_deg", "dorsal_deg", "vote_mm"):
        values = [r[name] for r in rows]
        if values:
            report[f"{name}_median"] = float(np.median(values))
            report[f"{name}_p95"] = float(np.percentile(values, 95))
    return {k: round(float(v), 4) for k, v in report.items()}


def _compare(
    view: View, affine: np.ndarray, sample: Sample, masks: np.ndarray, vectors: np.ndarray
) -> tuple[list[dict[str, float]], int, int]:
    if roll_of(affine) != 0.0:
        raise ValueError("evaluation needs a grid without roll")
    k = view.intrinsics
    grid = Grid(affine[0, 0], affine[0, 2], affine[1, 2])
    depth = sample_depth(view.depth_m, affine, GRID_SIZE)
    depth[sample.weight == 0] = np.nan
    points, x, y = camera_points(depth, affine, k)
    seg = segmentation_of(masks, vectors, points, x, y, grid)
    instances = find_instances(seg)
    owner = assign_cells(seg, instances)
    rows, taken, missed = [], set(), 0
    for row in range(len(view.centre_m)):
        mine = sample.instance == row + 1
        if mine.sum() < MIN_CELLS:
            # Small ones need not be found, but finding them is no error.
            near = [i for i, inst in enumerate(instances)
                    if np.linalg.norm(inst.centre_m - view.centre_m[row]) < MATCH_M]
            taken.update(near)
            continue
        free = [i for i in range(len(instances)) if i not in taken]
        miss = [np.linalg.norm(instances[i].centre_m - view.centre_m[row]) for i in free]
        if not free or min(miss) > MATCH_M:
            missed += 1
            continue
        best = free[int(np.argmin(miss))]
        taken.add(best)
        inst = instances[best]
        cranial, dorsal = view.cranial[row], view.dorsal[row]
        truth = np.column_stack([np.cross(dorsal, cranial), dorsal, cranial])
        cosine = (np.trace(truth.T @ inst.R_camera_anatomy) - 1) / 2
        votes = seg.centre_m[mine & (seg.bone > 0.5)]
        rows.append({
            "centre_mm": min(miss) * 1e3,
            "rotation_deg": _degrees(cosine),
            "cranial_deg": _degrees(inst.R_camera_anatomy[:, 2] @ cranial),
            "dorsal_deg": _degrees(inst.R_camera_anatomy[:, 1] @ dorsal),
            "vote_mm": float(np.nanmedian(
                np.linalg.norm(votes - view.centre_m[row], axis=1)) * 1e3) if len(votes) else 99.0,
            "share": float((owner[mine] == best).mean()),
        })
    return rows, missed, len(instances) - len(taken)


def _degrees(cosine: float) -> float:
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _as_callable(network: object) -> Network:
    if not hasattr(network, "parameters"):
        return network  # type: ignore[return-value]
    import torch

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            batch = torch.from_numpy(x).to(memory_format=torch.channels_last)
            masks, vectors = network(batch)
        return masks[0].float().numpy(), vectors[0].float().numpy()

    return run


def main() -> None:
    """Evaluate an exported model."""
    from spine_perception.core.inference import OnnxNetwork

    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model", type=Path)
    p.add_argument("--data", type=Path, default=Path("training/data/validation"))
    p.add_argument("--limit", type=int, default=0)
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    cv2.setNumThreads(1)
    network = OnnxNetwork(args.model, threads=args.threads)
    print(json.dumps(evaluate(network, args.data, args.limit)))


if __name__ == "__main__":
    main()


