"""Files of other libraries, recognised by what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v.errors import UsageError
from d2v.exchange.fairseq.reader import is_fairseq, read_fairseq
from d2v.exchange.fairseq.vision import is_port, read_port
from d2v.exchange.foreign import Foreign
from d2v.exchange.huggingface.config import CONFIG
from d2v.exchange.json_file import read_json
from d2v.exchange.pickled import flat_tensors, read_pickled
from d2v.exchange.pictures.official import TEACHER, is_official, read_official
from d2v.exchange.pictures.timm_source import is_timm, read_timm
from d2v.exchange.tensor_files import file_tensors, folder_tensors

_STATES = ("model", "module", "state_dict")
"""Where checkpoints keep the weights: fairseq and the official code, DeepSpeed, timm."""
_AVERAGE = "model_ema"
_WRAPPERS = ("module.", "_orig_mod.")
"""What stands before every name where a model was saved inside another object."""
_SHOWN = 5
_KNOWN = "fairseq's data2vec or data2vec 2.0, official data2vec vision, or timm's BEiT or ViT"


def read_file(path: Path, *, num_heads: int | None, tokenizer: Path | None) -> Foreign:
    """The model in a file, or in a folder in timm's format.

    Args:
        path: a .pt, .pth, .bin or .safetensors file, or a folder with timm's config.json.
        num_heads: of attention, where the source does not tell.
        tokenizer: a tokenizer.json for a model of text.

    Raises:
        UsageError: it cannot be read, is none that is known, or an option does not fit it.
    """
    content: Mapping[str, Any] = {}
    config = None
    if path.is_dir():
        config = read_json(path / CONFIG)
        tensors = _unwrapped(flat_tensors(folder_tensors(path), str(path)))
    elif path.suffix == ".safetensors":
        tensors = _unwrapped(flat_tensors(file_tensors(path), str(path)))
    else:
        content = read_pickled(path)
        tensors = _model_tensors(content, str(path))
    if config is None and is_fairseq(tensors):
        return read_fairseq(path, content, tensors, num_heads=num_heads, tokenizer=tokenizer)
    if tokenizer is not None:
        raise UsageError(
            f"--tokenizer {tokenizer} means nothing to {path}: it is no model of text",
            remedy="Leave it out.",
        )
    if config is None and is_port(tensors):
        return read_port(path, content, tensors, num_heads=num_heads)
    if config is None and is_official(content, tensors):
        return read_official(path, content, tensors, num_heads=num_heads)
    if is_timm(tensors):
        return read_timm(path, tensors, config=config, num_heads=num_heads)
    raise _unknown(path, tensors)


def _model_tensors(content: Mapping[str, Any], place: str) -> dict[str, Tensor]:
    """The model's tensors, and those of its average behind `model_ema.`, without wrappers."""
    state = next(
        (content[name] for name in _STATES if isinstance(content.get(name), Mapping)), None
    )
    if state is None:
        state = {name: value for name, value in content.items() if name != _AVERAGE}
    tensors = _unwrapped(flat_tensors(state, place))
    average = content.get(_AVERAGE)
    if isinstance(average, Mapping):
        inner = _unwrapped(flat_tensors(average, place))
        tensors |= {f"{TEACHER}{name}": tensor for name, tensor in inner.items()}
    return tensors


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what stands before every name."""
    for wrapper in _WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return _unwrapped({name[len(wrapper) :]: one for name, one in tensors.items()})
    return tensors


def _unknown(path: Path, tensors: Mapping[str, Tensor]) -> UsageError:
    names = sorted(tensors)
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return UsageError(
        f"{path} holds no model that d2v knows; it holds {shown or 'no tensors'}",
        expected=f"{_KNOWN}; models of Hugging Face are folders",
    )
