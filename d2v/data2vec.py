"""data2vec: from a masked input, a student predicts what its own moving average makes of it all.

Letters: B batch, T tokens (without CLS), D width, K blocks, M masked tokens of the batch.
Sections refer to the paper (arXiv 2202.03555).
"""

import copy
import math
from typing import Literal, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from d2v.core.ema import ema_update
from d2v.core.encoder import Encoder, initialise_linear
from d2v.core.monitors import collapse_guards, regression_monitors
from d2v.core.schedules import Horizon, ema_decay
from d2v.core.targets import TargetSettings, Total, average_top_k, regression_loss
from d2v.types import Batch, Frontend, Guard, Loss, Mask, Objective, Tokens


class Data2VecSettings(TargetSettings):
    """The objective's knobs: those of target and teacher, and the head."""

    name: Literal["data2vec"] = "data2vec"
    head_layers: int = Field(1, ge=1)
    """Layers of the student's head; hidden ones are 2 D wide with GELU."""


class Distillation(Objective):
    """A student that learns from its own moving average: the part that objectives share."""

    def __init__(
        self,
        frontend: Frontend,
        encoder: Encoder,
        head: nn.Module,
        settings: TargetSettings,
        horizon: Horizon,
        total: Total | None,
    ) -> None:
        """Student and teacher; `total` sums over processes, for batch-normalised targets."""
        super().__init__()
        self.settings, self.horizon, self.total = settings, horizon, total
        self.frontend, self.encoder, self.head = frontend, encoder, head
        averaged: list[tuple[str, nn.Module]] = [("encoder", encoder)]
        if settings.teacher_averages != "encoder":
            averaged.append(("frontend", frontend))
        self.teacher = nn.ModuleDict({name: copy.deepcopy(part) for name, part in averaged})
        self.teacher.requires_grad_(False).eval()
        # Kept, because walking the modules for them at every update costs more than the average.
        self._moving = [p for part in self.teacher.values() for p in part.parameters()]
        self._followed = [p for _, part in averaged for p in part.parameters()]

    def train(self, mode: bool = True) -> Self:
        """Dropout and drop-path act in the student only (reference section 1.5)."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def targets(self, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor]:
        """What the teacher makes of the whole, unmasked input (section 3.3).

        Returns:
            Tokens that the teacher read, and targets; both (B, T, D) without prefix tokens.
        """
        s = self.settings
        frontend = self.frontend
        if s.teacher_averages != "encoder":
            frontend = cast(Frontend, self.teacher["frontend"])
        if s.teacher_averages == "all":
            features = frontend.features(batch)
        training = frontend.training
        tokens: Tokens = frontend.eval()(features.detach(), None, batch.padding)
        frontend.train(training)  # dropout acts in the student only
        top = self.teacher["encoder"](tokens, s.target_feature, s.top_k).features
        first = tokens.num_prefix
        padding = None if tokens.padding is None else tokens.padding[:, first:]
        targets = average_top_k(
            [feature[:, first:] for feature in top],
            layer_norm=s.target_norm,
            mean_norm=s.mean_norm,
            padding=padding,
            total=self.total,
        )
        return tokens.values[:, first:], targets

    def regression(
        self, prediction: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Sum over rows of the loss over channels (section 3.4), each times its weight (M,).

        (M, D), (M, D) -> scalar.
        """
        dim = target.shape[-1]
        scale = {"mean": 1 / dim, "inv_sqrt_dim": 1 / math.sqrt(dim), "sum": 1.0}
        beta = self.settings.beta
        loss = regression_loss(prediction.to(target.dtype), target, beta=beta)
        if weight is not None:
            loss = loss * weight.unsqueeze(1)
        return loss.sum() * scale[self.settings.channel_reduction]

    def after_update(self, step: int) -> dict[str, float]:
        """Move the teacher, once per optimiser update, never per micro-batch (reference P3).

        Args:
            step: optimiser updates done so far, 1 after the first.

        Returns:
            Figures to log.
        """
        tau = ema_decay(step, self.settings.tau, self.horizon)
        ema_update(self._moving, self._followed, tau=tau)
        for name, teacher in self.teacher.items():
            student = getattr(self, name)
            for kept, current in zip(teacher.buffers(), student.buffers(), strict=True):
                kept.copy_(current)  # averaging would truncate integers (reference P20)
        return {"tau": tau}

    def guards(self) -> list[Guard]:
        """What must stay above which floor."""
        return collapse_guards()

    def copy_student_to_teacher(self) -> None:
        """Start the moving average anew from the student's present weights."""
        for name, teacher in self.teacher.items():
            teacher.load_state_dict(getattr(self, name).state_dict())


class Data2Vec(Distillation):
    """Student, teacher, targets and masked regression. Knows no modality."""

    def __init__(
        self,
        frontend: Frontend,
        encoder: Encoder,
        settings: Data2VecSettings,
        horizon: Horizon,
        total: Total | None = None,
    ) -> None:
        head = build_head(encoder.settings.dim, settings.head_layers)
        super().__init__(frontend, encoder, head, settings, horizon, total)

    @property
    def trains_all_always(self) -> bool:
        """Unless layerdrop skips blocks."""
        return self.encoder.settings.layerdrop == 0

    def forward(self, batch: Batch, mask: Mask | None, *, monitor: bool = False) -> Loss:
        """The loss of one micro-batch.

        Args:
            batch: examples, B of them.
            mask: where the student must predict.
            monitor: also compute the monitors that guards and logs read.

        Returns:
            Loss summed over masked tokens, their number, and the monitors.
        """
        assert mask is not None
        features = self.frontend.features(batch)
        seen, targets = self.targets(batch, features)  # (B, T, D)        section 3.3
        tokens = self.frontend(features, mask, batch.padding)  #           section 3.2
        student = self.encoder(tokens).last[:, tokens.num_prefix :]  # (B, T, D)
        prediction = self.head(_select(student, mask))  # (M, D)
        target = _select(targets, mask)  # (M, D)
        total = self.regression(prediction, target)  #                     section 3.4
        monitors = {}
        if monitor:
            monitors = regression_monitors(seen, target, prediction, mask, batch.padding)
        return Loss(total=total, count=mask.predict.sum(), monitors=monitors)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the student's weights; the teacher starts as its copy."""
        self.frontend.initialise(generator)
        self.encoder.initialise(generator)
        initialise_linear(self.head.modules(), self.encoder.settings, generator)
        self.copy_student_to_teacher()


def build_head(dim: int, layers: int) -> nn.Sequential:
    """One linear layer, or D -> 2 D -> ... -> D with GELU between (reference section 1.3)."""
    widths = [dim, *[2 * dim] * (layers - 1), dim]
    parts: list[nn.Module] = []
    for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        parts += [nn.Linear(before, after)] + ([nn.GELU()] if i < layers - 1 else [])
    return nn.Sequential(*parts)


def _select(x: Tensor, mask: Mask) -> Tensor:
    return x.flatten(0, 1).index_select(0, mask.positions)
