"""What a modality learns before encoding, tells, adds up and writes; the command's table."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from d2v.commands import prepare as command
from d2v.commands.prepare_report import prepare_report, told_length
from d2v.data.prepare import PrepareSummary, SplitSummary
from d2v.data.shards import Shards
from d2v.modalities import ModalitySettings, build_modality
from d2v.modalities.base import LengthUnit, SourceSettings, Summarised
from d2v.modalities.vision.modality import Vision, VisionSettings
from d2v.samples import SourceItem, StoredSample
from tests.hostile_case import SHARDS, d2v, desk_fixture, left, refused, worked
from tests.prepare_case import digests

__all__ = ["desk_fixture"]

STAGE = Path("runs/my/prepare")
LEARNED = STAGE / "learned" / "names.txt"
CUT = "prepare.shard_samples=3"


@dataclass(frozen=True)
class Learning(Vision):
    """Pictures whose encoding needs to know how many there are in all; each is stored twice."""

    def learn(self, items: Callable[[], Iterable[SourceItem]], folder: Path) -> None:
        """Count the items of two passes."""
        path = folder / "names.txt"
        if not path.exists():
            path.write_text(f"{len(list(items()))} {len(list(items()))}")

    def encode(self, item: SourceItem) -> list[StoredSample]:
        """Two samples with what was learnt in each."""
        (sample,) = super().encode(item)
        warnings = ("it is bright",) if item.label == "dog" else ()
        members = {**sample.members, "learned": self._known()}
        half_hour = 16_000 * 1800
        told = replace(sample, members=members, length=half_hour, totals={"seen": 1})
        return [replace(told, warnings=warnings)] * 2

    def about(self) -> dict[str, Any]:
        """What was learnt."""
        return {"known": self._known().decode()}

    def summarise(self, totals: Mapping[str, Mapping[str, float]]) -> Summarised:
        """The sums, said and written."""
        seen = {split: int(sums["seen"]) for split, sums in totals.items()}
        return Summarised(lines=[f"seen: {seen}"], files={"names.txt": self._known()})

    @property
    def length_unit(self) -> LengthUnit:
        """As recordings have it."""
        return LengthUnit(name="seconds", size=16_000)

    def _known(self) -> bytes:
        assert self.learned is not None
        return (self.learned / "names.txt").read_bytes()


@pytest.fixture(name="learning", autouse=True)
def learning_fixture(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A desk whose pictures are `Learning`."""
    shutil.copytree("photos/cat", "others/cat")

    def build(settings: ModalitySettings, learned: Path | None = None) -> Learning:
        vision = build_modality(settings)
        assert isinstance(vision, Vision)
        return Learning(vision.settings, learned)

    monkeypatch.setattr(command, "build_modality", build)
    return desk


