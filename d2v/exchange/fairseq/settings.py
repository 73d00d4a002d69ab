"""What a fairseq checkpoint says of its own settings (reference sections 1.2, 1.3, 2.2, 2.3, 5.1).

New files hold `cfg`, sections within each other; old ones `args`, one flat namespace. A fine-tuned
recogniser holds the settings of its pre-training as `w2v_args` inside.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Any

from d2v.errors import UsageError
from d2v.exchange.pickled import as_plain

Told = dict[str, Any]
"""Setting -> value, as the file says it."""
_REGULARISATION = ("dropout", "attention_dropout", "activation_dropout", "layerdrop",
                   "encoder_layerdrop", "final_dropout")  # fmt: skip
"""Settings that fine-tuning sets anew."""
_UNRESOLVED = ("${", "???")
"""What omegaconf's references and missing values begin with."""
_CLOSE = 1e-4
_TARGET_NORMS = {
    "batch_norm_target_layer": "batch",
    "instance_norm_target_layer": "instance",
    "layer_norm_target_layer": "layer",
}
"""In the order in which fairseq applies them."""
_MEAN_NORMS = {"layer_norm_targets": "layer", "instance_norm_targets": "instance"}


def told_settings(content: Mapping[str, Any]) -> Told:
    """The settings of a checkpoint's model under fairseq's names, flat; {} where it says nothing.

    Args:
        content: of the file, as it was read.
    """
    found: Told = {}
    for name in ("args", "cfg"):
        section = as_plain(content.get(name))
        if isinstance(section, dict):
            found |= _flattened(section)
    return {
        name: value
        for name, value in found.items()
        if not (isinstance(value, str) and value.startswith(_UNRESOLVED))
    }


def _flattened(section: Told) -> Told:
    model = section.get("model")
    own = model if isinstance(model, dict) else section
    found = {name: value for name, value in own.items() if not isinstance(value, dict)}
    transformer = own.get("transformer")
    if isinstance(transformer, dict):  # text
        found |= {name: one for name, one in transformer.items() if not isinstance(one, dict)}
        encoder = transformer.get("encoder")
        if isinstance(encoder, dict):
            found |= {f"encoder_{name}": one for name, one in encoder.items()}
    inner = own.get("w2v_args")
    if isinstance(inner, dict):
        found |= _flattened(inner) | {name: own[name] for name in _REGULARISATION if name in own}
    task = section.get("task")
    if isinstance(task, dict) and "normalize" in task:
        found["normalize"] = task["normalize"]
    return found


def number(told: Told, name: str, default: float) -> float:
    """A number among the settings; the default where they do not tell."""
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return default
    return float(value)


def flag(told: Told, name: str) -> bool | None:
    """A yes or no among the settings; None where they do not tell."""
    value = told.get(name)
    return value if isinstance(value, bool) else None


def check_told(told: Told, wanted: Mapping[str, Any], place: str) -> None:
    """Refuse settings that d2v has no counterpart of.

    Args:
        told: what the file says.
        wanted: setting -> the one value that d2v can follow; unsaid is taken for it.
        place: names the file.

    Raises:
        UsageError: one is another.
    """
    for name, value in wanted.items():
        found = told.get(name)
        if found is not None and found != value:
            raise UsageError(
                f"{place} was trained with {name} {found!r}, which d2v has no counterpart of",
                expected=f"{name} {value!r}, as in the published models",
            )


