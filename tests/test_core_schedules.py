"""Proves: learning rate, weight decay and tau follow the formulas of reference 1.1 and 7.

A duration means what it says or is refused.
"""

import math

import pytest
from pydantic import BaseModel, ValidationError

from d2v.core.schedules import (
    Duration,
    Horizon,
    LearningRateSettings,
    TauSettings,
    ema_decay,
    learning_rate_scale,
    weight_decay,
)


class Length(BaseModel):
    duration: Duration


def horizon(total: int, per_epoch: float = 10) -> Horizon:
    return Horizon(total_steps=total, steps_per_epoch=per_epoch)


def curve(settings: LearningRateSettings, total: int) -> list[float]:
    return [learning_rate_scale(n, settings, horizon(total)) for n in range(total + 1)]


# Learning rate


@pytest.mark.parametrize(("total", "warmup", "final"), [(97, 13, 0.1), (50, 0, 0.0), (8, 7, 0.5)])
def test_cosine__equals_the_formula_at_every_step(total: int, warmup: int, final: float) -> None:
    settings = LearningRateSettings(warmup=f"{warmup} steps", final_scale=final)
    slow = []
    for n in range(total + 1):
        if n < warmup:
            slow.append(n / warmup)
        else:
            angle = math.pi * (n - warmup) / (total - warmup)
            slow.append(final + 0.5 * (1 - final) * (1 + math.cos(angle)))
    assert curve(settings, total) == pytest.approx(slow, abs=1e-14)
    assert slow[warmup] == 1
    assert slow[-1] == pytest.approx(final)


def test_cosine__has_no_hold() -> None:
    with_hold = LearningRateSettings(warmup="3", hold="9 steps")
    assert curve(with_hold, 40) == curve(LearningRateSettings(warmup="3"), 40)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize(("total", "warmup", "hold"), [(100, 10, 40), (31, 3, 0), (29, 0, 7)])
def test_tri_stage__equals_three_stages_written_out(
    kind: str, total: int, warmup: int, hold: int
) -> None:
    first, last = 0.01, 0.05
    settings = LearningRateSettings.model_validate(
        {
            "schedule": f"tri_stage_{kind}",
            "warmup": warmup,
            "hold": hold,
            "warmup_start_scale": first,
            "final_scale": last,
        }
    )
    slow = [first + (1 - first) / warmup * n for n in range(warmup)]
    slow += [1.0] * hold
    length = total - warmup - hold
    for t in range(length + 1):
        if kind == "exponential":
            slow.append(math.exp(-math.log(1 / last) * t / length))
        else:
            slow.append(1 - (1 - last) * t / length)
    assert curve(settings, total) == pytest.approx(slow, abs=1e-14)


@pytest.mark.parametrize("kind", ["cosine", "tri_stage_exponential", "tri_stage_linear"])
def test_decay__stays_at_the_final_scale_after_the_end(kind: str) -> None:
    settings = LearningRateSettings.model_validate(
        {"schedule": kind, "warmup": 5, "final_scale": 0.02}
    )
    after = [learning_rate_scale(n, settings, horizon(20)) for n in (20, 21, 1000)]
    assert after == pytest.approx([0.02] * 3)


def test_constant__is_the_peak_after_warmup() -> None:
    settings = LearningRateSettings(schedule="constant", warmup="4 steps", warmup_start_scale=0.2)
    assert curve(settings, 7) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


@pytest.mark.parametrize("kind", ["cosine", "tri_stage_exponential", "tri_stage_linear"])
def test_learning_rate__never_falls_in_warmup_and_never_rises_after(kind: str) -> None:
    settings = LearningRateSettings.model_validate({"schedule": kind, "warmup": "20 %", "hold": 3})
    rates = curve(settings, 200)
    assert rates[:41] == sorted(rates[:41])
    assert rates[40:] == sorted(rates[40:], reverse=True)
    assert rates[0] == 0
    assert rates[40] == 1


def test_learning_rate__of_a_run_that_is_all_warmup_reaches_the_peak() -> None:
    assert curve(LearningRateSettings(warmup="100 %"), 4) == [0, 0.25, 0.5, 0.75, 1]


