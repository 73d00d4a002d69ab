"""Proves: the teacher is the moving average of reference section 1.1, one move an update."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from d2v.core.ema import ema_update
from d2v.core.encoder import Encoder
from d2v.core.schedules import Horizon, TauSettings
from d2v.data2vec import Data2Vec, Data2VecSettings
from d2v.engine.distributed import World
from d2v.engine.job import BatchCut, Job, TrainSettings
from d2v.engine.loop import train
from d2v.engine.signals import StopRequest
from d2v.modalities.vision.frontend import FrontendSettings, VisionFrontend
from d2v.types import Batch, Mask
from tests.maths_case import normal, seeded, tiny_settings


def test_ema__equals_a_loop_over_every_element() -> None:
    shapes: list[tuple[int, ...]] = [(3, 5), (7,), (), (2, 1, 4)]
    teacher = [normal(i, *shape) for i, shape in enumerate(shapes)]
    slow = [tensor.flatten().tolist() for tensor in teacher]
    for n, tau in enumerate([0.9, 0.5, 0.1, 0.0, 0.999]):
        student = [normal(100 * n + i, *shape) for i, shape in enumerate(shapes)]
        ema_update(teacher, student, tau=tau)
        for old, new in zip(slow, student, strict=True):
            for i, value in enumerate(new.flatten().tolist()):
                old[i] = tau * old[i] + (1 - tau) * value
    for fast, old in zip(teacher, slow, strict=True):
        assert fast.flatten().tolist() == pytest.approx(old, rel=1e-12)


def test_ema__at_tau_1_stands_still_and_at_tau_0_copies() -> None:
    teacher, student = [normal(1, 4, 3)], [normal(2, 4, 3)]
    before = teacher[0].clone()
    ema_update(teacher, student, tau=1.0)
    assert torch.equal(teacher[0], before)
    ema_update(teacher, student, tau=0.0)
    torch.testing.assert_close(teacher[0], student[0])


def test_ema__reads_the_student_and_leaves_it_alone() -> None:
    student = torch.nn.Parameter(normal(3, 4))
    before = student.detach().clone()
    teacher = normal(4, 4)
    ema_update([teacher], [student], tau=0.5)
    assert torch.equal(student, before)
    assert not teacher.requires_grad


def test_ema__small_steps_are_not_lost_in_float32() -> None:
    teacher, student = [torch.ones(1)], [torch.full((1,), 2.0)]
    for _ in range(5000):
        ema_update(teacher, student, tau=0.9998)
    assert float(teacher[0]) == pytest.approx(2 - 0.9998**5000, abs=1e-3)


class Watched(Data2Vec):
    """Keeps the student's weights as they were at each teacher update."""

    def __init__(self, tau: TauSettings, horizon: Horizon) -> None:
        encoder = tiny_settings(depth=2)
        settings = FrontendSettings(
            image_size=6, patch_size=2, channels=1, pixel_mean=(0.5,), pixel_std=(0.2,)
        )
        objective = Data2VecSettings(top_k=2, tau=tau)
        super().__init__(VisionFrontend(settings, encoder), Encoder(encoder), objective, horizon)
        self.encoder.register_buffer("counter", torch.zeros((), dtype=torch.int64))
        self.teacher["encoder"].register_buffer("counter", torch.zeros((), dtype=torch.int64))
        self.initialise(seeded(0))
        self.students: list[dict[str, Tensor]] = []

    def after_update(self, step: int) -> dict[str, float]:
        self.encoder.get_buffer("counter").fill_(100 + step)
        self.students.append({n: p.detach().clone().double() for n, p in averaged(self).items()})
        return super().after_update(step)


def averaged(model: Data2Vec) -> dict[str, Tensor]:
    """The student's parameters that the teacher averages, by name."""
    return {n: p for n, p in model.named_parameters() if n.startswith(("encoder.", "frontend."))}


class EndlessBatches:
    """The same stream of single pictures, however it is cut."""

    def iterate(self, start_step: int) -> Iterator[tuple[Batch, Mask]]:
        generator = seeded(5)
        while True:
            pixels = torch.randint(256, (2, 1, 6, 6), generator=generator, dtype=torch.uint8)
            hidden = torch.rand(2, 9, generator=generator).argsort(1) < 5
            yield Batch(inputs=pixels), Mask.of(hidden)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_teacher__moves_once_an_update_with_and_without_accumulation(
    accumulation: int, tmp_path: Path
) -> None:
    tau = TauSettings(schedule="linear", tau_0=0.5, tau_e=0.8, tau_n="4 steps")
    horizon = Horizon(total_steps=6, steps_per_epoch=6)
    model = Watched(tau, horizon)
    slow = {name: p.detach().clone().double() for name, p in averaged(model).items()}
    job = Job(
        stage="pretrain",
        objective=model,
        data=EndlessBatches(),
        cut=BatchCut(micro=2, accumulation=accumulation),
        settings=TrainSettings(steps="6 steps", batch_size=2 * accumulation, log_every=6),
        horizon=horizon,
        seed=0,
        folder=tmp_path,
        world=World(),
    )
    train(job, StopRequest())
    assert len(model.students) == 6, "one teacher update for each optimiser update"
    for n, student in enumerate(model.students, start=1):
        decay = 0.5 + 0.3 * n / 4 if n < 4 else 0.8
        for name, value in student.items():
            slow[name] = decay * slow[name] + (1 - decay) * value
    teacher = {name.removeprefix("teacher."): p for name, p in model.teacher.named_parameters()}
    assert set(teacher) == set(slow)
    for name, value in slow.items():
        torch.testing.assert_close(teacher[name].double(), value, rtol=1e-5, atol=1e-6)
    moved = max(float((s - slow[n]).abs().max()) for n, s in model.students[-1].items())
    assert moved > 1e-4, "student and teacher are different, or the test proves nothing"


def test_teacher__buffers_are_copied_whole() -> None:
    model = Watched(TauSettings(tau_e=0.999), Horizon(total_steps=1, steps_per_epoch=1))
    model.after_update(1)
    assert int(model.teacher["encoder"].get_buffer("counter")) == 101, "an average would say 0"


def test_teacher__stands_still_at_tau_1() -> None:
    model = Watched(TauSettings(tau_e=1.0), Horizon(total_steps=1, steps_per_epoch=1))
    before = {name: p.clone() for name, p in model.teacher.named_parameters()}
    with torch.no_grad():
        for parameter in averaged(model).values():
            parameter.add_(1.0)
    assert model.after_update(1) == {"tau": 1.0}
    for name, parameter in model.teacher.named_parameters():
        assert torch.equal(parameter, before[name]), name