def heads_of(told: Told, asked: int | None, dim: int, place: str) -> tuple[int, str | None]:
    """Attention heads, which no tensor of fairseq tells.

    Args:
        told: what the file says.
        asked: what the user says.
        dim: width.
        place: names the file.

    Returns:
        The number, and a note where it was guessed.

    Raises:
        UsageError: file and user disagree, or nobody knows.
    """
    name = "encoder_attention_heads"
    said = round(number(told, name, 0)) or None
    if said is not None and asked is not None and said != asked:
        raise UsageError(
            f"--num-heads is {asked}, and {place} says {name} {said}", remedy="Leave it out."
        )
    heads = said or asked or (dim // 64 if dim % 64 == 0 else 0)
    if heads < 1 or dim % heads:
        raise UsageError(
            f"{place} does not tell its attention heads"
            if heads < 1
            else f"{heads} attention heads do not divide the width {dim} of {place}",
            expected="a number that divides the width",
            remedy="Pass --num-heads.",
        )
    guessed = None
    if said is None and asked is None:
        guessed = f"Nothing tells the attention heads: {heads}, of 64 channels each, were assumed."
    return heads, guessed


def conv_strides(
    told: Told, kernels: tuple[int, ...], place: str, name: str = "conv_feature_layers"
) -> tuple[int, ...]:
    """The strides of the convolutions over the waveform, which no tensor tells; `name` says them.

    Raises:
        UsageError: the file does not say, and the kernels are not the published ones.
    """
    said = told.get(name)
    if isinstance(said, str):
        layers = _layers(said)
        if layers is None or tuple(kernel for _, kernel, _ in layers) != kernels:
            raise UsageError(
                f"{place} says {name} {said!r}, and its kernels are {list(kernels)}",
                expected="a list of (channels, kernel, stride) that fits",
            )
        return tuple(stride for _, _, stride in layers)
    if kernels != (10, 3, 3, 3, 3, 2, 2):
        raise UsageError(
            f"{place} does not tell the strides of its convolutions, with kernels {list(kernels)}",
            expected=f"{name} in its settings, or the published kernels",
        )
    return (5, 2, 2, 2, 2, 2, 2)


def _layers(said: str) -> list[tuple[int, int, int]] | None:
    """`[(512, 10, 5)] + [(512, 3, 2)] * 4` as a list, worked out without running it."""
    try:
        value = _worked_out(ast.parse(said.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return None
    layers = [
        tuple(one)
        for one in (value if isinstance(value, list) else [])
        if isinstance(one, tuple) and len(one) == 3 and all(isinstance(part, int) for part in one)
    ]
    return layers if isinstance(value, list) and len(layers) == len(value) else None


def _worked_out(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _worked_out(node.left), _worked_out(node.right)
        if isinstance(left, list) and isinstance(right, list):
            return left + right
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _worked_out(node.left), _worked_out(node.right)
        if isinstance(left, list) and isinstance(right, int) and 0 < len(left) * right <= 100:
            return left * right
    else:
        return ast.literal_eval(node)
    raise ValueError("neither a sum of lists nor a multiple of one")


def objective_of(
    told: Told, published: Mapping[str, Any], *, dim: int, depth: int, head_layers: int
) -> tuple[Told, list[str]]:
    """The `objective` section, and notes about what of it d2v does otherwise.

    Args:
        told: what the file says; what it leaves out is as published.
        published: the modality's objective.
        dim: width.
        depth: blocks; no more of them are averaged.
        head_layers: of the regression head, 0 where the file has none.
    """
    notes: list[str] = []
    found = {
        **published,
        "top_k": min(depth, round(number(told, "average_top_k_layers", published["top_k"]))),
        "beta": number(told, "loss_beta", published["beta"]),
        "head_layers": head_layers or published["head_layers"],
    }
    for setting, flags in (("target_norm", _TARGET_NORMS), ("mean_norm", _MEAN_NORMS)):
        if any(name in told for name in flags):
            chosen = [norm for name, norm in flags.items() if told.get(name)]
            found[setting] = chosen[-1] if chosen else "none"
            if len(chosen) > 1:
                notes.append(f"Its targets are normalised {' then '.join(chosen)}; d2v: the last.")
    if "loss_scale" in told:
        scale = number(told, "loss_scale", 0.0)
        names = {1.0: "sum", 1 / math.sqrt(dim): "inv_sqrt_dim", 1 / dim: "mean"}
        fitting = [
            name for value, name in names.items() if math.isclose(scale, value, rel_tol=_CLOSE)
        ]
        if scale > 0 and not fitting:
            notes.append(f"Its loss was scaled by {scale:g}; d2v: {found['channel_reduction']}.")
        else:
            found["channel_reduction"] = fitting[0] if fitting else "inv_sqrt_dim"
    if "ema_decay" in told:
        start = number(told, "ema_decay", 0.999)
        end = number(told, "ema_end_decay", 0.9999)
        steps = round(number(told, "ema_anneal_end_step", 0))
        found["tau"] = {
            "schedule": "constant" if start == end else "linear",
            "tau_0": start,
            "tau_e": end,
            "tau_n": f"{steps} steps" if steps > 0 else "100 %",
        }
    return found, notes
