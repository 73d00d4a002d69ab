"""Proves: an import replaces nothing that it did not write, and takes no integers for weights."""

from pathlib import Path

import pytest
import torch

from d2v.errors import UsageError
from d2v.exchange.land import MANIFEST, check_free
from d2v.exchange.links import Layout, Same, to_ours


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """What an import has left."""
    dest = tmp_path / "earlier"
    (dest / "pretrain").mkdir(parents=True)
    (dest / "finetune" / "model").mkdir(parents=True)
    (dest / MANIFEST).write_text("{}")
    return dest


def test_an_earlier_import__may_be_replaced(earlier: Path, tmp_path: Path) -> None:
    check_free(earlier, tmp_path / "model.pt", fresh=True)
    with pytest.raises(UsageError, match="Pass --fresh"):
        check_free(earlier, tmp_path / "model.pt", fresh=False)


@pytest.mark.parametrize("more", ["probe", "finetune/checkpoints", "mine.txt"])
def test_what_came_later__is_not_replaced(earlier: Path, tmp_path: Path, more: str) -> None:
    (earlier / more).mkdir()
    with pytest.raises(UsageError, match="holds more than an imported model: [a-z]+"):
        check_free(earlier, tmp_path / "model.pt", fresh=True)


def test_the_folder_that_one_is_in__is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is the folder that you are in"):
        check_free(Path(), tmp_path.parent / "model.pt", fresh=False)


def test_a_source_within_the_destination__outlives_it(earlier: Path) -> None:
    source = earlier / "pretrain" / "model.pt"
    source.write_bytes(b"weights")
    with pytest.raises(UsageError, match="which would be replaced"):
        check_free(earlier, source, fresh=True)


def test_quantised_weights__are_not_taken_for_weights() -> None:
    layout = Layout(links=(Same("encoder.weight", ("weight",)),))
    theirs = {"weight": torch.ones(2, dtype=torch.int8)}
    with pytest.raises(UsageError, match=r"weight \[\[2\]\]: torch\.int8"):
        to_ours(layout, theirs, {"encoder.weight": torch.Size([2])}, "file")
