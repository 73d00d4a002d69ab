"""Proves: an imported model reads and writes with the tokens that it was trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from d2v.errors import UsageError
from d2v.exchange.huggingface.config import AudioConfig, TextConfig
from d2v.exchange.huggingface.symbols import ctc_symbols
from d2v.exchange.huggingface.tokenizer import fitted_tokenizer, free_ids
from d2v.modalities.text.tokenizer import TokenizerSettings, parse_tokenizer, token_ids
from tests.stock_case import byte_tokenizer

FIRST = ("<s>", "<pad>", "</s>", "<unk>")
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "b")]
TEXTS = ("the cab", " the  abbey", "naïve – 日本 the", "<s> is no token here", "")


def config(size: int = 261, **settings: Any) -> TextConfig:
    return TextConfig(vocab_size=size, **settings)


def bpe(folder: Path) -> Tokenizer:
    """A tokenizer in the two files of GPT-2 and RoBERTa."""
    tokenizer = byte_tokenizer(FIRST, MERGES)
    model = json.loads(tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return tokenizer


# Texts


def test_tokenizer__that_lies_there_is_kept_byte_by_byte(tmp_path: Path) -> None:
    byte_tokenizer(FIRST).save(str(tmp_path / "tokenizer.json"))
    found = fitted_tokenizer(config(), tmp_path, None)
    assert found is not None
    assert found.content == (tmp_path / "tokenizer.json").read_bytes()
    assert found.ids == {"size": 261, "pad_id": 1, "bos_id": 0, "eos_id": 2, "unk_id": 3,
                         "mask_id": 260}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_bpe__of_two_files_reads_like_the_stock_one(text: str, tmp_path: Path) -> None:
    from transformers import RobertaTokenizer

    own = bpe(tmp_path)
    found = fitted_tokenizer(config(265), tmp_path, None)
    assert found is not None
    settings = TokenizerSettings.model_validate(found.ids)
    ids = token_ids(parse_tokenizer(found.content, "here", settings), text)
    own.encode_special_tokens = True
    assert ids == own.encode(text, add_special_tokens=False).ids
    stock = RobertaTokenizer.from_pretrained(tmp_path)
    if "<s>" not in text:  # which d2v takes for ordinary characters
        assert ids == stock(text, add_special_tokens=False)["input_ids"]


def test_tokenizer__may_be_named_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    bpe(tmp_path)
    named = tmp_path / "vocab.json"
    found = fitted_tokenizer(config(265), tmp_path / "model", named)
    assert found is not None
    assert found.ids["mask_id"] == 264
    assert fitted_tokenizer(config(265), tmp_path / "model", None) is None
    with pytest.raises(UsageError, match="is not needed"):
        fitted_tokenizer(config(265), tmp_path, named)
    with pytest.raises(UsageError, match="no such file"):
        fitted_tokenizer(config(265), tmp_path / "model", tmp_path / "nowhere.json")


def test_tokenizer__of_fewer_tokens_than_rows_is_filled_up(tmp_path: Path) -> None:
    byte_tokenizer(FIRST).save(str(tmp_path / "tokenizer.json"))
    found = fitted_tokenizer(config(264), tmp_path, None)
    assert found is not None
    assert len(found.notes) == 1
    settings = TokenizerSettings.model_validate(found.ids)
    filled = parse_tokenizer(found.content, "here", settings)
    plain = byte_tokenizer(FIRST)
    assert filled.get_vocab_size() == 264
    for text in (*TEXTS[:3], "<unused-262>"):
        assert max(token_ids(filled, text), default=0) < 261
        assert token_ids(filled, text) == plain.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"vocab_size": 260}, "has 261 tokens, and the model 260 rows"),
        ({"vocab_size": 261, "pad_token_id": 0}, "padding is 0"),
    ],
    ids=["more tokens than rows", "another padding"],
)
def test_tokenizer__that_does_not_fit_is_refused(
    settings: dict[str, int], told: str, tmp_path: Path
) -> None:
    byte_tokenizer(FIRST).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UsageError, match=told):
        fitted_tokenizer(TextConfig.model_validate(settings), tmp_path, None)


def test_tokenizer__that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="is not a tokenizer"):
        fitted_tokenizer(config(), tmp_path, None)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(UsageError, match="no byte-level BPE"):
        fitted_tokenizer(config(), tmp_path, None)


def test_ids__of_a_model_without_a_tokenizer_differ_from_each_other() -> None:
    ids = free_ids(config(pad_token_id=3, bos_token_id=260, eos_token_id=None))
    assert ids["size"] == 261
    assert ids["pad_id"] == 3
    assert ids["bos_id"] == 260
    TokenizerSettings.model_validate(ids)


# Symbols


def spelled(folder: Path, names: list[str], *, blank: int | None = 0, **files: Any) -> Any:
    files = {"vocab": {name: number for number, name in enumerate(names)}, **files}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    settings = AudioConfig(vocab_size=len(names), pad_token_id=blank)
    return ctc_symbols(settings, folder, None)


def test_symbols__of_the_published_models_are_those_of_fairseq(tmp_path: Path) -> None:
    # The conversion swapped two names: CTC's blank is <pad> there (reference section 3.2).
    symbols, rows = spelled(tmp_path, ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T"])
    assert symbols == ("<s>", "<pad>", "</s>", "<unk>", "|", "E", "T")
    assert rows == tuple(range(7))


def test_symbols__begin_with_the_blank_wherever_it_stands(tmp_path: Path) -> None:
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    names = ["|", "a", "[UNK]", "[PAD]"]
    symbols, rows = spelled(tmp_path, names, blank=3, tokenizer_config=roles)
    assert symbols == ("<s>", "|", "a", "<unk>")
    assert rows == (3, 0, 1, 2)


REFUSED: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "the blank elsewhere": (["a", "<pad>", "<unk>", "|"], {}, "elsewhere or not at all"),
    "no blank": (["a", "b", "<unk>", "|"], {"blank": None}, "pad_token_id is None"),
    "syllables": (["<pad>", "<unk>", "|", "ka"], {}, "'ka' is not one character"),
    "no boundary": (["<pad>", "<unk>", "a"], {}, r"lacks \|"),
    "no unknown": (["<pad>", "|", "a"], {}, "lacks <unk>"),
    "several languages": (["<pad>"], {"vocab": {"de": {"a": 1}}}, "not one vocabulary"),
    "a gap": (["<pad>", "a"], {"vocab": {"<pad>": 0, "a": 2}}, "names 2 symbols"),
}


@pytest.mark.parametrize(("names", "files", "told"), REFUSED.values(), ids=REFUSED)
def test_symbols__that_d2v_cannot_spell_with_are_refused(
    names: list[str], files: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told):
        spelled(tmp_path, names, **files)


def test_symbols__that_nobody_tells_are_asked_for(tmp_path: Path) -> None:
    settings = AudioConfig(vocab_size=4)
    with pytest.raises(UsageError, match="--tokenizer FILE"):
        ctc_symbols(settings, tmp_path, None)
    named = tmp_path / "named.json"
    named.write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 3}))
    assert ctc_symbols(settings, tmp_path, named)[0] == ("<s>", "<unk>", "|", "a")
