"""What is told of an exported program: within it, and in files beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2v import __version__
from d2v.engine.whole_folder import as_json
from d2v.exchange.outgoing import Outgoing
from d2v.exchange.programs.inputs import Inputs
from d2v.exchange.programs.network import ANSWERS, COUNTS, POOLED, TOKENS
from d2v.modalities.text.tokenizer import TOKENIZER_FILE

DESCRIPTION, README = "inputs.json", "README.md"
PLACE = "DEST"
"""Stands for the folder in `Exported.how_to_load`."""


def describe(outgoing: Outgoing, inputs: Inputs, names: Sequence[str]) -> dict[str, Any]:
    """Everything that a caller must know, as JSON.

    Args:
        outgoing: the model.
        inputs: of its modality.
        names: of the program's outputs, in their order.
    """
    told: dict[str, Any] = {
        "d2v": __version__,
        "name": outgoing.name,
        "network": outgoing.network,
        "modality": outgoing.recipe.modality.name,
        "inputs": inputs.describe(),
        "outputs": {name: _output(name, outgoing, inputs) for name in names},
        **inputs.facts(),
    }
    if outgoing.task is not None:
        assert outgoing.recipe.finetune is not None
        told |= {"task": outgoing.recipe.finetune.task.name, **outgoing.task.about()}
    if _tokenizer(outgoing) is not None:
        told["tokenizer"] = f"{TOKENIZER_FILE}, beside the program; Hugging Face's tokenizers"
    if outgoing.licence is not None:
        told["licence"] = outgoing.licence
    return told


def as_texts(description: Mapping[str, Any]) -> dict[str, str]:
    """The same as names and texts; what is no text is JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in description.items()
    }


def write_beside(
    folder: Path, outgoing: Outgoing, description: Mapping[str, Any], what: str, how_to_load: str
) -> None:
    """The description, a page for people, and the tokenizer where there is one."""
    (folder / DESCRIPTION).write_bytes(as_json(description))
    tokenizer = _tokenizer(outgoing)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)
    told = (
        f"The {outgoing.network} of `{outgoing.name}`, a data2vec model of "
        f"{description['modality']}, as a program that needs no d2v."
    )
    page = [f"# {outgoing.name}: {what}", "", told, ""]
    for title in ("inputs", "outputs"):
        page += [f"## {title.capitalize()}", ""]
        page += [
            f"- `{name}` ({', '.join(map(str, one['shape']))}) {one['dtype']}: {one['meaning']}"
            for name, one in description[title].items()
        ]
        page.append("")
    code = how_to_load.replace(f"{PLACE}/", "")
    page += ["## How to call it", "", "```python", code, "```", ""]
    page.append(f"`{DESCRIPTION}` says this and more to programs, and so does the program itself.")
    if outgoing.licence is not None:
        page += ["", f"Licence: {outgoing.licence}"]
    (folder / README).write_text("\n".join(page) + "\n", encoding="utf-8")


def onnx_lines(inputs: Inputs, file: str) -> str:
    """Python that calls a program in onnxruntime."""
    names = ", ".join(f'"{name}": {name}' for name in inputs.describe())
    return "\n".join([
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{PLACE}/{file}")',
        *_made(inputs, "NumPy array"),
        f"values = session.run(None, {{{names}}})",
        "outputs = dict(zip([output.name for output in session.get_outputs()], values))",
    ])  # fmt: skip


def torch_lines(inputs: Inputs, file: str) -> str:
    """Python that calls a program of `torch.export`."""
    names = ", ".join(f"{name}={name}" for name in inputs.describe())
    return "\n".join([
        "import torch",
        "",
        f'program = torch.export.load("{PLACE}/{file}").module()',
        *_made(inputs, "tensor"),
        f"outputs = program({names})",
    ])  # fmt: skip


def _made(inputs: Inputs, kind: str) -> list[str]:
    return [
        f"{name} = ...  # {kind} ({', '.join(map(str, one['shape']))}) {one['dtype']}"
        for name, one in inputs.describe().items()
    ]


def _output(name: str, outgoing: Outgoing, inputs: Inputs) -> dict[str, Any]:
    """Shape, dtype and meaning of one output."""
    dim, one_size = outgoing.encoder.settings.dim, outgoing.recipe.modality.name == "vision"
    cls = ", CLS first" * bool(inputs.facts()["prefix_tokens"])
    padded = "" if one_size else ", without meaning where a row is padded"
    about = {} if outgoing.task is None else outgoing.task.about()
    classes, symbols = len(about.get("classes", ())), len(about.get("symbols", ()))
    shape, meaning = {
        TOKENS: (["batch", "tokens", dim], f"the encoder's output{cls}{padded}"),
        POOLED: (["batch", dim], "its mean over the tokens that hold data, without CLS"),
        COUNTS: (["batch"], "tokens of each row that hold data"),
        ANSWERS["classify"]: (["batch", classes], "softmax gives the probability of each of "
                              "`classes`"),
        ANSWERS["regress"]: (["batch"], "in the scale of the training data"),
        ANSWERS["ctc"]: (["batch", "tokens", symbols], "log-probability of each of `symbols`; the "
                         "first is CTC's blank"),
    }[name]  # fmt: skip
    return {
        "shape": shape,
        "dtype": "int64" if name == COUNTS else "float32",
        "meaning": f"{meaning}.",
    }


def _tokenizer(outgoing: Outgoing) -> Path | None:
    """Where the tokenizer lies, if there is one."""
    path = None if outgoing.learned is None else outgoing.learned / TOKENIZER_FILE
    return path if path is not None and path.is_file() else None