def stopped_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`d2v prepare`, ended by Ctrl-C after so many pictures."""
    calls, original = iter(range(count)), Learning.encode

    def encode(self: Learning, item: SourceItem) -> list[StoredSample]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(Learning, "encode", encode)
        assert d2v("prepare", "my.yaml", CUT).exit_code == 130


# What is learnt


def test_learnt__once_from_the_first_set_and_used_for_all(learning: Path) -> None:
    worked(d2v("prepare", "my.yaml", "data.probe.source=others"))
    assert LEARNED.read_text() == "24 24"
    for name in ("common", "probe"):
        for split in ("train", "val"):
            shards = Shards.open(SHARDS.with_name(name) / split)
            assert shards.about == {"known": "24 24"}
            assert {shards.read(i)["learned"] for i in range(len(shards))} == {b"24 24"}


def test_learnt__where_pretraining_reads_shards_made_before_it_lies_beside_them(
    learning: Path,
) -> None:
    worked(d2v("prepare", "my.yaml"))
    made = STAGE.rename("made") / "shards" / "common"
    shutil.rmtree(made.parent.parent / "learned")
    worked(d2v("prepare", "my.yaml", f"data.pretrain.shards={made}", "data.source=others"))
    assert Shards.open(SHARDS / "train").about == {"known": "24 24"}
    assert not LEARNED.exists()


def test_learnt__kept_on_continuation_and_learnt_anew_when_fresh(
    learning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked(d2v("prepare", "my.yaml", CUT))
    whole = digests(SHARDS)
    worked(d2v("prepare", "my.yaml", CUT, "--fresh"))
    assert digests(SHARDS) == whole
    shutil.rmtree(STAGE)
    stopped_after(13, monkeypatch)
    before = LEARNED.stat().st_mtime_ns
    worked(d2v("prepare", "my.yaml", CUT))
    assert LEARNED.stat().st_mtime_ns == before
    assert digests(SHARDS) == whole
    LEARNED.write_text("stale")
    worked(d2v("prepare", "my.yaml", CUT, "--fresh"))
    assert digests(SHARDS) == whole


def test_learnt__from_another_source_is_not_taken_over(
    learning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after(0, monkeypatch)
    assert not LEARNED.exists()
    LEARNED.parent.mkdir()
    LEARNED.write_text("of a start that was killed")
    worked(d2v("prepare", "my.yaml", CUT, "data.source=others"))
    assert LEARNED.read_text() == "12 12"


def test_learnt__otherwise_than_when_it_was_begun_is_refused(
    learning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after(13, monkeypatch)
    LEARNED.write_text("another one")
    refused(d2v("prepare", "my.yaml", CUT), "other settings", "--fresh")


def test_nothing_learnt__leaves_nothing_behind(
    learning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in Path("photos").rglob("*.png"):
        path.write_bytes(b"no picture")
    refused(d2v("prepare", "my.yaml"), "None of the 24 inputs")
    assert left(STAGE) == []
    monkeypatch.setattr(command, "build_modality", build_modality)
    worked(d2v("prepare", "my.yaml", "data.source=others"))
    assert not LEARNED.parent.exists()


# What is told


def test_report__tells_inputs_samples_hours_sums_and_warnings(learning: Path) -> None:
    result = worked(d2v("prepare", "my.yaml"), "seen: {'train': 36, 'val': 12}")
    rows = [line.split() for line in result.output.splitlines()]
    assert any({"train", "18", "36", "18.0"} <= set(row) for row in rows)
    worked(result, "inputs", "length", "stored, but odd 12: it is bright", "warnings.jsonl")
    assert (SHARDS / "names.txt").read_bytes() == b"24 24"
    recorded = json.loads((STAGE / "result.json").read_text())["sets"]["common"]
    assert recorded["splits"]["val"]["totals"] == {"seen": 12}
    assert recorded["warnings"] == {"it is bright": 12}


def part(**figures: Any) -> SplitSummary:
    usual = {"num_items": 5, "num_samples": 5, "num_groups": 0, "num_shards": 1,
             "num_bytes": 2_500_000, "length": 5, "totals": {}}  # fmt: skip
    return SplitSummary(**{**usual, **figures})


@pytest.mark.parametrize(
    ("figures", "more"),
    [({}, {}), ({"num_groups": 3}, {"groups": "3"}), ({"length": 3600}, {"length": "1.0 h"}),
     ({"num_items": 4, "length": 9}, {"inputs": "4", "length": "0.1 min"})],
)  # fmt: skip
def test_report__leaves_out_columns_that_say_nothing(
    desk: Path, figures: dict[str, int], more: dict[str, str]
) -> None:
    figures = {name: n * (16_000 if name == "length" else 1) for name, n in figures.items()}
    summary = PrepareSummary(
        splits={"train": part(**figures)}, classes=[], total=part(**figures).num_items,
        stored=part(**figures).num_items, rejected=0, duplicates=0, dropped=0, reasons={},
        warnings={},
    )  # fmt: skip
    report = prepare_report(
        {"common": summary}, {"common": desk}, Quiet(VisionSettings(name="vision"))
    )
    usual = {"set": "common", "split": "train", "samples": "5", "shards": "1", "MB": "2.5"}
    assert dict(zip(report.columns, *report.rows, strict=True)) == {**usual, **more}


@dataclass(frozen=True)
class Quiet(Learning):
    """The same without a word of its own."""

    def summarise(self, totals: Mapping[str, Mapping[str, float]]) -> Summarised:
        """Nothing."""
        return Summarised()


@pytest.mark.parametrize(
    ("length", "unit", "size", "told"),
    [(16_000 * 3600 * 12.34, "seconds", 16_000, "12.3 h"), (16_000 * 90, "seconds", 16_000,
     "1.5 min"), (3_599_999, "seconds", 1000, "60.0 min"), (3_600_000_000, "seconds", 1000,
     "1,000.0 h"), (1_234_567, "tokens", 1, "1,234,567 tokens"), (0, "tokens", 1, "0 tokens")],
)  # fmt: skip
def test_lengths__are_told_in_peoples_units(length: float, unit: str, size: int, told: str) -> None:
    assert told_length(length, LengthUnit(name=unit, size=size)) == told


def test_source_settings__of_all_fields_belong_to_the_identity(learning: Path) -> None:
    worked(d2v("prepare", "my.yaml"))
    run = json.loads((SHARDS / "summary.json").read_text())["run"]
    assert set(run["identity"]["source"]) == set(SourceSettings.model_fields)
    assert set(run["identity"]["settings"]) == set(VisionSettings.prepare_sections)
    assert run["about"] == {"known": "24 24"}
