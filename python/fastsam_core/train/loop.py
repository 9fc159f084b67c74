"""Training loop with phases of increasing size, averaged weights, and checkpoints from which runs resume exactly."""

from __future__ import annotations

import copy
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .._files import atomic_path, save_tensors
from .._log import logger
from ..models import registry
from ..models.checkpoint import load_model, resolve
from ..models.sam_model import SamModel
from .auxiliary import DenseHead
from .config import Phase, TrainConfig
from .crops import draw_views
from .interactive import draw_groups, train_rounds
from .pool import MAX_PLANES, ImagePool, LabelledImage, Prefetcher
from .progress import Curves, sample_sheet
from .windows import shrink_windows

# Below this batch size BatchNorm uses its running statistics, because the batch's own are too noisy.
_MIN_BATCH_NORM_BATCH = 8


class Trainer:
    """Trainer of one model on labelled images.

    Its state is saved to `folder`/state.pt. If that file exists, training resumes from it.

    data: labelled images by index, with at most `config.size` pixels per side and `MAX_PLANES` planes. They are taken
        in order, starting over after the last. device: where to train. workers: processes that load `data`.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset[LabelledImage],
        folder: Path,
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        self.config, self.data, self.folder, self.workers = config, data, folder, workers
        self.device = torch.device(device)
        torch.manual_seed(config.seed)
        self.from_scratch = config.model in registry.MODELS
        self.model = _build_model(config.model) if self.from_scratch else load_model(config.model, "cpu").train()
        self.model.to(self.device)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        # Channels last is faster for convolutions in bfloat16, and on a GPU, where it saves a quarter of a step.
        use_channels_last = self.device.type == "cuda" or config.precision == "bfloat16"
        self._memory_format = torch.channels_last if use_channels_last else torch.contiguous_format
        self.model.image_encoder.to(memory_format=self._memory_format)  # type: ignore[call-overload]
        self.head = DenseHead(self.model.prompt_encoder.embed_dim).to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        # Pairs are collected once, since collecting them takes longer than averaging.
        pairs = list(zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True))
        self._averaged_tensors = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied_tensors = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.model.image_encoder.requires_grad_(config.train == "all")
        trained_parameters = [p for p in [*self.model.parameters(), *self.head.parameters()] if p.requires_grad]
        groups = [
            {
                "params": [p for p in trained_parameters if p.ndim > 1],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in trained_parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.trained_parameters = trained_parameters
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=self.device.type == "cuda")
        self.pool = ImagePool(config.pool, config.size, MAX_PLANES, self.device)
        self.step, self.seconds, self.images_fed, self.phase = 0, 0.0, 0.0, -1
        self._resume()

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, from 0 to 1, by steps or by the clock, whichever is further."""
        done = self.step / self.config.steps
        return max(done, self.seconds / (60 * self.config.minutes)) if self.config.minutes else done

    def run(self, *, save_every: int = 200, log_every: int = 20, sample_every: int = 500) -> SamModel:
        """Train to the end of the last phase and return the averaged model.

        Every `save_every` steps it saves state and weights, every `log_every` it logs and adds a line to the curves,
        and every `sample_every` it writes a sheet of sample masks; 0 writes none.
        """
        curves = Curves(self.folder, self.step)
        sums, num_steps, last_log = torch.zeros(4, device=self.device), 0, time.perf_counter()
        first_index = max(0, int(self.images_fed) - self.config.pool)
        prefetcher = Prefetcher(self.data, first_index, self.workers, device=self.device)
        try:
            # A resumed run first refills the pool with the images it held, each at its former index.
            self.pool.added = first_index
            for batch in prefetcher.take(int(self.images_fed) - first_index):
                self.pool.add(batch)
            start = time.perf_counter() - self.seconds
            while self.progress < 1:
                self._enter_phase(self.config.phase_at(self.progress))
                self._refill_pool(prefetcher)
                sums += self._train_step(sample_every)
                self.step += 1
                num_steps += 1
                if self.step % log_every == 0:
                    loss, auxiliary, first_iou, last_iou = (sums / num_steps).tolist()
                    seconds_per_step = (time.perf_counter() - last_log) / num_steps
                    curves.add(
                        step=self.step,
                        size=self.model.image_size,
                        learning_rate=self.optimizer.param_groups[0]["lr"],
                        loss=loss,
                        auxiliary=auxiliary,
                        iou_first=first_iou,
                        iou_last=last_iou,
                        images=int(self.images_fed),
                        seconds=time.perf_counter() - start,
                    )
                    logger.info(
                        "%3.0f %%  step %d  %d px  loss %.4f  IoU %.3f to %.3f  %.3f s/step",
                        *(
                            100 * self.progress,
                            self.step,
                            self.model.image_size,
                            loss,
                            first_iou,
                            last_iou,
                            seconds_per_step,
                        ),
                    )
                    sums, num_steps, last_log = torch.zeros(4, device=self.device), 0, time.perf_counter()
                self.seconds = time.perf_counter() - start
                if self.step % save_every == 0 or self.progress >= 1:
                    self._save()
        finally:
            prefetcher.close()
        if not self.weights.exists():  # a finished run whose weights were moved
            self._save_weights()
        return self.average

    def _enter_phase(self, phase_index: int) -> None:
        if phase_index == self.phase:
            return
        self.phase = phase_index
        phase = self._current_phase
        self.model.set_image_size(phase.size)
        self.model.train()
        if self.config.train == "decoder":
            self.model.image_encoder.eval()
        shrink_windows(self.model.image_encoder, phase.size)
        if phase.batch < _MIN_BATCH_NORM_BATCH:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    @property
    def _current_phase(self) -> Phase:
        return self.config.phases[self.phase]

    def _refill_pool(self, prefetcher: Prefetcher) -> None:
        """Add new images to the pool: `batch` / `reuse` per step on average, and two batches more at the start."""
        previous = int(self.images_fed)
        if not self.pool.added:
            self.images_fed += min(self.config.pool, 2 * self._current_phase.batch)
        self.images_fed += self._current_phase.batch / self.config.reuse
        num_wanted = int(self.images_fed) - previous
        # With a time limit, train on what the pool holds rather than wait. Only the first images are waited for.
        should_wait = not self.config.minutes or not self.pool.added
        num_received = 0
        for batch in prefetcher.take(num_wanted) if should_wait else prefetcher.take_ready(num_wanted):
            self.pool.add(batch)
            num_received += len(batch)
        self.images_fed -= num_wanted - num_received

    def _train_step(self, sample_every: int) -> Tensor:
        """Train one step. Returns (4,) on the device: loss, auxiliary loss, mean IoU of the first and last round."""
        config, progress = self.config, self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(self.step, progress)
        # All randomness is seeded by the run's seed and the step's number, so resuming needs no generator state.
        rng = np.random.default_rng((config.seed, self.step))
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(1 << 62)))
        views = draw_views(self.pool, self._current_phase.batch, self._current_phase.size, rng)
        groups = draw_groups(
            views.planes,
            views.valid,
            config.prompts,
            generator,
            min_area=config.min_area,
            shares=config.plane_shares,
            background=config.background,
        )
        round_weights = np.array(config.rounds)
        rounds = 1 + int(rng.choice(len(round_weights), p=round_weights / round_weights.sum()))
        self.optimizer.zero_grad(set_to_none=True)
        trains_encoder = config.train == "all"
        with self._autocast(), torch.set_grad_enabled(trains_encoder):
            encoded = self.model.image_encoder(views.images.to(memory_format=self._memory_format))
        embeddings = encoded.detach().float().requires_grad_(trains_encoder)
        # An outer autocast keeps the weights that the first round casts to bfloat16 cached for the other rounds.
        with torch.autocast(self.device.type, enabled=False):
            outcome = train_rounds(
                self.model,
                embeddings,
                groups,
                rounds,
                generator,
                evenness=config.evenness_at(progress),
                mask_feedback=config.mask_feedback,
                iou_weight=config.iou_weight,
                # Views without an object get background clicks, whatever their frequency elsewhere.
                score_background=config.background > 0,
                amp=self._autocast,
            )
        auxiliary = outcome.loss.new_zeros(())
        weight = config.auxiliary_at(progress)
        if trains_encoder and weight:
            with self._autocast():
                auxiliary = self.head(embeddings, views.planes, generator)
            (auxiliary * weight).backward()
        if trains_encoder:
            assert embeddings.grad is not None
            encoded.backward(embeddings.grad.to(encoded.dtype))
        norm = nn.utils.clip_grad_norm_(self.trained_parameters, 1.0)
        if self.step % 20 == 0 and not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite at step {self.step}; lower the learning rate")
        self.optimizer.step()
        self._update_average()
        if sample_every and self.step % sample_every == 0:
            path = self.folder / "samples" / f"step-{self.step:06}.jpg"
            sample_sheet(path, views, groups[0], outcome.logits)
        return torch.stack([outcome.loss, auxiliary.detach(), outcome.first_iou, outcome.last_iou])

    def _autocast(self) -> AbstractContextManager[None]:
        if self.config.precision == "float32":
            return nullcontext()
        return cast(AbstractContextManager[None], torch.autocast(self.device.type, torch.bfloat16))

    @torch.no_grad()
    def _update_average(self) -> None:
        """Update the exponential moving average of the weights.

        Its decay is lower in the first steps, so that the initial weights are soon forgotten.
        """
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            [mean for mean, _ in self._averaged_tensors], [value for _, value in self._averaged_tensors], 1 - decay
        )
        if self._copied_tensors:
            torch._foreach_copy_(
                [mean for mean, _ in self._copied_tensors], [value for _, value in self._copied_tensors]
            )

    def _save(self) -> None:
        if not all(bool(torch.isfinite(mean).all()) for mean, _ in self._averaged_tensors):
            # Don't overwrite the previous state, which is still usable.
            raise FloatingPointError(f"the weights are not finite at step {self.step}; lower the learning rate")
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "fed": self.images_fed,
            "config": asdict(self.config),
        }
        # The state last: a run killed in between repeats its last steps, and does not end without its weights.
        self._save_weights()
        with atomic_path(self.folder / "state.pt") as path:
            torch.save(state, path)

    def _save_weights(self) -> None:
        save_weights(self.average, self.weights, torch.float16 if self.from_scratch else torch.float32)

    @property
    def weights(self) -> Path:
        """Path of the averaged model's weights."""
        return self.folder / f"{self.model.name}.safetensors"

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
            if not self.from_scratch and self.weights.exists() and self.weights.samefile(resolve(self.config.model)):
                raise ValueError(f"the run would overwrite {self.weights}, which it starts from; use another folder")
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            expected = {name: getattr(self.config, name) for name in ("model", "train", "seed")}
            mismatched = [name for name in expected if state["config"][name] != expected[name]]
            if not mismatched:
                for name in ("model", "head", "average", "optimizer"):
                    getattr(self, name).load_state_dict(state[name])
                self.step, self.seconds, self.images_fed = state["step"], state["seconds"], state["fed"]
        except Exception as error:  # a damaged file may raise anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{path} is not the state of a run, damaged, or of another version; remove it to start over ({reason})"
            ) from error
        for name in mismatched:
            raise ValueError(
                f"{path} is of a run with {name} {state['config'][name]!r}, not {expected[name]!r}; use another folder"
            )
        logger.info("resuming %s at step %d", path, self.step)


def _build_model(name: str) -> SamModel:
    """Return an untrained model whose token-to-image attention starts with equal query and key projections.

    With these a click attends to its own location from the first step, because tokens and image share a position
    embedding.
    """
    model = registry.build(name)
    for block in model.mask_decoder.transformer.blocks:
        attention = block.cross_attn_token_to_image
        attention.k_proj.load_state_dict(attention.q_proj.state_dict())
    return model


def save_weights(model: SamModel, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Save a model's state dict as safetensors, floating-point tensors in `dtype`, others in their own."""
    state = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }
    save_tensors(state, path, {"model": model.name})
