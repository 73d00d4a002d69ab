"""What stands on top of fairseq's models: regression heads, projections to symbols, classifiers.

Source: reference sections 1.3, 3.2, 3.3, 5.3 and 5.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from d2v.exchange.fairseq.settings import Told, number
from d2v.exchange.links import Link, both
from d2v.exchange.pickled import as_plain
from d2v.exchange.task_head import TaskHead
from d2v.tasks.transcripts import check_symbols

_LETTERS = ("<s>", "<pad>", "</s>", "<unk>", *"|ETAONIHSRDLUMWCFGYPBVK'XJQZ")
"""The published vocabulary (reference section 3.2)."""


class Tops(NamedTuple):
    """What stands on top of a model.

    Args:
        task: a task's head, where d2v has its like.
        regression: links of the head that pre-training regresses with, where there is no task's.
        left_out: patterns of names that are of no use -> why.
        notes: what a user should know.
    """

    task: TaskHead | None
    regression: list[Link]
    left_out: dict[str, str]
    notes: list[str]


def regression_links(tensors: Mapping[str, Tensor], name: str) -> list[Link]:
    """Of the regression head: one linear layer under that name, or some with numbers below it."""
    if f"{name}.weight" in tensors:
        return list(both("head.0", name))
    pattern = re.compile(rf"{re.escape(name)}\.(\d+)\.weight")
    numbers = sorted(int(match[1]) for one in tensors if (match := pattern.fullmatch(one)))
    return [
        link
        for place, number_there in enumerate(numbers)
        for link in both(f"head.{2 * place}", f"{name}.{number_there}")
    ]


def recogniser_head(
    content: Mapping[str, Any], tensors: Mapping[str, Tensor], told: Told
) -> TaskHead | str:
    """The projection to symbols, or why d2v cannot use it.

    Args:
        content: of the file: its task's state may hold the dictionary of symbols.
        tensors: of its model.
        told: its settings.
    """
    projection = tensors.get("w2v_encoder.proj.weight")
    if projection is None:
        return "the file has no w2v_encoder.proj"
    state = as_plain(content.get("task_state"))
    dictionary = state.get("target_dictionary") if isinstance(state, dict) else None
    symbols = dictionary.get("symbols") if isinstance(dictionary, dict) else None
    if symbols is None and len(projection) == len(_LETTERS):
        symbols = list(_LETTERS)
    if symbols is None:
        return f"nothing tells what its {len(projection)} symbols are"
    wrong = check_symbols(symbols)
    if wrong is None and len(symbols) != len(projection):
        wrong = f"it has {len(symbols)} symbols, and the projection {len(projection)}"
    if wrong is not None:
        return f"its vocabulary is not one of letters: {wrong}"
    return TaskHead(
        task={"name": "ctc", "dropout": number(told, "final_dropout", 0.0)},
        about={"symbols": symbols},
        links=list(both("head.projection", "w2v_encoder.proj")),
    )


def sentence_head(tensors: Mapping[str, Tensor]) -> TaskHead | str | None:
    """The one classifier of sentences; why none of several is taken; None where there is none."""
    pattern = re.compile(r"classification_heads\.([^.]+)\.out_proj\.weight")
    names = sorted(match[1] for name in tensors if (match := pattern.fullmatch(name)))
    if len(names) > 1:
        return f"there are {len(names)} of them ({', '.join(names)})"
    if not names:
        return None
    where = f"classification_heads.{names[0]}"
    head = {"pool": "first", "hidden": True}
    count = len(tensors[f"{where}.out_proj.weight"])
    task = {"name": "regress" if count == 1 else "classify", "head": head}
    return TaskHead(
        task=task,
        about={} if count == 1 else {"classes": [str(number) for number in range(count)]},
        links=[*both("head.hidden", f"{where}.dense"), *both("head.last", f"{where}.out_proj")],
    )
