# SPDX-License-Identifier: Apache-2.0
"""Back-ends: the machine decides, the answer is the same, and a fallback says why."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from spine_nav_common.core.cpu import cpu_flags, cpu_name
from spine_perception.core import backends
from spine_perception.core.backends import BackendError, choose, load_backend
from spine_perception.core.features import N_CHANNELS
from spine_perception.core.grid import GRID_SIZE
from spine_perception.core.inference import ModelError, find_model

CPU = "CPUExecutionProvider"
BF16 = frozenset({"avx2", "amx_bf16"})
try:
    MODEL = find_model().read_bytes()
except ModelError as error:
    pytest.skip(str(error), allow_module_level=True)


def no_openvino(name: str):
    raise ImportError(f"No module named {name!r}")


@pytest.fixture(scope="module")
def x():
    shape = (1, N_CHANNELS, GRID_SIZE, GRID_SIZE)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def expected(x):
    return load_backend(MODEL, backends.ONNX_FP32).run(x)


@pytest.mark.parametrize(
    ("flags", "providers", "names"),
    [
        (BF16, [CPU], ("openvino-bf16", "onnxruntime-fp32")),
        ({"avx512_bf16"}, [CPU], ("openvino-bf16", "onnxruntime-fp32")),
        ({"avx2", "avx512_vnni"}, [CPU], ("openvino-int8", "openvino-fp32", "onnxruntime-fp32")),
        ({"avx_vnni"}, [CPU], ("openvino-int8", "openvino-fp32", "onnxruntime-fp32")),
        ({"avx2"}, [CPU], ("openvino-fp32", "onnxruntime-fp32")),
        (set(), [CPU], ("openvino-fp32", "onnxruntime-fp32")),
        (
            BF16,
            ["CUDAExecutionProvider", CPU],
            ("onnxruntime-gpu", "openvino-bf16", "onnxruntime-fp32"),
        ),
    ],
)
def test_the_machine_decides(flags, providers, names):
    choice = choose(frozenset(flags), providers)
    assert choice.names == names
    assert choice.reason


def test_int8_is_refused_without_a_quantised_model_and_runs_with_one():
    with pytest.raises(BackendError, match="no int8 version"):
        load_backend(MODEL, backends.OPENVINO_INT8)
    pytest.importorskip("openvino")
    # Any model will do to see that it is this one that runs.
    loaded = load_backend(b"no model", backends.OPENVINO_INT8, int8=MODEL)
    assert loaded.provider == "OpenVINO int8"


def test_flags_are_read_from_intel_and_arm_and_their_absence_is_survived(tmp_path):
    for text, flags in (
        ("processor : 0\nflags\t\t: fpu avx512_bf16\n", {"fpu", "avx512_bf16"}),
        ("processor : 0\nFeatures\t: fp asimd bf16\n", {"fp", "asimd", "bf16"}),
        ("nothing\n", set()),
    ):
        file = tmp_path / f"cpuinfo{len(flags)}"
        file.write_text(text)
        assert cpu_flags(file) == flags
    assert cpu_flags(tmp_path / "none") == frozenset()
    assert cpu_name(tmp_path / "none") is not None


def test_without_openvino_onnx_runtime_computes_and_the_reason_is_told(x, expected):
    loaded = load_backend(MODEL, flags=BF16, importer=no_openvino)
    assert loaded.provider.startswith("CPUExecutionProvider fp32 (openvino-bf16: OpenVINO cannot")
    assert all(a.tobytes() == b.tobytes() for a, b in zip(loaded.run(x), expected, strict=True))


def test_an_openvino_that_fails_falls_back_and_a_named_one_is_refused():
    class Core:
        def get_property(self, *_):
            return ["BF16"]

        def read_model(self, data):
            return data

        def compile_model(self, *_):
            raise RuntimeError("Exception from core.cpp:1:\nno such primitive")

    fake = SimpleNamespace(Core=Core, __version__="1.0")
    loaded = load_backend(MODEL, flags=BF16, importer=lambda _: fake)
    assert "(openvino-bf16: OpenVINO 1.0: no such primitive)" in loaded.provider
    with pytest.raises(BackendError, match="no such primitive"):
        load_backend(MODEL, backends.OPENVINO_FP32, importer=lambda _: fake)


def test_bf16_is_refused_where_the_cpu_would_only_emulate_it():
    core = SimpleNamespace(get_property=lambda *_: ["FP32"])
    fake = SimpleNamespace(Core=lambda: core, __version__="1.0")
    with pytest.raises(BackendError, match="no bf16 units"):
        load_backend(MODEL, backends.OPENVINO_BF16, importer=lambda _: fake)


def test_a_gpu_build_without_its_gpu_goes_on_with_the_cpu(monkeypatch):
    monkeypatch.setattr(
        backends.ort, "get_available_providers", lambda: ["TensorrtExecutionProvider", CPU]
    )
    monkeypatch.setattr(
        backends.ort,
        "InferenceSession",
        lambda *_, **__: SimpleNamespace(get_providers=lambda: [CPU]),
    )
    loaded = load_backend(MODEL, flags=frozenset(), importer=no_openvino)
    assert loaded.provider.startswith("CPUExecutionProvider fp32 (onnxruntime-gpu: Tensorrt")
    with pytest.raises(BackendError, match="does not answer"):
        load_backend(MODEL, backends.ONNX_GPU)


@pytest.mark.parametrize(("name", "far"), [("openvino-fp32", 1e-3), ("openvino-bf16", 0.5)])
def test_openvino_answers_as_onnx_runtime_does_and_the_same_bytes_each_time(x, expected, name, far):
    pytest.importorskip("openvino")
    try:
        first, second = load_backend(MODEL, name), load_backend(MODEL, name)
    except BackendError as error:
        pytest.skip(str(error))
    answers = first.run(x)
    kept = [a.copy() for a in answers]
    for a, b in zip(answers, expected, strict=True):
        assert a.dtype == np.float32
        assert np.abs(a - b).max() < far
    first.run(np.zeros_like(x))  # what was handed out is not written over
    assert all(a.tobytes() == b.tobytes() for a, b in zip(answers, kept, strict=True))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(second.run(x), kept, strict=True))
