"""A trained model as a program that runs without d2v: ONNX, or one of `torch.export`.

Both are traced once, written, loaded again and compared with the model on samples of other numbers
and lengths than those they were traced with.

Letters: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from d2v.core.features import mean_over_tokens
from d2v.errors import D2VError, UsageError
from d2v.exchange.outgoing import Exported, Outgoing
from d2v.exchange.programs.inputs import Inputs, inputs_of
from d2v.exchange.programs.network import COUNTS, POOLED, TOKENS, Network, answer_name
from d2v.exchange.programs.words import (
    DESCRIPTION,
    as_texts,
    describe,
    onnx_lines,
    torch_lines,
    write_beside,
)
from d2v.types import Batch

ONNX_FILE, TORCH_FILE = "model.onnx", "model.pt2"
ONNX_OPSET = 18
"""What torch's exporter writes without a conversion."""
WITHIN = 1e-4
"""Largest difference of outputs up to 1; of larger ones, as a share of the largest."""
_TRACED = (0.5, 0.3)
"""Sizes of the samples that programs are traced with, 0 shortest to 1 longest."""
_TRIED = ((0.7,), (0.2, 1.0, 0.0), (0.4, 0.4))
"""Those of the batches that they are tried on."""

Ask = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Inputs by name -> outputs by name."""


def export_onnx(outgoing: Outgoing, folder: Path) -> Exported:
    """Write `model.onnx` and how to call it, load it in onnxruntime and compare.

    Args:
        outgoing: the model.
        folder: exists, and is empty.

    Raises:
        UsageError: a library is missing.
        D2VError: onnxruntime gives other outputs.
    """
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        _library(needed)
    inputs, path = inputs_of(outgoing), folder / ONNX_FILE
    traced, names = _trace(outgoing, inputs)
    description = describe(outgoing, inputs, names)
    program = torch.onnx.export(
        traced, output_names=names, opset_version=ONNX_OPSET, dynamo=True, verbose=False
    )
    assert program is not None
    program.model.metadata_props.update(as_texts(description))
    program.save(path)
    what, how_to_load = f"ONNX program, opset {ONNX_OPSET}", onnx_lines(inputs, ONNX_FILE)
    write_beside(folder, outgoing, description, what, how_to_load)
    largest = _largest_difference(outgoing, inputs, _in_onnxruntime(path), "onnxruntime")
    return _exported(folder, what, how_to_load, largest)


def export_torch(outgoing: Outgoing, folder: Path) -> Exported:
    """Write `model.pt2` and how to call it, load it with `torch.export.load` and compare.

    Args:
        outgoing: the model.
        folder: exists, and is empty.

    Raises:
        D2VError: the program gives other outputs.
    """
    inputs, path = inputs_of(outgoing), folder / TORCH_FILE
    traced, names = _trace(outgoing, inputs)
    description = describe(outgoing, inputs, names)
    texts = as_texts(description)
    torch.export.save(traced, path, extra_files=texts)
    what, how_to_load = "torch.export program", torch_lines(inputs, TORCH_FILE)
    write_beside(folder, outgoing, description, what, how_to_load)
    program = torch.export.load(path).module()
    largest = _largest_difference(
        outgoing, inputs, lambda given: program(**given), "torch.export.load"
    )
    version = torch.__version__.split("+")[0]
    remark = f"Written by torch {version}; torch does not promise that other versions load it"
    return _exported(folder, what, how_to_load, largest, remark)


def _library(name: str) -> Any:
    """An optional library. Raises UsageError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(
            f"Exporting to ONNX needs {name}, and it is not installed",
            remedy="Install it with: pip install 'd2v[onnx]'.",
        ) from error


@torch.no_grad()
def _trace(outgoing: Outgoing, inputs: Inputs) -> tuple[ExportedProgram, list[str]]:
    """The program, and what its outputs are called, in their order."""
    module = inputs.program(Network(outgoing)).eval()
    example = inputs.draw(_TRACED, number=0).inputs
    names = list(module(**example))
    traced = torch.export.export(module, (), example, dynamic_shapes=inputs.dynamic(), strict=False)
    return traced, names


def _in_onnxruntime(path: Path) -> Ask:
    onnxruntime = _library("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def ask(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return ask


@torch.no_grad()
def _largest_difference(outgoing: Outgoing, inputs: Inputs, ask: Ask, where: str) -> float:
    """Of any output on any batch, absolute. Raises D2VError where it is too large."""
    largest = 0.0
    for number, sizes in enumerate(_TRIED, start=1):
        drawn = inputs.draw(sizes, number)
        expected = _ours(outgoing, drawn.batch)
        for name, theirs in ask(drawn.inputs).items():
            ours, keep = expected[name]
            if theirs.shape != ours.shape:
                raise _differs(where, name, f"shape {[*theirs.shape]} for {[*ours.shape]}")
            ours, theirs = (one if keep is None else one[keep] for one in (ours, theirs))
            difference = float((theirs.double() - ours.double()).abs().max())
            if not difference <= WITHIN * max(1.0, float(ours.abs().max())):
                raise _differs(where, name, f"a difference of {difference:.2g}")
            largest = max(largest, difference)
    return largest


def _ours(outgoing: Outgoing, batch: Batch) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Every output as d2v computes it, and where its rows hold data, (B, T) bool; None: all."""
    model = outgoing.model
    tokens = outgoing.frontend(outgoing.frontend.features(batch), None, batch.padding)
    encoded = outgoing.encoder(tokens)
    x = encoded.before_norm if model is not None and model.own_norm else encoded.last
    data, first = x[:, tokens.num_prefix :], tokens.num_prefix
    padding = None if tokens.padding is None else tokens.padding[:, first:]
    keep = None if padding is None else ~padding
    counts = torch.full(data.shape[:1], data.shape[1]) if keep is None else keep.sum(1)
    expected: dict[str, tuple[Tensor, Tensor | None]] = {
        TOKENS: (x, None if tokens.padding is None else ~tokens.padding),
        POOLED: (mean_over_tokens(data, padding), None),
        COUNTS: (counts, None),
    }
    if model is not None:
        answer = model.predict(batch)
        by_token = answer.lengths is not None
        expected[answer_name(outgoing)] = (answer.values, keep if by_token else None)
    return expected


def _differs(where: str, name: str, how: str) -> D2VError:
    return D2VError(
        f"The exported program answers otherwise in {where}: {name} has {how}",
        expected=f"at most {WITHIN:g}, of outputs above 1 as a share of the largest",
        remedy="Nothing was kept. Try other versions of the libraries, and report this.",
    )


def _exported(folder: Path, what: str, how_to_load: str, largest: float, *remarks: str) -> Exported:
    return Exported(
        what=what,
        files=tuple(sorted(path.name for path in folder.iterdir())),
        how_to_load=how_to_load,
        largest_difference=largest,
        remarks=(*remarks, f"Inputs and outputs are described in {DESCRIPTION}"),
    )
