"""Proves: what d2v cannot follow in a fairseq file is refused, by name and with its reason."""

from pathlib import Path
from typing import Any

import pytest
import torch

from d2v.errors import UsageError
from d2v.exchange.fairseq.settings import told_settings
from d2v.exchange.foreign_files import read_file
from tests.foreign_case import HEADS, read, speech_content, speech_tensors, written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_first": True}, "layer_norm_first True"),
        ({"extractor_mode": "default"}, "extractor_mode 'default'"),
        ({"activation_fn": "relu"}, "activation_fn 'relu'"),
        ({"encoder_attention_heads": 5}, "5 attention heads do not divide"),
        ({"conv_feature_layers": "[(6, 10, 5)]"}, "its kernels are"),
        ({"conv_feature_layers": "__import__('os').system('true')"}, "conv_feature_layers"),
        ({"conv_feature_layers": "[(6, 10, 5)] * 99999999999"}, "conv_feature_layers"),
    ],
)
def test_settings_that_d2v_cannot_follow__are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = written(tmp_path / "base.pt", speech_content(speech_tensors(), **changes))
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        read(path)


def test_heads_of_user_and_file__must_agree(tmp_path: Path) -> None:
    path = written(tmp_path / "base.pt", speech_content(speech_tensors()))
    assert read(path, num_heads=HEADS)[1].encoder.num_heads == HEADS
    with pytest.raises(UsageError, match="--num-heads is 8, and .* says encoder_attention_heads 4"):
        read(path, num_heads=8)


def test_wav2vec_2__is_no_data2vec(tmp_path: Path) -> None:
    tensors = {name: one for name, one in speech_tensors().items() if "pos_conv" not in name}
    tensors["encoder.pos_conv.0.weight_g"] = torch.ones(1, 1, 8)
    path = written(tmp_path / "w2v.pt", speech_content(tensors))
    with pytest.raises(UsageError, match=r"wav2vec 2\.0"):
        read_file(path, num_heads=None, tokenizer=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.layers.1.fc2.bias"), r"1 missing: encoder\.layers\.1\.fc2\.bias"),
        (lambda t: t.update(strange=torch.ones(1)), "1 unknown: strange"),
        (lambda t: t.update({"mask_emb": torch.ones(5)}), "1 of another shape: mask_emb"),
    ],
)
def test_a_tensor_too_few_too_many_or_too_large__is_an_error(
    tmp_path: Path, change: Any, message: str
) -> None:
    tensors = speech_tensors()
    change(tensors)
    with pytest.raises(UsageError, match=message):
        read(written(tmp_path / "base.pt", speech_content(tensors)))


def test_a_tokenizer_for_speech__is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "base.pt", speech_content(speech_tensors()))
    with pytest.raises(UsageError, match="means nothing to speech"):
        read_file(path, num_heads=None, tokenizer=tmp_path / "tokenizer.json")


def test_unresolved_references__are_as_if_unsaid() -> None:
    cfg = {"model": {"ema_anneal_end_step": "${optimization.max_update}", "loss_beta": 1.0}}
    assert told_settings({"cfg": cfg}) == {"loss_beta": 1.0}
