"""What kind of model a file or folder is."""

from __future__ import annotations

from pathlib import Path

from d2v.errors import UsageError
from d2v.exchange.foreign import Foreign
from d2v.exchange.foreign_files import read_file
from d2v.exchange.huggingface.config import CONFIG
from d2v.exchange.huggingface.reader import KINDS, model_type, read_huggingface
from d2v.exchange.json_file import read_json
from d2v.exchange.tensor_files import WHOLE

KNOWN = (
    "a folder of Hugging Face's Data2VecVision, Data2VecAudio or Data2VecText classes, a fairseq "
    "v1 .pt of audio or text or 2.0 .pt of either or of images, an official v1 vision .pth, or "
    "timm's BEiT or ViT"
)


def recognise(source: Path, *, num_heads: int | None, tokenizer: Path | None) -> Foreign:
    """Read a model of another library.

    Args:
        source: a file or folder.
        num_heads: of attention, as the user says, where the source does not.
        tokenizer: a tokenizer's file, as the user says, where the source has none.

    Raises:
        UsageError: it is none that is known, cannot be read, or needs no such options.
    """
    source = source.expanduser()
    if not source.exists():
        raise UsageError(f"{source} does not exist", expected=KNOWN)
    if source.is_file():
        if source.name in WHOLE and model_type(source.parent) in KINDS:
            raise UsageError(
                f"{source} is a part of the model in {source.parent}",
                remedy=f"Name the folder: d2v import {source.parent} DEST.",
            )
        return read_file(source, num_heads=num_heads, tokenizer=tokenizer)
    kind = model_type(source)
    if kind in KINDS:
        return read_huggingface(source, num_heads=num_heads, tokenizer=tokenizer)
    if kind is not None:
        raise UsageError(
            f"{source / CONFIG} is of a model of type {kind}",
            expected=KNOWN + ": " + ", ".join(KINDS),
        )
    if "architecture" in read_json(source / CONFIG):
        return read_file(source, num_heads=num_heads, tokenizer=tokenizer)
    raise _unknown(source)


def _unknown(folder: Path) -> UsageError:
    if (folder / "pretrain").is_dir() or (folder / "checkpoints").is_dir():
        return UsageError(
            f"{folder} is a run of d2v already",
            remedy="Name it where a checkpoint is asked for; nothing needs to be imported.",
        )
    return UsageError(
        f"{folder} has no {CONFIG} that says what it is",
        expected=KNOWN,
        remedy=f"Download the {CONFIG} of the model, too, or name its file.",
    )
