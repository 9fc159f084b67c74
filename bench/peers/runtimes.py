"""OpenVINO and ONNX Runtime over an exported graph, on as many threads as PyTorch has, in float32 unless told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Run = Callable[..., list[Tensor]]


def openvino(path: Path, shapes: Sequence[Sequence[int]] | None = None, bfloat16: bool = False) -> Run:
    """The graph on OpenVINO's CPU device: tensors in, tensors out.

    shapes: static shapes of the inputs in order, which spares OpenVINO the general case. bfloat16: let it compute in
    that where it sees fit, as it does by itself on processors that multiply it faster; inputs and outputs are float32.
    """
    import openvino as ov
    import openvino.properties as properties
    import openvino.properties.hint as hint

    core = ov.Core()
    model = core.read_model(path)
    if shapes is not None:
        model.reshape(dict(zip((port.get_any_name() for port in model.inputs), map(list, shapes), strict=True)))
    settings = {
        hint.performance_mode: hint.PerformanceMode.LATENCY,
        hint.inference_precision: ov.Type.bf16 if bfloat16 else ov.Type.f32,
        properties.inference_num_threads: torch.get_num_threads(),
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {
            index: ov.Tensor(np.ascontiguousarray(tensor.numpy()), shared_memory=True)
            for index, tensor in enumerate(inputs)
        }
        request.infer(given)
        # The outputs' memory is used again by the next call.
        return [torch.from_numpy(output.data) for output in request.output_tensors]

    return run


def onnx_runtime(path: Path) -> Run:
    """The graph on ONNX Runtime's CPU provider: tensors in, tensors out."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, given)]

    return run
