"""Export the encoder and the decoder to ONNX files, in their plain PyTorch form.

`python -m bench.peers.onnx_export NAME PART` exports one part.

The export runs in a process of its own with FASTSAM_NATIVE=0, so that the graph has the operations of the published
models and none of this package's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from bench.recipe import CACHE, recipe_model
from fastsam_core.models.sam_model import SamModel
from fastsam_core.ops._attention import reference as attention_in_torch

PARTS = ("encoder", "decoder")
DECODER_BATCH = 64


class Decoder(nn.Module):
    """Decodes one-point prompts to three masks each, like the official export: image tokens are copied per prompt.

    Inputs: embedding (1, C, h, w), points (N, 1, 2), labels (N, 1). Outputs: logits (N, 3, 4h, 4w), predicted IoU
    (N, 3).
    """

    def __init__(self, model: SamModel) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("position", model.prompt_encoder.get_dense_pe().detach())

    def forward(self, embedding: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        prompts = self.model.prompt_encoder
        sparse = prompts.sparse(points, labels, None)
        dense = prompts.dense(None)
        return self.model.mask_decoder(embedding, cast(Tensor, self.position), sparse, dense, multimask_output=True)


def onnx_file(name: str, part: str) -> Path:
    """Return the exported `part` ("encoder" or "decoder") of the recipe model `name`. It is exported once."""
    if part not in PARTS:
        raise ValueError(f"part is {' or '.join(PARTS)}, not {part!r}")
    path = CACHE / f"{name}-{part}" / "model.onnx"
    if not path.exists():
        command = [sys.executable, "-m", "bench.peers.onnx_export", name, part]
        environment = {**os.environ, "FASTSAM_NATIVE": "0"}
        process = subprocess.run(
            command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False
        )
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{process.stdout}\n{process.stderr}")
    return path


def plain_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Compute attention as the published models do; the exporter can't trace the fused one's memory layout."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores if attn_mask is None else scores + attn_mask).softmax(dim=-1) @ v


def export(name: str, part: str) -> Path:
    """Write `onnx_file(name, part)` in this process."""
    model = recipe_model(name)
    torch.nn.functional.scaled_dot_product_attention = plain_attention
    # Compute whole attention matrices as the published models do, in one block of rows instead of many.
    attention_in_torch._BIAS_BLOCK_ELEMENTS = 2**62
    size, grid = model.image_size, model.image_size // 16
    arguments: tuple[Tensor, ...]
    module: nn.Module
    if part == "encoder":
        module, arguments, names, dynamic = model.image_encoder, (torch.zeros(1, 3, size, size),), ["images"], None
        outputs = ["embedding"]
    else:
        count = torch.export.Dim("count", min=2)
        module = Decoder(model)
        arguments = (
            torch.zeros(1, model.prompt_encoder.embed_dim, grid, grid),
            torch.zeros(DECODER_BATCH, 1, 2),
            torch.ones(DECODER_BATCH, 1),
        )
        names, dynamic = ["embedding", "points", "labels"], ({}, {0: count}, {0: count})
        outputs = ["logits", "iou"]
    program = torch.onnx.export(
        module.eval(), arguments, input_names=names, output_names=outputs, dynamic_shapes=dynamic, dynamo=True
    )
    assert program is not None
    # The weights are in a file beside the graph, so rename the whole folder to make the export atomic.
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        staging = Path(scratch) / "made"
        staging.mkdir()
        program.save(str(staging / "model.onnx"), external_data=True)
        shutil.rmtree(CACHE / f"{name}-{part}", ignore_errors=True)
        staging.rename(CACHE / f"{name}-{part}")
    return CACHE / f"{name}-{part}" / "model.onnx"


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in PARTS:
        raise SystemExit(__doc__)
    print(export(sys.argv[1], sys.argv[2]))
