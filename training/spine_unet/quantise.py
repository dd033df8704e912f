# SPDX-License-Identifier: Apache-2.0
"""The int8 version of the U-Net, for CPUs without bf16 units: weights per channel, activations by
their range on views of training anatomies.

python -m training.spine_unet.quantise --model models/spine_unet.onnx, then judge it with
`spinenav bench --only precision`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from spine_nav_common.core.case import load_case
from spine_nav_common.core.recording import open_recording
from spine_nav_sim.core.operation import simulate
from spine_nav_sim.core.splits import anatomy_seeds
from spine_perception.core.backends import ONNX_FP32
from spine_perception.core.inference import OnnxNetwork
from spine_perception.core.segmenter import Segmenter
from spine_registration.core.navigator import Navigator
from training.onnx_export import git_commit

SEEDS, SECONDS, EVERY = (3, 7, 12), 2.0, 2


class _Listening:
    """The network in fp32; keeps what it is shown."""

    def __init__(self, network: OnnxNetwork) -> None:
        self._network, self.inputs = network, []
        self.provider, self.model_sha256 = network.provider, network.model_sha256

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.inputs.append(x.copy())
        return self._network(x)


class _Reader(CalibrationDataReader):
    def __init__(self, inputs: list[np.ndarray]) -> None:
        self._rest: Iterator[np.ndarray] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        x = next(self._rest, None)
        return None if x is None else {"x": x}


def views(model: Path, seeds: tuple[int, ...], work: Path) -> list[np.ndarray]:
    """What the network is shown in operations on training anatomies: searches and tracking."""
    allowed = anatomy_seeds("train")
    if not all(seed in allowed for seed in seeds):
        raise SystemExit(f"--seeds {seeds}: calibrate on the list train, {allowed} alone")
    network = _Listening(OnnxNetwork(model, ONNX_FP32))
    for seed in seeds:
        scene = work / str(seed)
        simulate(scene, None, seed, SECONDS)
        navigator = Navigator(load_case(scene / "case"), Segmenter(network))
        frames = open_recording(scene / "recording").rgbd_frames()
        for index, frame in enumerate(frames):
            if index % EVERY == 0:
                navigator.process(frame)
    return network.inputs


def quantise(model: Path, inputs: list[np.ndarray]) -> Path:
    """Write MODEL.int8.onnx; its weights take a quarter."""
    out = model.with_suffix(".int8.onnx")
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(out),
            _Reader(inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    return out


def main() -> None:
    """Quantise a model and name the result in its card."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", type=Path, default=Path("models/spine_unet.onnx"))
    p.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    args = p.parse_args()
    with TemporaryDirectory() as work:
        inputs = views(args.model, tuple(args.seeds), Path(work))
    out = quantise(args.model, inputs)
    card_path = args.model.with_suffix(".json")
    card = json.loads(card_path.read_text(encoding="utf-8"))
    card["int8"] = {
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "of": card["sha256"],
        "calibration": {"split": "train", "seeds": args.seeds, "views": len(inputs)},
        "commit": git_commit("spine_perception"),
    }
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {len(inputs)} views")


if __name__ == "__main__":
    main()
