"""Proves: the confusion matrix is drawn for any number of classes and any names."""

import random
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from d2v.tasks.pictures import draw_confusion


def drawn(
    predicted: list[int], truth: list[int], classes: list[str], path: Path
) -> NDArray[np.uint8]:
    draw_confusion(predicted, truth, classes, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def share_of_colour(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> float:
    return float((np.abs(pixels.astype(int) - colour).max(axis=2) <= 2).mean())


FULL = (8, 48, 107)
"""The darkest blue: all of a row."""


@pytest.mark.parametrize("num_classes", [1, 2, 20, 21, 60, 61, 300])
def test_confusion__is_drawn_in_a_size_that_a_screen_shows(
    num_classes: int, tmp_path: Path
) -> None:
    source = random.Random(num_classes)
    truth = source.choices(range(num_classes), k=200)
    predicted = source.choices(range(num_classes), k=200)
    names = [f"class number {number}" for number in range(num_classes)]
    height, width, _ = drawn(predicted, truth, names, tmp_path / "confusion.png").shape
    assert 300 <= height <= 1500
    assert 300 <= width <= 1500


def test_confusion__of_a_perfect_model_is_dark_on_the_diagonal_alone(tmp_path: Path) -> None:
    ids = list(range(4)) * 5
    wrong = [(number + 1) % 4 for number in ids]
    names = ["a", "b", "c", "d"]
    right = drawn(ids, ids, names, tmp_path / "right.png")
    shifted = drawn(wrong, ids, names, tmp_path / "wrong.png")
    assert share_of_colour(right, FULL) == pytest.approx(share_of_colour(shifted, FULL), rel=0.05)
    assert share_of_colour(right, FULL) > 0.05
    middle = right.shape[0] // 2
    rows = np.flatnonzero((np.abs(right.astype(int) - FULL).max(axis=2) <= 2)[:middle].any(axis=1))
    top = right[rows[0] + 5]  # inside the first row of cells: only its first cell is dark
    dark = np.flatnonzero(np.abs(top.astype(int) - FULL).max(axis=1) <= 2)
    assert dark.max() < right.shape[1] / 2


def test_confusion__colours_shares_of_a_row_and_not_counts(tmp_path: Path) -> None:
    rare, common = [0], [1] * 500
    pixels = drawn(rare + common, rare + common, ["a", "b"], tmp_path / "confusion.png")
    even = drawn([0, 1], [0, 1], ["a", "b"], tmp_path / "even.png")
    assert share_of_colour(pixels, FULL) == pytest.approx(share_of_colour(even, FULL), rel=0.05)


def test_confusion__writes_counts_into_cells_up_to_20_classes(tmp_path: Path) -> None:
    def with_counts(num_classes: int, count: int) -> NDArray[np.uint8]:
        ids, names = [0] * count, [str(number) for number in range(num_classes)]
        pixels = drawn(ids, ids, names, tmp_path / "confusion.png")
        return pixels[40:]  # without the title, which tells their sum

    few, many = with_counts(20, 3), with_counts(20, 8)
    assert (few != many).any()
    few, many = with_counts(21, 3), with_counts(21, 8)
    assert (few == many).all()


@pytest.mark.parametrize(
    "name",
    ["$x", "$\\frac{$", "日本", "two\nlines", "", "a" * 300, "_", "%", "\x00"],
)
def test_confusion__bears_any_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "confusion.png"
    height, width, _ = drawn([0, 1], [0, 0], [name, "b"], path).shape
    assert max(height, width) < 900


def test_confusion__is_drawn_without_samples(tmp_path: Path) -> None:
    pixels = drawn([], [], ["a", "b"], tmp_path / "confusion.png")
    assert share_of_colour(pixels, FULL) < 0.05  # the colour bar's end alone
