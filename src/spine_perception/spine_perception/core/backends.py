# SPDX-License-Identifier: Apache-2.0
"""What computes the networks: ONNX Runtime (GPU or CPU) or OpenVINO (CPU), chosen by the machine.

The choice depends on the machine alone, never on a measured time, so that a second run on the same
machine computes the same bytes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np
import onnxruntime as ort

from spine_nav_common.core.cpu import cpu_flags

AUTO = "auto"
THREADS = 1
"""A second thread gains nothing on two cores, and the pose is solved beside the network."""
GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni"})
OPENVINO_BF16, OPENVINO_INT8, OPENVINO_FP32 = "openvino-bf16", "openvino-int8", "openvino-fp32"
ONNX_GPU, ONNX_FP32 = "onnxruntime-gpu", "onnxruntime-fp32"
BACKENDS = (AUTO, OPENVINO_BF16, OPENVINO_INT8, OPENVINO_FP32, ONNX_GPU, ONNX_FP32)
BACKEND_DOC = (
    "what computes the networks; auto = a GPU of ONNX Runtime, else OpenVINO in bf16 where the CPU "
    "has units for it, else in int8 where there is such a version and the CPU has units, else in fp32"
)
Importer = Callable[[str], ModuleType]


class BackendError(Exception):
    """A back-end cannot run a model here; says why."""


class Backend(Protocol):
    """A loaded model of one input `x` and fixed shapes. Not for several threads at once.

    provider: what computes and in which precision, for people.
    """

    provider: str

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """All outputs in the model's order, float32, the caller's own."""
        ...


class Choice(NamedTuple):
    """Back-ends in the order in which they are tried, and why the first is first."""

    names: tuple[str, ...]
    reason: str


def choose(flags: frozenset[str], providers: list[str]) -> Choice:
    """What `auto` tries on a CPU of these flags with an ONNX Runtime of these providers."""
    usable = [p for p in GPU_PROVIDERS if p in providers]
    bf16 = sorted(flags & BF16_FLAGS)
    if bf16:
        choice = Choice((OPENVINO_BF16, ONNX_FP32), f"the CPU has {' and '.join(bf16)}")
    elif flags & INT8_FLAGS:
        units = " and ".join(sorted(flags & INT8_FLAGS))
        names = (OPENVINO_INT8, OPENVINO_FP32, ONNX_FP32)
        choice = Choice(names, f"the CPU has no bf16 units, but {units}")
    else:
        choice = Choice((OPENVINO_FP32, ONNX_FP32), "the CPU has neither bf16 nor int8 units")
    if usable:
        return Choice((ONNX_GPU, *choice.names), f"ONNX Runtime has {', '.join(usable)}")
    return choice


def load_backend(
    model: bytes,
    name: str = AUTO,
    threads: int | None = None,
    flags: frozenset[str] | None = None,
    importer: Importer = importlib.import_module,
    int8: bytes | None = None,
) -> Backend:
    """The back-end `name` with this ONNX model; `auto` falls back, with the reason in `provider`.

    int8: the same model quantised, where there is one.

    Raises BackendError if a named back-end cannot run here, or none of those that auto tries.
    """
    if name not in BACKENDS:
        raise BackendError(f"'{name}' is no back-end; give one of {', '.join(BACKENDS)}")
    names: tuple[str, ...] = (name,)
    if name == AUTO:
        names = choose(cpu_flags() if flags is None else flags, ort.get_available_providers()).names
    refused: list[str] = []
    for candidate in names:
        try:
            data = int8 if candidate == OPENVINO_INT8 else model
            if data is None:
                raise BackendError("this model has no int8 version")
            loaded = _load(data, candidate, threads or THREADS, importer)
        except BackendError as error:
            refused.append(f"{candidate}: {error}")
            continue
        if refused:
            loaded.provider += f" ({'; '.join(refused)})"
        return loaded
    raise BackendError("; ".join(refused))


def _load(model: bytes, name: str, threads: int, importer: Importer) -> Backend:
    if name.startswith("openvino-"):
        return OpenVino(model, name.removeprefix("openvino-"), threads, importer)
    return OnnxRuntime(model, name == ONNX_GPU, threads)


class OnnxRuntime:
    """ONNX Runtime in fp32 on the CPU, or on a GPU by TensorRT or CUDA."""

    def __init__(self, model: bytes, gpu: bool, threads: int) -> None:
        chosen = ["CPUExecutionProvider"]
        if gpu:
            available = ort.get_available_providers()
            chosen = [p for p in GPU_PROVIDERS if p in available]
            if not chosen:
                raise BackendError(
                    f"this ONNX Runtime has only {', '.join(available)}; install its GPU build"
                )
            chosen.append("CPUExecutionProvider")  # for what the GPU leaves over
            if "CUDAExecutionProvider" in chosen:
                ort.preload_dlls()  # CUDA and cuDNN that came as wheels lie on no library path
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would steal the cores from tracking between two inferences.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(model, options, providers=chosen)
        except Exception as error:  # onnxruntime raises many unrelated types
            raise BackendError(f"ONNX Runtime {ort.__version__}: {_short(error)}") from error
        provider = self._session.get_providers()[0]
        if gpu and provider not in GPU_PROVIDERS:
            raise BackendError(f"{', '.join(chosen[:-1])}: the GPU or its driver does not answer")
        self.provider = f"{provider} fp32"

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """See Backend."""
        outputs: list[np.ndarray] = self._session.run(None, {"x": x})
        return outputs


class OpenVino:
    """OpenVINO on the CPU; its inference lets other Python threads run.

    Compiled anew at each start: that takes 0.2 s, of which a cache on disk would save half and
    could be stale or damaged.
    """

    def __init__(
        self,
        model: bytes,
        precision: str,
        threads: int,
        importer: Importer = importlib.import_module,
    ) -> None:
        try:
            ov = importer("openvino")
        except Exception as error:  # a broken wheel raises anything
            raise BackendError(f"OpenVINO cannot be imported ({_short(error)})") from error
        settings = {
            # Named always: else OpenVINO takes what it holds fastest, by machine and version.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # all processes would be pinned to the same core
        }
        try:
            core = ov.Core()
            if precision == "bf16" and "BF16" not in core.get_property(
                "CPU", "OPTIMIZATION_CAPABILITIES"
            ):
                raise BackendError("this CPU has no bf16 units")
            compiled = core.compile_model(core.read_model(model), "CPU", settings)
            if len(compiled.inputs) != 1:
                raise BackendError("the graph does not have one input that it uses")
            self._request = compiled.create_infer_request()
            self._outputs = range(len(compiled.outputs))
        except BackendError:
            raise
        except Exception as error:  # OpenVINO raises RuntimeError and others
            version = getattr(ov, "__version__", "")
            raise BackendError(f"OpenVINO {version}: {_short(error)}") from error
        self.provider = f"OpenVINO {precision}"

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """See Backend."""
        self._request.infer([np.ascontiguousarray(x, np.float32)], share_inputs=True)
        # Copies: the request writes the next answer into the same memory.
        return [self._request.get_output_tensor(i).data.copy() for i in self._outputs]


def _short(error: BaseException) -> str:
    """The last line of an error that says something, without the library's source lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else repr(error))[:200]
