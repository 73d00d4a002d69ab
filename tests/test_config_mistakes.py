"""Proves: every mistake in a recipe becomes one UsageError with key, value, origin and remedy.

Nothing of Hydra or pydantic leaks into the message.
"""

from pathlib import Path

import pytest

from tests.config_house import house_fixture, mistake, write

__all__ = ["house_fixture"]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("objective.topk=3", ["objective.topk is not a setting", "objective.top_k?"]),
        ("top_k=3", ["top_k is not a setting", "objective.top_k?"]),
        ("data={kind: folder, sorce: x}", ["data.sorce is not", "data.source?"]),
        ("+sets.a.sorce=x", ["sets.a.sorce is not", "sets.a.source?"]),
        ("+probe.topk=1", ["probe.topk is not", "probe.top_k?"]),
        (
            "data={kind: builtin, source: x}",
            ["data.source is a setting of data.kind=folder alone", "~data.source"],
        ),
        ("data.source=x", ["data.kind is missing", "data.kind=..."]),
        ("data.kind=foldr", ["data.kind = foldr", "'folder'", "'builtin'", "mean folder?"]),
        ("encoder.depth=abc", ["encoder.depth = abc", "a whole number"]),
        ("encoder.depth=2.5", ["encoder.depth = 2.5", "a whole number"]),
        ("encoder.width=-1", ["encoder.width = -1", "greater than 0"]),
        ("objective.target_norm=Layer", ["target_norm = Layer", "'instance'", "mean layer?"]),
        ("encoder.betas=[0.1]", ["encoder.betas = [0.1]", "more values"]),
        ("encoder=7", ["encoder = 7", "a section"]),
        ("encoder.drop_rate=nan", ["encoder.drop_rate = NaN", "finite"]),
        ("num_workers=some", ["num_workers = some", "a whole number or 'auto'"]),
        ("objective.top_k=10", ["objective.top_k exceeds encoder.depth."]),
        ("~encoder.width", ["encoder.width is missing", "encoder.width=..."]),
        ("seed=true", ["seed = true", "a whole number"]),
        ("encoder.drop_rate=false", ["drop_rate = false", "a number"]),
        ("encoder.betas=[0.9,true]", ["encoder.betas.1 = true", "a number"]),
        ("num_workers=true", ["num_workers = true", "a whole number or 'auto'"]),
        ("seed='\"3\"'", ["seed = ", "a whole number"]),
        ("shuffle=1", ["shuffle = 1", "true or false"]),
        ("name=/tmp/x/", ["name = /tmp/x/", "expected pattern"]),
        ("encoder.betas=[1,2,3]", ["encoder.betas = [1, 2, 3]", "at most 2 items"]),
        ("name=3", ["name = 3", "text"]),
    ],
)
def test_mistake__names_key_value_expectation_and_remedy(
    house: Path, override: str, parts: list[str]
) -> None:
    message = mistake("vision/digits", override)
    assert [part for part in parts if part not in message] == []
    assert "validation error" not in message


def test_mistake__all_are_listed_with_their_origins(house: Path) -> None:
    write(house.parent / "mine.yaml", "encoder: {width: wide}\nsed: 1\n")
    lines = mistake("mine.yaml", "objective.top_k=many").splitlines()
    assert lines[0] == "3 mistakes in mine.yaml:"
    assert "  - encoder.width = wide (mine.yaml): expected a whole number." in lines
    assert "  - objective.top_k = many (command line): expected a whole number." in lines
    assert "  - sed is not a setting (mine.yaml). Did you mean seed?" in lines


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("seed=1,2", "d2v ablate"),
        ("seed=range(1,3)", "d2v ablate"),
        ("encoder=vit-small,vit-tiny", "d2v ablate"),
        ("encoder=vit-smal", "Did you mean encoder=vit-small?"),
        ("hydra.searchpath=[x]", "Hydra itself"),
        ("hydra/launcher=basic", "Hydra itself"),
        ("seed", "not KEY=VALUE"),
        ("", "not KEY=VALUE"),
        ("seed=(", "not KEY=VALUE"),
        ("~nothing", "nothing"),
        ("seed=???", "seed open"),
        ("seed=${nowhere.at.all}", "nowhere"),
        ("seed.deeper=1", "seed"),
    ],
)
def test_mistake__on_the_command_line(house: Path, override: str, part: str) -> None:
    assert part in mistake("vision/digits", override)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seed: 1\nname: [a\n", "bad.yaml, line 3"),
        ("seed: 1\nseed: 2\n", "bad.yaml, line 2"),
        ("seed: 1\n\tname: x\n", "bad.yaml, line 2"),
        ("- a\n- b\n", "bad.yaml"),
        ("just words\n", "bad.yaml"),
        ("defaults: [/encoder: nope, _self_]\n", "vit-tiny"),
        ("defaults: [nowhere, _self_]\n", "nowhere"),
        ("hydra: {searchpath: [x]}\n", "Hydra itself"),
        ("encoder: ${nowhere}\n", "nowhere"),
        ("# @package\nseed: 1\n", "bad.yaml"),
        ("", "encoder is missing"),
    ],
)
def test_mistake__in_the_file_names_the_file(house: Path, text: str, part: str) -> None:
    write(house.parent / "bad.yaml", text)
    message = mistake("bad.yaml")
    assert part in message
    assert "search path" not in message.lower()
