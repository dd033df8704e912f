# SPDX-License-Identifier: Apache-2.0
"""The model file: verified before use, refused with a remedy, run the same way every time."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from spine_perception.core import inference
from spine_perception.core.features import N_CHANNELS
from spine_perception.core.grid import GRID_SIZE
from spine_perception.core.segmenter import ModelError, Segmenter

try:
    MODEL = inference.find_model()
except ModelError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture
def copy(tmp_path):
    """A model and its card that a test may damage."""
    shutil.copy(MODEL, tmp_path)
    shutil.copy(MODEL.with_suffix(".json"), tmp_path)
    return tmp_path / MODEL.name


def test_the_packaged_model_is_the_one_that_its_card_describes():
    segmenter = Segmenter.load()
    assert segmenter.model_sha256 == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    assert segmenter.provider.split()[1] in ("fp32", "bf16")
    segmenter.warm_up()


def test_the_network_is_deterministic_and_has_the_fixed_shapes():
    x = np.random.default_rng(0).normal(size=(1, N_CHANNELS, GRID_SIZE, GRID_SIZE))
    x = x.astype(np.float32)
    first, second = (inference.OnnxNetwork(MODEL)(x) for _ in range(2))
    assert first[0].shape == (2, GRID_SIZE, GRID_SIZE)
    assert first[1].shape == (9, GRID_SIZE // 2, GRID_SIZE // 2)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def test_a_model_with_one_wrong_byte_is_refused(copy):
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    with pytest.raises(ModelError, match=r"sha256 .* is not the card's .* restore"):
        Segmenter.load(copy)


def test_a_file_that_is_no_model_is_refused_even_if_its_hash_is_right(copy):
    copy.write_bytes(b"no model")
    card = json.loads(copy.with_suffix(".json").read_text())
    card["sha256"] = hashlib.sha256(b"no model").hexdigest()
    copy.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="does not load it"):
        Segmenter.load(copy)


def test_a_missing_model_or_card_is_refused(copy, tmp_path):
    with pytest.raises(ModelError, match=r"gone\.onnx.*give the path"):
        Segmenter.load(tmp_path / "gone.onnx")
    copy.with_suffix(".json").unlink()
    with pytest.raises(ModelError, match=r"\.json: missing"):
        Segmenter.load(copy)


def test_a_broken_card_is_refused(copy):
    copy.with_suffix(".json").write_text("{")
    with pytest.raises(ModelError, match="unreadable"):
        Segmenter.load(copy)


def test_an_int8_version_is_verified_against_the_card_too(copy):
    card = json.loads(copy.with_suffix(".json").read_text())
    quantised = copy.with_suffix(".int8.onnx")
    card["int8"] = {"sha256": card["sha256"], "of": card["sha256"]}
    copy.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"int8\.onnx: .*names it"):
        Segmenter.load(copy)
    quantised.write_bytes(b"another")
    with pytest.raises(ModelError, match=r"int8\.onnx: sha256 .* is not the card's"):
        Segmenter.load(copy)
    shutil.copy(copy, quantised)
    Segmenter.load(copy)
    quantised.unlink()
    card["int8"]["of"] = "0" * 64  # weights that were replaced since: their int8 version is none
    copy.with_suffix(".json").write_text(json.dumps(card))
    Segmenter.load(copy)


def test_a_model_for_other_inputs_is_refused(copy):
    card = json.loads(copy.with_suffix(".json").read_text())
    card["input"]["channels"].pop()
    copy.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="field input"):
        Segmenter.load(copy)


def test_an_unknown_back_end_is_refused_by_name():
    with pytest.raises(ModelError, match="'abacus' is no back-end; give one of auto, "):
        Segmenter.load(backend="abacus")


def test_the_environment_names_another_model(monkeypatch, tmp_path):
    monkeypatch.setenv(inference.MODEL_VARIABLE, str(tmp_path / "mine.onnx"))
    assert inference.find_model() == tmp_path / "mine.onnx"
