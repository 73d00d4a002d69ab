"""Proves: the recogniser's loss is CTC as defined, padding changes nothing, and it learns."""

import math

import pytest
import torch
from torch import Tensor

from d2v.core.encoder import Encoder
from d2v.modalities.speech.masks import MaskSettings
from d2v.tasks.base import Answer
from d2v.tasks.ctc_model import CtcHead, CtcModel
from d2v.tasks.decoding import greedy
from d2v.tasks.transcripts import as_ids
from d2v.types import Batch, Mask
from tests.ctc_case import SYMBOLS, Frames, all_paths_ctc, collapsed, model, slow_ctc, task
from tests.maths_case import normal, seeded, shaken, tail_padding, tiny_settings
from tests.speech_case import CONVOLUTION, batch_of, modality, waves

SPOKEN = ["A B", "ABBA CC", "C", None, "CAB AC"]
FRAMES = [9, 14, 2, 7, 12]


def spoken_batch(texts: list[str | None] = SPOKEN, lengths: list[int] = FRAMES) -> Batch:
    """Ragged frames (B, T, 12), padded with noise."""
    return Batch(
        inputs=normal(1, len(texts), max(lengths), 12),
        padding=tail_padding(lengths, max(lengths)),
        targets=task().collate(texts),
    )


def log_probs_of(built: CtcModel, batch: Batch) -> list[Tensor]:
    """Each utterance alone, without padding."""
    assert batch.padding is not None
    rows = []
    for row, hidden in zip(batch.inputs, batch.padding, strict=True):
        count = int((~hidden).sum())
        rows.append(built.predict(Batch(inputs=row[:count].unsqueeze(0))).values[0])
    return rows


def test_slow_twins__agree_with_each_other() -> None:
    for seed, labels in enumerate([[1], [1, 1], [1, 2], [2, 1, 2], [1, 1, 1], []]):
        log_probs = normal(seed, 4, 3).log_softmax(1)
        assert slow_ctc(log_probs, labels) == pytest.approx(all_paths_ctc(log_probs, labels))


def test_loss__is_the_forward_algorithms_summed_over_utterances() -> None:
    built, batch = model(), spoken_batch()
    shaken(built)
    loss = built.eval()(batch, None, monitor=True)
    expected = sum(
        slow_ctc(log_probs, as_ids(text, SYMBOLS))
        for log_probs, text in zip(log_probs_of(built, batch), SPOKEN, strict=True)
        if text is not None
    )
    assert loss.total.item() == pytest.approx(expected, rel=1e-9)
    assert int(loss.count) == 4, "the one without a transcript has no part in it"
    assert loss.monitors["too_long"].item() == 0


def test_loss__has_the_gradient_of_finite_differences() -> None:
    built, batch = model(), spoken_batch()
    shaken(built)
    built.eval()(batch, None).total.backward()
    weight = built.get_parameter("head.projection.weight")
    assert weight.grad is not None
    for place in [(0, 0), (4, 3), (5, 11), (3, 1)]:
        with torch.no_grad():
            ends = []
            for step in (1e-6, -1e-6):
                weight[place] += step
                ends.append(built(batch, None).total.item())
                weight[place] -= step
        slope = (ends[0] - ends[1]) / 2e-6
        assert weight.grad[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "frames", "fits"),
    [("A", 2, True), ("A", 1, False), ("AA", 4, True), ("AA", 3, False), ("ABBA", 6, True),
     ("ABBA", 5, False)],
)  # fmt: skip
def test_transcript__that_no_path_gives_is_infinite_or_counts_nothing(
    text: str, frames: int, fits: bool
) -> None:
    batch = spoken_batch([text, "B"], [frames, 6])
    exact = model(zero_infinity=False).eval()
    lone = [slow_ctc(row, as_ids(one, SYMBOLS))
            for row, one in zip(log_probs_of(exact, batch), (text, "B"), strict=True)]  # fmt: skip
    assert math.isfinite(lone[0]) == fits
    assert exact(batch, None).total.item() == pytest.approx(sum(lone))
    loss = model().eval()(batch, None, monitor=True)
    assert loss.total.item() == pytest.approx(sum(lone) if fits else lone[1])
    assert loss.monitors["too_long"].item() == (0 if fits else 0.5)
    problem = task().problem(text, frames)
    assert (problem is None) == fits, "what the reader refuses is what the loss cannot count"
    counting = model()
    counting(batch, None).total.backward()
    grads = [one.grad for one in counting.parameters() if one.grad is not None]
    assert all(bool(grad.isfinite().all()) for grad in grads)


def test_blank_share__counts_frames_with_data_alone() -> None:
    built, batch = model(), spoken_batch()
    with torch.no_grad():
        built.get_parameter("head.projection.bias")[0] = 0.3
    loss = built.eval()(batch, None, monitor=True)
    guesses = torch.cat(log_probs_of(built, batch)).argmax(1)
    share = float((guesses == 0).double().mean())
    assert 0 < share < 1
    assert loss.monitors["blank_share"].item() == pytest.approx(share, abs=1e-6)


def test_unlabelled_batch__has_a_loss_of_nothing() -> None:
    loss = model()(spoken_batch([None, None], [4, 3]), None, monitor=True)
    assert (loss.total.item(), int(loss.count)) == (0, 0)
    loss.total.backward()


