"""Proves: texts as a modality: ids read back, cropped, put side by side, and refused by name.

The promises that all modalities share are proven in test_modalities_contract.py.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from d2v.core.encoder import EncoderSettings
from d2v.errors import BadSampleError, UsageError
from d2v.modalities.text.modality import Text, TextSettings
from d2v.samples import SourceItem
from d2v.types import Batch
from tests.maths_case import seeded

SIZE = 300
SENTENCES = [
    "The teacher reads the whole text, the student reads a masked one.",
    "Nobody reads it all.",
    "Every sample begins with the same token, and ends with another one. So it does.",
]


def text(**changes: Any) -> Text:
    tokenizer = {"size": SIZE, **changes.pop("tokenizer", {})}
    return Text(TextSettings.model_validate({"name": "text", "tokenizer": tokenizer, **changes}))


def stored(ids: list[int]) -> dict[str, bytes]:
    content = io.BytesIO()
    np.save(content, np.array(ids, np.uint16))
    return {"tokens.npy": content.getvalue()}


# Reading


def test_decode__gives_the_stored_ids() -> None:
    ids = [0, 17, 299, 5, 2]
    found = text().decode(stored(ids), None)
    assert (found.tolist(), found.dtype) == (ids, torch.int64)
    assert text().decode(stored(ids), None, limit=5).tolist() == ids


def test_decode__without_a_generator_crops_to_the_beginning() -> None:
    ids = [0, *range(10, 30), 2]
    assert text().decode(stored(ids), None, limit=6).tolist() == ids[:6]


def test_decode__crops_anywhere_and_keeps_the_first_token() -> None:
    ids = [0, *range(10, 30), 2]
    begins = set()
    for seed in range(400):
        found = text().decode(stored(ids), seeded(seed), limit=6).tolist()
        start = ids.index(found[1])
        assert found == [0, *ids[start : start + 5]]
        begins.add(start)
    assert begins == set(range(1, len(ids) - 4)), "every place, the end included"


@pytest.mark.parametrize("ids", [[], [0, 300, 2]])
def test_decode__of_ids_that_no_token_has_is_refused(ids: list[int]) -> None:
    with pytest.raises(BadSampleError, match="damaged"):
        text().decode(stored(ids), None)


def test_collate__pads_on_the_right_by_length_alone() -> None:
    rows = [[0, 9, 2], [0, 1, 1, 1, 2], [0, 2]]  # `<pad>` inside a text is no padding
    batch = text().collate([torch.tensor(row) for row in rows])
    assert batch.inputs.tolist() == [[0, 9, 2, 1, 1], [0, 1, 1, 1, 2], [0, 2, 1, 1, 1]]
    assert batch.padding is not None
    assert batch.padding.tolist() == [[i >= len(row) for i in range(5)] for row in rows]
    assert batch.inputs.dtype == torch.int64


def test_collate__of_equal_lengths_pads_nothing() -> None:
    batch = text().collate([torch.tensor([0, 1, 2]), torch.tensor([0, 7, 1])])
    assert batch.padding is None


# Settings and data


def test_settings__samples_longer_than_positions_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"block_tokens 512 is more than .*max_tokens 64"):
        text(frontend={"max_tokens": 64})
    text(frontend={"max_tokens": 64}, store={"block_tokens": 64})


def learned(folder: Path, **changes: Any) -> Text:
    """Two texts' worth of tokenizer; repeated, so that pairs are frequent enough."""
    modality = text(**changes)
    items = [SourceItem(name=str(i), content=s.encode()) for i, s in enumerate(SENTENCES * 3)]
    modality.learn(lambda: items, folder)
    return Text(modality.settings, folder)


def test_check_data__takes_its_own_and_refuses_others_by_setting(tmp_path: Path) -> None:
    about = json.loads(json.dumps(learned(tmp_path).about()))
    text().check_data(about)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"tokenizer": {"size": 400}}, r"300 tokens.*size is 400.*Set .*\.size=300"),
        ({"tokenizer": {"mask_id": 4}}, r"<mask> has the id 299.*tokenizer\.mask_id says 4"),
        ({"tokenizer": {"bos_id": 2, "eos_id": 0}}, r"Set modality\.tokenizer\.bos_id=0"),
        ({"frontend": {"max_tokens": 64}, "store": {"block_tokens": 64}},
         r"up to 512 tokens.*max_tokens is 64.*max_tokens=512"),
    ]  # fmt: skip
    for changes, message in refused:
        with pytest.raises(UsageError, match=message):
            text(**changes).check_data(about)
    with pytest.raises(UsageError, match=r"do not say which tokenizer.*modality\.name"):
        text().check_data({"sample_rate_hz": 16_000})


def test_common_about__is_the_tokenizer_and_not_the_length_of_blocks(tmp_path: Path) -> None:
    long, short = learned(tmp_path), text(store={"block_tokens": 16}).settings
    about, other = long.about(), Text(short, tmp_path).about()
    assert about != other
    assert [about[key] for key in long.common_about] == [other[key] for key in long.common_about]
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")  # another file
    assert [long.about()[key] for key in long.common_about] != [about["tokenizer_sha256"]]


def test_encode__and_decode_give_texts_that_the_model_takes(tmp_path: Path) -> None:
    modality = learned(tmp_path, store={"block_tokens": 16}, frontend={"max_tokens": 16})
    items = [SourceItem(name="a", content=" ".join(SENTENCES).encode()),
             SourceItem(name="b", content=SENTENCES[1].encode(), label="short")]  # fmt: skip
    samples = [sample for item in items for sample in modality.encode(item)]
    examples = [modality.decode(sample.members, None) for sample in samples]
    assert [len(example) for example in examples] == [sample.length for sample in samples]
    assert len(examples) > 3
    assert all(int(example[0]) == 0 for example in examples)
    batch = modality.collate(examples)
    mask = modality.sample_mask(batch, [seeded(i) for i in range(len(batch))])
    frontend = modality.build_frontend(EncoderSettings(dim=8, num_heads=2, depth=1))
    frontend.initialise(seeded(0))
    values = frontend(frontend.features(batch), mask, batch.padding).values
    assert values.shape == (*batch.inputs.shape, 8)
    assert values.isfinite().all()


# Figures


@pytest.mark.parametrize(("length", "tokens", "masked"), [(None, 512, 157), (99.6, 100, 31)])
def test_plan__counts_what_is_masked_once(length: float | None, tokens: int, masked: int) -> None:
    plan = text().plan(EncoderSettings(), length)
    assert (plan.num_tokens, plan.num_masked, plan.frontend_flops) == (tokens, masked, 0)


def test_baseline__counts_as_many_tokens_as_set() -> None:
    batch = Batch(inputs=torch.randint(SIZE, (5, 40), generator=seeded(0)))
    few = text(baseline_tokens=20).baselines(lambda: [batch])
    assert few["TF-IDF"](batch).shape == (5, 20)
    assert text().baselines(lambda: [batch])["TF-IDF"](batch).shape == (5, SIZE - 5)
