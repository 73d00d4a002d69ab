"""One optimiser update: micro-batches in, new weights out, nothing that waits for the device."""

import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from d2v.core.seeding import seed_for
from d2v.engine.checkpoint import Checkpoint
from d2v.engine.job import Job
from d2v.engine.optim import apply_schedules, build_optimizer
from d2v.types import Batch, Loss, Mask, Objective

LOSS, COUNT, STOP, NORM, BAD = range(5)
"""Columns of what an update leaves behind."""


class Updater:
    """The model, its optimiser, and the sums of the updates since they were last read."""

    def __init__(self, job: Job) -> None:
        self.job, self.device = job, job.world.device
        self.model = job.objective.to(self.device)
        self.optimizer = build_optimizer(self.model, job.settings.optimizer)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.rows: list[Tensor] = []
        self.seconds_waited = 0.0
        self.parallel = _parallel(self.model) if job.world.size > 1 else None

    def update(
        self,
        step: int,
        batches: Iterator[tuple[Batch, Mask | None]],
        *,
        monitor: bool,
        stopping: bool,
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Optimiser update number `step` (0-based).

        Args:
            step: position in the schedules.
            batches: the next `accumulation` micro-batches are taken.
            monitor: whether the objective computes its monitors.
            stopping: this process was asked to stop; every process learns of it.

        Returns:
            Learning rate and weight decay used; monitors (scalar tensors of this process).
        """
        self.job.objective.before_update(step)
        schedules = apply_schedules(
            self.optimizer, self.job.settings.optimizer, step, self.job.horizon
        )
        sums = torch.zeros(5, device=self.device, dtype=torch.float64)
        monitors: dict[str, Tensor] = {}
        for micro in range(self.job.cut.accumulation):
            batch, mask = self._next(batches)
            loss = self._backward(step, micro, batch, mask, monitor=monitor)
            sums[LOSS] += loss.total.detach()
            sums[COUNT] += loss.count
            sums[BAD] += batch.missing
            monitors = loss.monitors
        sums[STOP] = float(stopping)
        self.job.world.sum(sums)
        sums[NORM] = self._apply(sums[COUNT])
        self.rows.append(sums)
        return schedules, monitors

    def _backward(
        self, step: int, micro: int, batch: Batch, mask: Mask | None, *, monitor: bool
    ) -> Loss:
        """Add one micro-batch's gradient; processes exchange theirs with the last one."""
        last = micro == self.job.cut.accumulation - 1
        seed = seed_for("dropout", self.job.seed, step, micro, self.job.world.rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        half = self.job.precision == "bfloat16"
        held_back = self.parallel is not None and not last
        with self.parallel.no_sync() if self.parallel and held_back else nullcontext():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                forward = self.parallel or self.model
                loss: Loss = forward(batch, mask, monitor=monitor and last)
            loss.total.backward()
        return loss

    def _apply(self, count: Tensor) -> Tensor:
        """Divide by what the loss counted over all processes, clip, step. Returns the norm."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        # DDP averaged over processes, so its sum is `size` times that.
        torch._foreach_mul_(gradients, (self.job.world.size / count.clamp_min(1)).float())
        norm = nn.utils.get_total_norm(gradients)
        clip = self.job.settings.optimizer.clip_norm
        if clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, clip, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _next(self, batches: Iterator[tuple[Batch, Mask | None]]) -> tuple[Batch, Mask | None]:
        before = time.perf_counter()
        batch, mask = next(batches)
        self.seconds_waited += time.perf_counter() - before
        return batch.to(self.device), None if mask is None else mask.to(self.device)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimiser's state, named `kind/parameter`."""
        return {
            f"{kind}/{name}": value
            for name, parameter in self.model.named_parameters()
            for kind, value in self.optimizer.state.get(parameter, {}).items()
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Weights and optimiser state from a checkpoint."""
        self.model.load_state_dict(checkpoint.tensors["model"])
        by_name = dict(self.model.named_parameters())
        for key, value in checkpoint.tensors["optimizer"].items():
            kind, name = key.split("/", 1)
            self.optimizer.state[by_name[name]][kind] = value.to(self.device)


def _parallel(model: Objective) -> DistributedDataParallel:
    with warnings.catch_warnings():
        # torch 2.14 renames broadcast_buffers; torch 2.11 does not know the new name yet.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            model,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=not model.trains_all_always,
        )
