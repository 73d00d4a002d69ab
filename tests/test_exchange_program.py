"""Proves: an exported program gives what d2v gives, for any number of samples of any length.

Every program is loaded and called by the very lines that its report tells the user.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from d2v.core.encoder import Encoder
from d2v.core.features import pooled_features
from d2v.core.seeding import generator_for
from d2v.errors import D2VError, UsageError
from d2v.exchange.outgoing import Exported, Outgoing
from d2v.exchange.programs import export as program
from d2v.exchange.programs.export import export_onnx, export_torch
from d2v.exchange.programs.inputs import inputs_of
from d2v.exchange.programs.network import Network
from d2v.modalities import build_modality
from d2v.modalities.speech.decode import standardise
from d2v.recipe import Recipe
from d2v.tasks import build_task
from d2v.types import Batch
from tests.model_case import ABOUT, BY_NAME, shake

EXPORTS = {"onnx": export_onnx, "torch": export_torch}
WITHIN = {"onnx": 1e-4, "torch": 1e-5}
POST = {"norm_position": "post", "norm_eps": 1e-5}
FOREIGN = {"positions": {**BY_NAME["speech-convolution"].settings["frontend"]["positions"],
                         "kernel": 4, "zero_padding": "first"}, "bias": True}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A model; `frontend` changes that of the modality's usual case."""

    case: str
    frontend: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] | None = None
    answer: str = ""


KINDS = {
    "pictures, relative, own norm": Kind(
        case="vision", frontend={"positions": "relative"}, encoder={"layer_scale": 0.5},
        task={"name": "classify", "head": {"norm": True}}, answer="logits",
    ),
    "pictures, relative per block": Kind(
        case="vision", frontend={"positions": "relative_per_block", "cls_token": False},
    ),
    "convolutions, post-norm": Kind(
        case="speech-convolution", encoder={**POST, "input_norm": True}, task={"name": "ctc"},
        answer="log_probs",
    ),
    "convolutions, pre-norm, as elsewhere": Kind(case="speech-convolution", frontend=FOREIGN),
    "log-mel, pre-norm": Kind(
        case="speech-logmel", task={"name": "regress", "low": -2.0, "high": 5.0}, answer="value",
    ),
    "texts, post-norm": Kind(
        case="text", frontend={"token_types": 1}, encoder=POST, answer="logits",
        task={"name": "classify", "head": {"pool": "first", "hidden": True}},
    ),
}  # fmt: skip


