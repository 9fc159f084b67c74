"""The training loop: phases of rising resolution, an average of the weights, and checkpoints that resume exactly."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .._files import atomic_path
from .._log import logger
from ..models import registry
from ..models.sam_model import SamModel
from .losses import prompt_loss
from .samples import Sample, SceneDataset, collate

# Smaller batches keep the running statistics of BatchNorm: their own are too noisy.
_SMALLEST_NORM_BATCH = 8


@dataclass(frozen=True)
class Phase:
    """`steps` steps at picture size `size` (a multiple of 16) with `batch` scenes each."""

    size: int
    steps: int
    batch: int


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result, beside the code."""

    model: str = "sam_nano"
    phases: tuple[Phase, ...] = (Phase(192, 1700, 8), Phase(384, 750, 4))
    prompts: int = 12
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 150
    weight_decay: float = 0.02
    average_decay: float = 0.998
    final_evenness: float = 0.75
    evenness_steps: int = 900
    seed: int = 0

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to `final_learning_rate`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        span = self.learning_rate - self.final_learning_rate
        return self.final_learning_rate + span * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    def evenness_at(self, step: int) -> float:
        """From balanced cross-entropy to nearly the plain one (see `mask_loss`), once masks have begun to form."""
        return self.final_evenness * min(1.0, step / self.evenness_steps)


class Trainer:
    """Trains one registry model. State lives in `folder`/state.pt and is taken up again if it is there."""

    def __init__(self, config: TrainConfig, folder: Path, device: str = "cpu", workers: int = 1) -> None:
        self.config, self.folder, self.device, self.workers = config, folder, torch.device(device), workers
        torch.manual_seed(config.seed)
        self.model = registry.build(config.model).to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        kept = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
        self.step = 0
        self._resume()

    def run(self, *, save_every: int = 100, log_every: int = 20) -> SamModel:
        """Train to the end of the last phase; returns the averaged model."""
        first = 0
        for index, phase in enumerate(self.config.phases):
            last = first + phase.steps
            if self.step < last:
                self._run_phase(phase, index, first, last, save_every, log_every)
            first = last
        return self.average

    def _run_phase(self, phase: Phase, index: int, first: int, last: int, save_every: int, log_every: int) -> None:
        self.model.set_image_size(phase.size)
        self.model.train()
        if phase.batch < _SMALLEST_NORM_BATCH:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        data = SceneDataset(
            phase.size,
            self.config.prompts,
            seed=self.config.seed * 1000 + index,
            length=phase.steps * phase.batch,
            start=(self.step - first) * phase.batch,
        )
        loader: DataLoader[Sample] = DataLoader(
            data, batch_size=phase.batch, num_workers=self.workers, collate_fn=collate, drop_last=True
        )
        started, total, seen = time.perf_counter(), 0.0, 0
        for samples in loader:
            total += self._train_step(samples)
            seen += 1
            self.step += 1
            if self.step % log_every == 0:
                seconds = (time.perf_counter() - started) / seen
                logger.info("step %d/%d loss %.4f %.2f s", self.step, self.config.steps, total / seen, seconds)
                started, total, seen = time.perf_counter(), 0.0, 0
            if self.step % save_every == 0 or self.step == last:
                self._save()

    def _train_step(self, samples: list[Sample]) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step)
        loss = scene_loss(self.model, samples, self.device, self.config.evenness_at(self.step))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite at step {self.step}; lower the learning rate")
        self.optimizer.step()
        self._average()
        return loss.item()

    @torch.no_grad()
    def _average(self) -> None:
        """Exponential average of the weights; short at first, so that the start is forgotten."""
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "config": asdict(self.config),
        }
        with atomic_path(self.folder / "state.pt") as path:
            torch.save(state, path)
        save_weights(self.average, self.folder / f"{self.config.model}.safetensors")

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["config"]["model"] != self.config.model:
            raise ValueError(f"{path} is a run of {state['config']['model']!r}, not of {self.config.model!r}")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        logger.info("resuming %s at step %d", path, self.step)


def scene_loss(model: SamModel, samples: list[Sample], device: torch.device, evenness: float) -> Tensor:
    """Mean loss over a batch of scenes, their prompts decoded together; evenness: see `mask_loss`."""
    embeddings = model.encode_image(torch.stack([s.image for s in samples]).to(device))
    counts = torch.tensor([len(s.targets) for s in samples], device=device)
    embeddings = embeddings.repeat_interleave(counts, dim=0)

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(s, name) for s in samples]).to(device)

    points, labels, boxes, has_box = joined("points"), joined("labels"), joined("boxes"), joined("has_box")
    targets, is_object = joined("targets"), joined("is_object")
    position, dense = model.prompt_encoder.dense_position_embedding(), model.prompt_encoder.dense(None)
    total = embeddings.new_zeros(())
    # Prompts with and without a box have different token lists, as at inference.
    for chosen, with_box in ((has_box, True), (~has_box, False)):
        if not chosen.any():
            continue
        few_labels = labels[chosen]
        used = int((few_labels != -1).any(0).sum())
        sparse = model.prompt_encoder.sparse(
            points[chosen][:, :used] if used else None,
            few_labels[:, :used] if used else None,
            boxes[chosen] if with_box else None,
        )
        logits, iou = model.mask_decoder(embeddings[chosen], position, sparse, dense)
        ambiguous = (few_labels != -1).sum(1) + 2 * with_box <= 1
        loss = prompt_loss(logits, iou, targets[chosen], ambiguous, is_object[chosen], evenness)
        total = total + loss * (len(few_labels) / len(labels))
    return total


def save_weights(model: SamModel, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """The state dict as safetensors in `dtype`; whole-number tensors keep theirs."""
    from safetensors.torch import save_file

    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"model": model.name})
