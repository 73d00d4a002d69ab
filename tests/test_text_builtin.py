"""The documentation inside CPython: enough of it, labelled, grouped by file, always the same."""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from d2v.modalities.base import SourceSettings
from d2v.modalities.text.builtin import FAMILIES
from d2v.modalities.text.source import read_source
from d2v.samples import SourceItem


@pytest.fixture(scope="module")
def items() -> list[SourceItem]:
    return list(read_source(SourceSettings(source="builtin:pydoc")))


def test_pydoc__has_topics_and_thousands_of_docstrings(items: list[SourceItem]) -> None:
    topics = [item for item in items if item.name.startswith("topics/")]
    assert 50 < len(topics) < 200
    assert all(item.label is None and item.group is None for item in topics)
    assert len(items) - len(topics) > 4000
    assert all(item.content for item in items)
    assert len({item.name for item in items}) > 0.95 * len(items)  # overloads repeat names


def test_pydoc_families__have_many_docstrings_from_several_files(
    items: list[SourceItem],
) -> None:
    counts = Counter(item.label for item in items)
    groups: defaultdict[str | None, set[str | None]] = defaultdict(set)
    for item in items:
        groups[item.label].add(item.group)
    assert set(FAMILIES) <= set(counts)
    for family in FAMILIES:
        assert counts[family] >= 100, family
        assert len(groups[family]) >= 3, family
    assert len(FAMILIES) == 12


def test_pydoc_docstrings__are_long_enough_and_of_the_standard_library(
    items: list[SourceItem],
) -> None:
    for item in items:
        if item.group is not None:
            assert len(item.read().decode()) >= 40
            assert "site-packages" not in item.group
            assert "/test/" not in item.group
            assert item.name.startswith(item.group + ":")


def test_pydoc__imports_nothing_and_repeats(
    items: list[SourceItem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logging").mkdir()
    source = 'raise RuntimeError("ran")\nif 1:\n  class A:\n    async def f(s):\n      "' + (
        "x" * 40 + '"\n      return "\\d"\n'
    )
    (tmp_path / "logging" / "b.py").write_text(source)
    (tmp_path / "logging" / "a.py").write_text(f'"""{"y" * 39}"""\ndef f():\n  """{"z" * 50}"""\n')
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.py").write_text(f'"""{"y" * 50}"""')
    before = set(sys.modules)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    found = [i for i in read_source(SourceSettings(source="builtin:pydoc")) if i.group]
    assert [(i.name, i.label, i.group) for i in found] == [
        ("logging/a.py:f", "logging", "logging/a.py"),
        ("logging/b.py:A.f", "logging", "logging/b.py"),
    ]
    assert set(sys.modules) == before