def test_head__starts_xavier_uniform_with_zero_bias() -> None:
    head = CtcHead(768, 32, 0.0)
    head.initialise(seeded(0))
    bound = math.sqrt(6 / (768 + 32))
    weight = head.projection.weight.detach()
    assert bound * 0.99 < float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not head.projection.bias.any()
    assert head(torch.ones(1, 3, 768, dtype=torch.bfloat16).float()).dtype == torch.float32


def test_dropout__is_before_the_projection_and_off_in_scores() -> None:
    built, batch = model(dropout=0.5), spoken_batch()
    plain = model()
    torch.manual_seed(0)
    dropped = built.train()(batch, None).total
    assert dropped.item() != plain.train()(batch, None).total.item()
    here, there = built.eval().predict(batch), plain.eval().predict(batch)
    assert torch.equal(here.values, there.values)


@pytest.mark.parametrize("lengths", [(1000, 311, 100), (311, 250), (60, 640, 100)])
def test_batch__changes_nothing_of_an_utterance(lengths: tuple[int, ...]) -> None:
    speech = modality("convolution")
    encoder = Encoder(tiny_settings(norm_position="post", input_norm=True, layer_scale=None))
    built = task().build(speech.build_frontend(encoder.settings), encoder)
    built.initialise(seeded(0))
    shaken(built.double().eval())
    examples = waves(*lengths)
    together = built.predict(batch_of("convolution", examples))
    assert together.lengths is not None
    counts = [CONVOLUTION.geometry.num_tokens(length) for length in lengths]
    assert together.lengths.tolist() == counts
    for row, (wave, count) in enumerate(zip(examples, counts, strict=True)):
        alone = built.predict(batch_of("convolution", [wave])).values[0]
        torch.testing.assert_close(together.values[row, :count], alone, rtol=1e-10, atol=1e-10)


def test_greedy__is_argmax_collapsed() -> None:
    usable = [0, 4, 5, 6, 7]
    for seed in range(200):
        log_probs = normal(seed, 1 + seed % 13, len(SYMBOLS)).log_softmax(1)
        path = [max(usable, key=lambda symbol: float(row[symbol])) for row in log_probs]
        line = "".join(SYMBOLS[label] for label in collapsed(path))
        found = task().decode(log_probs)
        assert found == greedy(log_probs, SYMBOLS)
        assert found.text == " ".join(line.replace("|", " ").split())


def test_frozen_start__lets_the_head_alone_learn() -> None:
    built, batch = model(freeze_steps=2), spoken_batch()
    for step, moves in ((1, False), (2, True)):
        built.zero_grad()
        built.before_update(step)
        built(batch, None).total.backward()
        assert built.get_parameter("head.projection.weight").grad is not None
        grads = [parameter.grad is not None for parameter in built.encoder.parameters()]
        assert all(grads) if moves else not any(grads)


def test_training__masks_tokens_and_channels() -> None:
    hiding = MaskSettings(channel_ratio=0.4, channel_length=3)
    speech = modality("convolution", mask=hiding)
    built = task().build(speech.build_frontend(tiny_settings()), Encoder(tiny_settings())).double()
    built.initialise(seeded(0))
    batch = speech.collate(waves(1000, 800))
    batch = Batch(inputs=batch.inputs, padding=batch.padding, targets=task().collate(["AB", "C"]))
    mask = speech.sample_mask(batch, [seeded(1), seeded(2)])
    time_alone = Mask.of(mask.predict)
    totals = [built(batch, one).total.item() for one in (None, time_alone, mask)]
    assert len(set(totals)) == 3
    assert task().masks_input
    assert not task(mask_inputs=False).masks_input


def test_model__learns_a_few_utterances_by_heart() -> None:
    texts: list[str | None] = ["A BC", "CAB", "BB A", "C C A", "ABCA", "B"]
    letters = torch.randn(len(SYMBOLS), 12, generator=seeded(3))
    lines = [as_ids(text or "", SYMBOLS) for text in texts]
    frames = [[one for label in line for one in (0, label, label)] for line in lines]
    lengths = [len(row) for row in frames]
    inputs = torch.zeros(len(texts), max(lengths), 12)
    for row, line in zip(inputs, frames, strict=True):
        row[: len(line)] = letters[line] + 0.3 * torch.randn(len(line), 12, generator=seeded(4))
    batch = Batch(inputs=inputs, padding=tail_padding(lengths, max(lengths)),
                  targets=task().collate(texts))  # fmt: skip
    recogniser = task()
    encoder = Encoder(tiny_settings(init_std=0.2, init="normal"))
    built = recogniser.build(Frames(), encoder)
    built.initialise(seeded(0))
    optimizer = torch.optim.AdamW(built.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = built(batch, None)
        (loss.total / loss.count).backward()
        optimizer.step()
    values, counts = built.eval().predict(batch)
    assert counts is not None
    answers = [
        Answer(sample=row, output=values[row, :count], target=text)
        for row, (count, text) in enumerate(zip(counts.tolist(), texts, strict=True))
    ]
    figures = recogniser.score(answers)
    assert figures == {"word_accuracy": 1, "wer": 0, "cer": 0, "decoded_share": 1}