def test_learning_rate__published_vit_base_ends_at_1e_5() -> None:
    settings = LearningRateSettings(warmup="10 epochs")
    span = Horizon(total_steps=500_000, steps_per_epoch=625)
    assert 2e-3 * learning_rate_scale(3125, settings, span) == pytest.approx(1e-3)
    assert 2e-3 * learning_rate_scale(6250, settings, span) == pytest.approx(2e-3)
    assert 2e-3 * learning_rate_scale(500_000, settings, span) == pytest.approx(1e-5)


@pytest.mark.parametrize("name", ["warmup_start_scale", "final_scale"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_learning_rate__a_share_outside_0_to_1_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        LearningRateSettings.model_validate({name: value})


# Weight decay


def test_weight_decay__equals_the_cosine_between_its_ends() -> None:
    for n in range(38):
        slow = 0.4 + 0.5 * (0.05 - 0.4) * (1 + math.cos(math.pi * n / 37))
        assert weight_decay(n, start=0.05, end=0.4, total_steps=37) == pytest.approx(slow)
    assert weight_decay(99, start=0.05, end=0.4, total_steps=37) == pytest.approx(0.4)


def test_weight_decay__is_constant_where_both_ends_agree() -> None:
    values = {weight_decay(n, start=0.05, end=0.05, total_steps=9) for n in range(12)}
    assert values == {0.05}


# Tau


def test_tau_linear__equals_the_reference_formula() -> None:
    settings = TauSettings(schedule="linear", tau_0=0.9, tau_e=0.99, tau_n="30 steps")
    for n in range(60):
        slow = 0.99 - (0.99 - 0.9) * (1 - n / 30) if n < 30 else 0.99
        assert ema_decay(n, settings, horizon(50)) == pytest.approx(slow, abs=1e-15)


def test_tau_linear__stays_between_its_ends_and_never_falls() -> None:
    settings = TauSettings(schedule="linear", tau_n="37 %")
    values = [ema_decay(n, settings, horizon(1000)) for n in range(1001)]
    assert values == sorted(values)
    assert (values[0], values[370], values[-1]) == (0.999, 0.9998, 0.9998)
    assert values[369] < 0.9998


def test_tau_constant__is_the_end_value_from_the_start() -> None:
    assert {ema_decay(n, TauSettings(), horizon(9)) for n in range(10)} == {0.9998}


@pytest.mark.parametrize("name", ["tau_0", "tau_e"])
@pytest.mark.parametrize("value", [-0.001, 1.001])
def test_tau__outside_0_to_1_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        TauSettings.model_validate({name: value})


# Durations


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        (1000, 1000),
        (0, 0),
        (1e3, 1000),
        ("1000", 1000),
        ("1e3 steps", 1000),
        ("1 step", 1),
        (" 20steps ", 20),
        ("10 epochs", 125),
        ("1 epoch", 12),  # 12.5, half to even
        ("1.5 epochs", 19),  # 18.75
        ("0.01 epochs", 0),
        ("5 %", 20),
        ("5%", 20),
        ("100 %", 403),
        ("12.5 %", 50),  # 50.375
    ],
)
def test_duration__counts_optimiser_updates(written: object, steps: int) -> None:
    duration = Length.model_validate({"duration": written}).duration
    span = Horizon(total_steps=403, steps_per_epoch=12.5)
    assert span.steps(duration) == steps


@pytest.mark.parametrize("written", ["5%", "5 steps", "5", "1 epoch", 7, 2.0])
def test_duration__normalised_twice_is_the_same(written: object) -> None:
    once = Length.model_validate({"duration": written}).duration
    assert Length.model_validate({"duration": once}).duration == once


@pytest.mark.parametrize(
    "written",
    ["", "soon", "-5", -5, "5 minutes", "1,000", "5 % steps", "1.5 steps", 0.5, "nan", "inf"]
    + ["1e400", "1e400 epochs", "% 5", "5 Epochs"]
    + [True, None, [5], {"steps": 5}],
)
def test_duration__nonsense_is_refused(written: object) -> None:
    with pytest.raises(ValidationError, match="duration"):
        Length.model_validate({"duration": written})
