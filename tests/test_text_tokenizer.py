"""The tokenizer: the same bytes every time, exactly as large as asked, or loaded and checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from d2v.errors import D2VError, UsageError
from d2v.modalities.text.learn import learn_tokenizer
from d2v.modalities.text.store import StoreSettings
from d2v.modalities.text.tokenizer import (
    TokenizerSettings,
    about_tokenizer,
    load_tokenizer,
    token_ids,
)
from d2v.samples import SourceItem
from tests.text_corpus import SMALL, corpus, item, learned

FILE = "tokenizer.json"


def learn(folder: Path, settings: TokenizerSettings, *items: SourceItem) -> str:
    """What the attempt says; empty where it succeeds."""
    try:
        learn_tokenizer(lambda: list(items), settings, StoreSettings(), folder)
    except D2VError as error:
        return str(error)
    return ""


def changed(source: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a tokenizer with something else in its JSON."""
    content = json.loads(source.read_bytes())
    change(content)
    path = source.with_name("changed.json")
    path.write_text(json.dumps(content))
    return path


def test_trained_tokenizer__has_the_size_and_the_special_ids_of_the_settings(
    tmp_path: Path,
) -> None:
    tokenizer = load_tokenizer(learned(tmp_path), SMALL)
    assert tokenizer.get_vocab_size() == 400
    names = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    assert tuple(map(tokenizer.token_to_id, names)) == (0, 1, 2, 3, 399) == SMALL.special_ids


@pytest.mark.parametrize("size", [261, 262, 300])
def test_trained_tokenizer__begins_with_all_bytes(tmp_path: Path, size: int) -> None:
    settings = TokenizerSettings(size=size)
    tokenizer = load_tokenizer(learned(tmp_path, settings), settings)
    text = "stone " + "".join(map(chr, [*range(1, 0x300), 0x4E00, 0x1F600]))
    assert tokenizer.decode(token_ids(tokenizer, text)) == text
    assert 3 not in token_ids(tokenizer, text)


def test_training__gives_the_same_bytes_every_time(tmp_path: Path) -> None:
    """In two threads or more, where there are cores; their words are counted in any order."""
    texts = [item(corpus(1000, seed)) for seed in range(4)]
    settings = TokenizerSettings(size=600)
    for name in "abc":
        assert learn(tmp_path / name, settings, *texts) == ""
    assert len({(tmp_path / name / FILE).read_bytes() for name in "abc"}) == 1


def test_training__reads_nothing_of_val_and_test_and_passes_over_what_is_bad(
    tmp_path: Path,
) -> None:
    made = (learned(tmp_path / "a") / FILE).read_bytes()
    others = [
        item("zebra zebra zebra quagga quagga", split="val"),
        item("zebra zebra zebra quagga quagga", split="test"),
        item("zebra zebra", problem="ruled out by its source"),
        item(b"zebra zebra \xff"),
        item(corpus(), split="train"),
    ]
    assert learn(tmp_path / "b", SMALL, *others) == ""
    assert (tmp_path / "b" / FILE).read_bytes() == made


def test_vocabulary_larger_than_the_data_supports__is_refused_with_the_largest_possible(
    tmp_path: Path,
) -> None:
    message = learn(tmp_path, TokenizerSettings(size=5000), item(corpus()))
    assert "supports a vocabulary of " in message
    assert "not of 5,000" in message
    assert not list(tmp_path.iterdir())
    largest = int(message.split("modality.tokenizer.size=")[1].split()[0])
    assert learn(tmp_path, TokenizerSettings(size=largest), item(corpus())) == ""
    assert learn(tmp_path / "b", TokenizerSettings(size=largest + 1), item(corpus())) != ""


def test_no_text__is_refused(tmp_path: Path) -> None:
    assert "no text to train a tokenizer on" in learn(tmp_path, SMALL, item("x", split="test"))


def test_training_with_other_special_ids__is_refused(tmp_path: Path) -> None:
    message = learn(tmp_path, TokenizerSettings(size=400, pad_id=7), item(corpus()))
    assert "(0, 1, 2, 3, 399), and the settings say (0, 7, 2, 3, 399)" in message


