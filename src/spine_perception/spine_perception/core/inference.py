# SPDX-License-Identifier: Apache-2.0
"""The model file: found, checked against its card, and run by a back-end."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Protocol

import numpy as np

from .backends import AUTO, BackendError, load_backend
from .features import CENTRE_SCALE_M, CHANNELS
from .grid import GRID_SIZE

MODEL_NAME = "spine_unet.onnx"
MODEL_VARIABLE = "SPINENAV_MODEL"
SPINE_INPUT = {"size": GRID_SIZE, "channels": list(CHANNELS), "centre_scale_m": CENTRE_SCALE_M}


class ModelError(ValueError):
    """The model cannot be used: says the file, what is wrong and the remedy."""


class Network(Protocol):
    """What the segmenter needs of a network; tests put a small fake here."""

    provider: str
    model_sha256: str

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x (1, C, n, n) float32 to mask logits (2, n, n) and vectors (9, n/2, n/2)."""
        ...


def find_model(name: str = MODEL_NAME, variable: str = MODEL_VARIABLE) -> Path:
    """The model file: $`variable`, an installed share folder, or the repository's models/."""
    named = os.environ.get(variable)
    if named:
        return Path(named)
    above = Path(__file__).resolve().parents  # a pip or colcon prefix, or the repository, is there
    tried = [p / "share" / "spine_perception" / "models" for p in above]
    tried += [p / "models" for p in above]
    for folder in tried:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(
        f"{name}: not found in the installation or the repository's models/; "
        f"reinstall, or set {variable} to the file"
    )


def read_card(model: Path, expected_input: dict | None = None) -> dict:
    """The model's JSON card; raises ModelError if it is missing, broken or for other inputs.

    expected_input: what the card's field `input` must say; default the spine U-Net's.
    """
    expected = SPINE_INPUT if expected_input is None else expected_input
    card_path = model.with_suffix(".json")
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{card_path}: missing, so the model cannot be verified; "
            "restore it or run its export script in training/"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(
            f"{card_path}: unreadable ({error}); run its export script in training/"
        ) from error
    if card.get("input") != expected:
        raise ModelError(
            f"{card_path}: field input is {card.get('input')}, this version needs {expected}; "
            "use the model that came with this version"
        )
    return card


class OnnxModel:
    """An ONNX model with fixed shapes and one input `x`, verified against its card and loaded.

    expected_input: as in `read_card`; backend: one of `backends.BACKENDS`; threads: of the network,
    default one. Raises ModelError if the file is missing, is not the one its card describes, or the
    back-end does not load it.
    """

    def __init__(
        self, model: Path, expected_input: dict, backend: str = AUTO, threads: int | None = None
    ) -> None:
        try:
            data = model.read_bytes()
        except OSError as error:
            raise ModelError(f"{model}: {error.strerror}; give the path of the model") from error
        self.card = read_card(model, expected_input)
        self.model_sha256 = hashlib.sha256(data).hexdigest()
        if self.card.get("sha256") != self.model_sha256:
            raise ModelError(
                f"{model}: sha256 {self.model_sha256[:12]}… is not the card's "
                f"{str(self.card.get('sha256'))[:12]}…; the file is damaged or replaced: "
                "restore both from the repository or run its export script in training/"
            )
        int8, int8_sha256 = self._int8(model)
        try:
            self._backend = load_backend(data, backend, threads, int8=int8)
        except BackendError as error:
            raise ModelError(
                f"{model}: back-end {backend} does not load it: {error}; choose another with "
                "--backend, or run its export script in training/ with this version"
            ) from error
        self.provider = self._backend.provider
        if "int8" in self.provider.split("(")[0]:
            self.model_sha256 = int8_sha256

    def _int8(self, model: Path) -> tuple[bytes | None, str]:
        """The quantised version of this model and its hash; None where the card names none."""
        named = self.card.get("int8") or {}
        sha256 = str(named.get("sha256", ""))
        if not sha256 or named.get("of") != self.model_sha256:  # of weights that were replaced
            return None, ""
        path = model.with_suffix(".int8.onnx")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(
                f"{path}: {error.strerror}, but the model's card names it; restore it or run "
                "training/spine_unet/quantise.py"
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ModelError(
                f"{path}: sha256 {found[:12]}… is not the card's {sha256[:12]}…; the file is damaged "
                "or replaced: restore both or run training/spine_unet/quantise.py"
            )
        return data, sha256

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """All outputs in the model's order."""
        return self._backend.run(x)


class OnnxNetwork(OnnxModel):
    """The U-Net; arguments and errors as `OnnxModel`."""

    def __init__(self, model: Path, backend: str = AUTO, threads: int | None = None) -> None:
        super().__init__(model, SPINE_INPUT, backend, threads)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        masks, vectors = self.run(x)
        return masks[0], vectors[0]
