"""What preparing will do and what it did, for a person."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2v.data.prepare import PrepareSummary, SplitSummary
from d2v.data_sets import DataSet
from d2v.modalities import Modality
from d2v.modalities.base import LengthUnit
from d2v.recipe import TESTS, Recipe
from d2v.report import Report

_TEXTS = 5
"""Rejections and warnings are shown for so many texts, the commonest first."""


def prepare_report(
    summaries: dict[str, PrepareSummary], folders: dict[str, Path], modality: Modality
) -> Report:
    """One row a split; a column that would say the same as another is left out.

    Args:
        summaries: data set -> what became of it.
        folders: data set -> where its splits lie.
        modality: tells lengths and what its totals mean.
    """
    splits = [
        (name, split, part)
        for name, summary in summaries.items()
        for split, part in summary.splits.items()
    ]
    parts = [part for _, _, part in splits]
    columns = {
        "set": [name for name, _, _ in splits],
        "split": [split for _, split, _ in splits],
        "inputs": [f"{part.num_items:,}" for part in parts],
        "samples": [f"{part.num_samples:,}" for part in parts],
        "groups": [f"{part.num_groups:,}" for part in parts],
        "length": [told_length(part.length, modality.length_unit) for part in parts],
        "shards": [str(part.num_shards) for part in parts],
        "MB": [f"{part.num_bytes / 1e6:.1f}" for part in parts],
    }
    for column in _idle(parts):
        del columns[column]
    remarks = []
    for name, summary in summaries.items():
        remarks += _remarks(name, summary, folders[name])
        totals = {split: part.totals for split, part in summary.splits.items()}
        remarks += [f"  {line}" for line in modality.summarise(totals).lines]
    return Report(
        headline=f"Prepared {', '.join(str(folder) for folder in folders.values())}",
        columns=list(columns),
        rows=[list(row) for row in zip(*columns.values(), strict=True)],
        remarks=remarks,
    )


def told_length(length: float, unit: LengthUnit) -> str:
    """A length in words: `12.3 h`, `45.6 min`, `1,234,567 tokens`."""
    number = length / unit.size
    if unit.name != "seconds":
        return f"{number:,.0f} {unit.name}"
    return f"{number / 3600:,.1f} h" if number >= 3600 else f"{number / 60:.1f} min"


def _idle(parts: list[SplitSummary]) -> list[str]:
    """Columns that say nothing here."""
    says = {
        "inputs": any(part.num_items != part.num_samples for part in parts),
        "groups": any(part.num_groups for part in parts),
        "length": any(part.length != part.num_samples for part in parts),
    }
    return [column for column, does in says.items() if not does]


def _remarks(name: str, summary: PrepareSummary, folder: Path) -> list[str]:
    remarks = [
        f"{name}: {summary.total:,} inputs = {summary.stored:,} stored + "
        f"{summary.rejected:,} rejected + {summary.dropped:,} dropped; "
        f"{summary.duplicates:,} exact duplicates; {len(summary.classes) or 'no'} "
        f"{'class' if len(summary.classes) == 1 else 'classes'}."
    ]
    remarks += _commonest("rejected", summary.reasons)
    if summary.rejected or summary.duplicates:
        remarks.append(f"  see rejected.jsonl and duplicates.jsonl in {folder}")
    remarks += _commonest("stored, but odd", summary.warnings)
    if summary.warnings:
        remarks.append(f"  see warnings.jsonl in {folder}")
    if len(summary.classes) == 1:
        remarks.append(f"  only one class ({summary.classes[0]}): there is nothing to probe.")
    return remarks


def _commonest(what: str, texts: dict[str, int]) -> list[str]:
    counted = list(texts.items())
    lines = [f"  {what} {count:,}: {text}" for text, count in counted[:_TEXTS]]
    if rest := counted[_TEXTS:]:
        lines.append(f"  {what} {sum(count for _, count in rest):,}: for other reasons")
    return lines


def subset_remarks(subsets: Mapping[str, Mapping[str, Any]], unit: LengthUnit) -> list[str]:
    """One line a subset: what was asked for, and what it holds."""
    return [
        f"subset {name} ({subset['amount']}): {subset['samples']:,} of train"
        + f", {told_length(subset['length'], unit)}" * (subset["length"] != subset["samples"])
        for name, subset in subsets.items()
    ]


def source_key(name: str, setting: str = "source") -> str:
    """The setting that names a set's source, or another one of the set."""
    if name.startswith(TESTS):
        return f"data.tests.{name.removeprefix(TESTS)}.{setting}"
    return f"data.{setting}" if name == "common" else f"data.{name}.{setting}"


def prepare_plan(sets: dict[str, DataSet], folders: dict[str, Path], recipe: Recipe) -> Report:
    """What preparing would do, from the settings alone."""
    lines = [
        f"{name}: {data.source or f'not set yet ({source_key(name)}=PATH)'} -> {folders[name]}"
        for name, data in sets.items()
    ]
    settings = recipe.prepare
    assert settings is not None
    lines.append(
        f"shards of at most {settings.shard_samples:,} samples and "
        f"{settings.shard_megabytes:g} MB; val {settings.val_fraction:.1%}, test "
        f"{settings.test_fraction:.1%} where the source has none, drawn by {settings.split_by}; "
        f"duplicates: {settings.duplicates}"
    )
    if settings.subsets:
        named = ", ".join(f"{name} ({amount})" for name, amount in settings.subsets.items())
        lines.append(f"subsets of train: {named}")
    return Report(headline="Plan of prepare (nothing is written)", text="\n".join(lines))