def outgoing_of(kind: Kind, learned: Path, name: str = "tiny") -> Outgoing:
    """The model with arbitrary weights."""
    case, task = BY_NAME[kind.case], kind.task
    usual = case.settings
    recipe = Recipe.model_validate({
        "name": name,
        "modality": {**usual, "frontend": {**usual["frontend"], **kind.frontend}},
        "encoder": {"dim": 16, "depth": 2, "num_heads": 2, "init_std": 0.25, "layer_scale": None,
                    **kind.encoder},
        "objective": {"top_k": 2},
        "finetune": None if task is None else {"task": task},
    })  # fmt: skip
    learned.mkdir(parents=True)
    build_modality(recipe.modality).learn(case.items, learned)
    modality = build_modality(recipe.modality, learned)
    torch.manual_seed(0)  # timm draws from the global generator when it builds its parts
    frontend, encoder = modality.build_frontend(recipe.encoder), Encoder(recipe.encoder)
    parts: dict[str, Any] = {"frontend": frontend, "encoder": encoder}
    for module in parts.values():
        module.initialise(generator_for("program case"))
    if recipe.finetune is not None:
        built = build_task(recipe.finetune.task, ABOUT[recipe.finetune.task.name])
        model = built.build(frontend, encoder)
        model.initialise_head(generator_for("program case", 1))
        parts |= {"model": model.eval().requires_grad_(False), "task": built}
        shake(model.head)
    for module in (frontend, encoder):
        shake(module)
        module.eval().requires_grad_(False)
    return Outgoing(
        recipe=recipe, modality=modality, **parts, learned=learned, name=name,
        network="student" if task is None else "fine-tuned", steps=7, licence="MIT",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Written:
    """An exported program and what it was made from."""

    outgoing: Outgoing
    exported: Exported
    folder: Path
    kind: Kind
    to: str
    space: dict[str, Any] = field(default_factory=dict)

    def ask(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the lines that tell how to load and call it; `x = ...` is the user's part."""
        lines = self.exported.how_to_load.replace("DEST", str(self.folder)).splitlines()
        own = [number for number, line in enumerate(lines) if " = ..." in line]
        assert [lines[number].split(" = ...")[0] for number in own] == list(inputs)
        if not self.space:
            exec("\n".join(lines[: own[0]]), self.space)
        given = {n: t.numpy() if self.to == "onnx" else t for n, t in inputs.items()}
        space = {**self.space, **given}
        exec("\n".join(lines[own[-1] + 1 :]), space)
        return {name: torch.as_tensor(value) for name, value in space["outputs"].items()}


@pytest.fixture(scope="module", name="written")
def written_fixture(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Written:
    to, name = request.param
    folder = tmp_path_factory.mktemp("program")
    kind = KINDS[name]
    outgoing = outgoing_of(kind, folder / "learned")
    (folder / "there").mkdir()
    exported = EXPORTS[to](outgoing, folder / "there")
    return Written(outgoing=outgoing, exported=exported, folder=folder / "there", kind=kind, to=to)


EVERY = pytest.mark.parametrize(
    "written", [(to, name) for name in KINDS for to in EXPORTS], indirect=True,
    ids=[f"{name}-{to}" for name in KINDS for to in EXPORTS],
)  # fmt: skip


def samples(outgoing: Outgoing, sizes: list[int]) -> tuple[dict[str, Tensor], Batch]:
    """What a caller gives and what d2v batches; sizes in tokens, of pictures without meaning."""
    settings, generator = outgoing.recipe.modality, generator_for("asked", *sizes)
    if settings.name == "vision":
        side = settings.frontend.image_size
        pixels = torch.randint(256, (len(sizes), 1, side, side), generator=generator)
        return {"pictures": pixels.byte()}, outgoing.modality.collate(list(pixels.byte()))
    if settings.name == "speech":
        geometry = settings.frontend.geometry
        lengths = [geometry.receptive_field + geometry.stride * size - 37 for size in sizes]
        waves = [0.2 * torch.randn(n, generator=generator) - 0.1 for n in lengths]
        batch = outgoing.modality.collate([standardise(wave) for wave in waves])
        padded = pad_sequence(waves, batch_first=True)
        return {"waveforms": padded, "lengths": torch.tensor(lengths)}, batch
    rows = [torch.randint(5, 200, (size,), generator=generator) for size in sizes]
    batch = outgoing.modality.collate(rows)
    return {"ids": batch.inputs}, batch


def expected(outgoing: Outgoing, batch: Batch, answer: str) -> dict[str, Tensor]:
    """d2v's own functions."""
    if outgoing.model is not None:
        outputs = outgoing.model.predict(batch)
        return {answer: outputs.values}
    pooled = pooled_features(outgoing.frontend, outgoing.encoder, batch, pool="mean", block=None)
    return {"pooled": pooled}


@EVERY
def test_program__answers_as_d2v_on_other_numbers_and_lengths(written: Written) -> None:
    within = WITHIN[written.to]
    assert written.exported.largest_difference <= within
    for sizes in ([5], [30, 12, 21, 4], [17, 17]):
        inputs, batch = samples(written.outgoing, sizes)
        found = written.ask(**inputs)
        for name, ours in expected(written.outgoing, batch, written.kind.answer).items():
            theirs = found[name]
            if name == "log_probs":
                keep = torch.arange(ours.shape[1]) < found["num_tokens"].unsqueeze(1)
                ours, theirs = ours[keep], theirs[keep]
            torch.testing.assert_close(theirs, ours, rtol=within, atol=within)
        if batch.padding is not None:
            assert found["num_tokens"].tolist() == (~batch.padding).sum(1).tolist()


@EVERY
def test_program__is_described_beside_it(written: Written) -> None:
    told = json.loads((written.folder / "inputs.json").read_text())
    inputs, _ = samples(written.outgoing, [6, 4])
    found = written.ask(**inputs)
    assert list(told["inputs"]) == sorted(inputs)
    assert sorted(told["outputs"]) == sorted(found)
    for name, tensor in {**inputs, **found}.items():
        said = {**told["inputs"], **told["outputs"]}[name]
        assert said["dtype"] == str(tensor.dtype).removeprefix("torch."), name
        assert len(said["shape"]) == tensor.ndim, name
        for size, real in zip(said["shape"], tensor.shape, strict=True):
            assert real == (2 if size == "batch" else real if isinstance(size, str) else size)
    if written.kind.task is not None:
        about = ABOUT[written.kind.task["name"]]
        assert {name: told[name] for name in about} == about
    files = {"inputs.json", "README.md", {"onnx": "model.onnx", "torch": "model.pt2"}[written.to]}
    files |= {"tokenizer.json"} if written.kind.case == "text" else set()
    assert set(written.exported.files) == files == {path.name for path in written.folder.iterdir()}
    page = (written.folder / "README.md").read_text()
    assert all(f"`{name}`" in page for name in [*inputs, *found])


@pytest.mark.parametrize(
    "written", [("onnx", "convolutions, post-norm"), ("torch", "convolutions, post-norm")],
    indirect=True, ids=list(EXPORTS),
)  # fmt: skip
def test_recording__what_lies_behind_its_end_is_not_read(written: Written) -> None:
    inputs, _ = samples(written.outgoing, [30, 12])
    plain = written.ask(**inputs)
    longer = torch.nn.functional.pad(inputs["waveforms"], (0, 3000), value=float("nan"))
    longer[1, int(inputs["lengths"][1]) :] = 1e6
    found = written.ask(waveforms=longer, lengths=inputs["lengths"])
    assert found["num_tokens"].tolist() == plain["num_tokens"].tolist()
    for row, length in enumerate(plain["num_tokens"].tolist()):
        for name in ("tokens", "log_probs"):
            torch.testing.assert_close(
                found[name][row, :length], plain[name][row, :length], rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize(
    "written", [(to, "convolutions, post-norm") for to in EXPORTS], indirect=True, ids=list(EXPORTS)
)
def test_program__carries_its_description_itself(written: Written) -> None:
    path = written.folder / written.exported.files[-1]
    names = ["symbols", "sample_rate_hz", "name", "modality"]
    if written.to == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        said = session.get_modelmeta().custom_metadata_map
    else:
        said = dict.fromkeys(names, "")
        torch.export.load(path, extra_files=said)
    assert json.loads(said["symbols"]) == ABOUT["ctc"]["symbols"]
    assert [said[name] for name in names[1:]] == ["16000", "tiny", "speech"]


# What is refused


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_onnx__without_its_libraries_says_what_to_install(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outgoing = outgoing_of(KINDS["pictures, relative per block"], tmp_path / "learned")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=rf"needs {library}.*pip install 'd2v\[onnx\]'"):
        export_onnx(outgoing, tmp_path)


@pytest.mark.parametrize("name", ["tokens", "pooled", "log_probs", "num_tokens"])
def test_difference__of_any_output_is_an_error(name: str, tmp_path: Path) -> None:
    outgoing = outgoing_of(KINDS["convolutions, post-norm"], tmp_path / "learned")
    inputs = inputs_of(outgoing)
    module = inputs.program(Network(outgoing)).eval()

    def changed(given: Mapping[str, Tensor], by: float) -> dict[str, Tensor]:
        found: dict[str, Tensor] = module(**given)
        scale = max(1.0, float(found[name].abs().max()))
        return {**found, name: found[name] + by * scale}

    whole = 1 if name == "num_tokens" else 0
    largest = program._largest_difference
    assert largest(outgoing, inputs, partial(changed, by=0.0), "here") < 1e-5
    for by in (2e-4 + whole, float("nan")):
        with pytest.raises(D2VError, match=rf"answers otherwise in here: {name} has a difference"):
            largest(outgoing, inputs, partial(changed, by=by), "here")