def test_learning__is_done_once(tmp_path: Path) -> None:
    path = learned(tmp_path) / FILE
    before = path.stat().st_mtime_ns
    assert learn(tmp_path, SMALL, item("never read")) == ""
    assert path.stat().st_mtime_ns == before
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]
    message = learn(tmp_path, TokenizerSettings(size=401), item(corpus()))
    assert "has 400 tokens and modality.tokenizer.size is 401" in message


def test_tokenizer_from_a_path__is_copied_as_it_is(tmp_path: Path) -> None:
    path = learned(tmp_path / "a") / FILE
    settings = TokenizerSettings(size=400, path=path)
    assert learn(tmp_path / "b", settings) == ""
    assert (tmp_path / "b" / FILE).read_bytes() == path.read_bytes()
    about = about_tokenizer(tmp_path / "b", settings)
    assert about == about_tokenizer(tmp_path / "a", SMALL)
    assert (about["tokens"], about["special_ids"]) == (400, [0, 1, 2, 3, 399])
    assert len(about["tokenizer_sha256"]) == 64


def without_mask(content: dict[str, Any]) -> None:
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] != "<mask>"
    ]


def with_berts_names(content: dict[str, Any]) -> None:
    names = {"<s>": "[CLS]", "<pad>": "[PAD]", "</s>": "[SEP]", "<unk>": "[UNK]",
             "<mask>": "[MASK]"}  # fmt: skip
    for token in content["added_tokens"]:
        token["content"] = names[token["content"]]
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {names.get(name, name): n for name, n in vocabulary.items()}


def test_tokenizer_that_does_not_fit__names_the_setting_to_change(tmp_path: Path) -> None:
    path = learned(tmp_path / "a") / FILE

    def said(path: Path, **settings: int) -> str:
        fields = {"size": 400, **settings}
        return learn(tmp_path / "b", TokenizerSettings(path=path, **fields))

    assert "Set modality.tokenizer.size=400." in said(path, size=50_265)
    message = said(path, pad_id=5)
    assert "the token <pad> has id 1" in message
    assert "Set modality.tokenizer.pad_id=1." in message
    message = said(changed(path, without_mask), size=399)
    assert "has no token <mask> (nor [MASK])" in message
    assert "modality.tokenizer.path=null" in message
    assert "cannot be read" in said(tmp_path / "gone.json")
    (tmp_path / "bad.json").write_text("{}")
    assert "is not a tokenizer" in said(tmp_path / "bad.json")
    assert not (tmp_path / "b").exists()


def test_special_tokens__may_have_berts_names(tmp_path: Path) -> None:
    path = changed(learned(tmp_path) / FILE, with_berts_names)
    assert learn(tmp_path / "b", TokenizerSettings(size=400, path=path)) == ""


def test_text_that_spells_special_tokens__gives_ordinary_ones(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(learned(tmp_path), SMALL)
    text = "<s> stone</s><mask> <unk>"
    ids = token_ids(tokenizer, text)
    assert not set(ids) & set(SMALL.special_ids)
    assert tokenizer.decode(ids) == text


def test_tokenizer_with_cutting_padding_and_additions__does_none_of_it(tmp_path: Path) -> None:
    path = learned(tmp_path / "a") / FILE
    loud = Tokenizer.from_file(str(path))
    loud.enable_truncation(4)
    loud.enable_padding(length=50)
    loud.save(str(tmp_path / "loud.json"))
    settings = TokenizerSettings(size=400, path=tmp_path / "loud.json")
    assert learn(tmp_path / "b", settings) == ""
    quiet = load_tokenizer(tmp_path / "a", SMALL)
    text = "stone river garden winter letter candle"
    ids = token_ids(load_tokenizer(tmp_path / "b", settings), text)
    assert ids == token_ids(quiet, text)
    assert len(ids) > 4


def test_changed_file__is_loaded_anew(tmp_path: Path) -> None:
    learned(tmp_path)
    assert load_tokenizer(tmp_path, SMALL) is load_tokenizer(tmp_path, SMALL)
    path = tmp_path / FILE
    path.write_bytes(changed(path, with_berts_names).read_bytes())
    assert load_tokenizer(tmp_path, SMALL).token_to_id("[MASK]") == 399
    path.unlink()
    with pytest.raises(UsageError, match="There is no tokenizer.*--fresh"):
        load_tokenizer(tmp_path, SMALL)


def test_folder_that_cannot_be_written__is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "Cannot write" in learn(tmp_path / "file", SMALL, item(corpus()))
