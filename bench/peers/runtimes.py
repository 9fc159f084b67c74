"""Run exported graphs on OpenVINO and ONNX Runtime, with PyTorch's number of threads, by default in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Run = Callable[..., list[Tensor]]


def openvino(path: Path, shapes: Sequence[Sequence[int]] | None = None, bfloat16: bool = False) -> Run:
    """Return a function that runs the graph on OpenVINO's CPU device, from tensors to tensors.

    The outputs are overwritten by the next call. shapes: static shapes of the inputs in order, which let OpenVINO
    specialise the graph. bfloat16: let OpenVINO compute layers of its choice in bfloat16, its default on processors
    with fast bfloat16 products; inputs and outputs stay float32.
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
        named_inputs = {
            index: ov.Tensor(np.ascontiguousarray(tensor.numpy()), shared_memory=True)
            for index, tensor in enumerate(inputs)
        }
        request.infer(named_inputs)
        return [torch.from_numpy(output.data) for output in request.output_tensors]

    return run


def onnx_runtime(path: Path) -> Run:
    """Return a function that runs the graph on ONNX Runtime's CPU provider, from tensors to tensors."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        named_inputs = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, named_inputs)]

    return run
