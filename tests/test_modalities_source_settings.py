"""Settings of a source that a modality does not read are refused, not passed over in silence."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from d2v.errors import UsageError
from d2v.modalities.base import SourceSettings
from d2v.modalities.speech import source as recordings
from d2v.modalities.text import source as texts
from d2v.modalities.vision import source as pictures
from d2v.samples import SourceItem

Reader = Callable[[SourceSettings], Iterator[SourceItem]]
OTHER: dict[str, Any] = {
    "path_column": "file",
    "label_from": "speaker",
    "label_kind": "number",
    "label_column": "kind",
    "split_column": "part",
    "speaker_column": "who",
    "transcript_column": "said",
    "start_column": "from",
    "end_column": "to",
    "text_column": "words",
    "pair_column": "second",
    "whole_texts": True,
    "documents": "blank_line",
    "header": False,
    "quoting": False,
}
"""A value for every setting that is not its default; source and files are read by all."""
SPEECH = {"label_from", "speaker_column", "transcript_column", "start_column", "end_column"}
TEXT = {"text_column", "pair_column", "whole_texts", "documents"}
UNREAD: list[tuple[Reader, str, set[str]]] = [
    (pictures.read_source, "a.png", SPEECH | TEXT),
    (recordings.read_source, "a.wav", TEXT),
    (texts.read_source, "a.txt", SPEECH | {"path_column"}),
]


@pytest.mark.parametrize(("read", "name", "unread"), UNREAD, ids=["pictures", "recordings", "text"])
@pytest.mark.parametrize("setting", OTHER)
def test_setting__is_read_or_refused(
    tmp_path: Path, read: Reader, name: str, unread: set[str], setting: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    settings = SourceSettings(source=str(tmp_path), **{setting: OTHER[setting]})
    if setting == "label_from" and setting not in unread:  # a flat folder names no speaker
        with pytest.raises(UsageError, match="names none"):
            read(settings)
    elif setting in unread:
        with pytest.raises(UsageError, match=rf"data\.{setting}=.*only data\.source, .*Leave"):
            read(settings)
    else:
        assert [item.path for item in read(settings)] == [tmp_path / name]


def test_settings__are_each_read_by_some_modality() -> None:
    read = {*pictures.READS, *recordings.READS, *texts.READS}
    assert read == set(SourceSettings.model_fields)
    assert read == {"source", "files", *OTHER}
