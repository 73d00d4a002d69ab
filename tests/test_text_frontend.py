"""Proves: ids become tokens as in reference section 2.3.

Looked up, position added, normalised, dropped out of, zero on padding; what the student reads
instead of a masked token is looked up like any other.
"""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from d2v.core.encoder import EncoderSettings
from d2v.errors import UsageError
from d2v.modalities.text.frontend import FrontendSettings, TextFrontend
from d2v.modalities.text.tokenizer import TokenizerSettings
from d2v.types import Mask
from tests.maths_case import normal, seeded
from tests.text_case import LENGTHS, MAX_TOKENS, TOKENIZER, build_frontend, slow_norm, texts


def slow_tokens(frontend: TextFrontend, ids: Tensor, padding: Tensor) -> Tensor:
    """(B, T, D) token by token, positions counted as the reference counts them."""
    rows = []
    for sample, padded in zip(ids.tolist(), padding.tolist(), strict=True):
        seen, row = 0, []
        for token, no_data in zip(sample, padded, strict=True):
            if no_data:
                row.append(torch.zeros(frontend.encoder.dim, dtype=torch.float64))
                continue
            seen += 1
            embedded = frontend.token_embed[token] + frontend.positions[2 + seen - 1]
            normed = slow_norm(embedded, frontend.norm.eps)
            row.append(normed * frontend.norm.weight + frontend.norm.bias)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_tokens__equal_the_slow_twin_in_value_and_gradient() -> None:
    frontend = build_frontend()
    batch = texts(LENGTHS)
    assert batch.padding is not None
    weights = normal(2, *batch.inputs.shape, 12)
    found, gradients = [], []
    for values in (
        frontend(frontend.features(batch), None, batch.padding).values,
        slow_tokens(frontend, batch.inputs, batch.padding),
    ):
        frontend.zero_grad()
        (values * weights).sum().backward()
        found.append(values)
        gradients.append([p.grad.clone() for p in frontend.parameters() if p.grad is not None])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    assert len(gradients[0]) == 4
    # A literal `<pad>` inside a text is read, but does not train its row.
    gradients[1][0][TOKENIZER.pad_id] = 0
    for fast, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


def test_tokens__are_zero_on_padding_and_say_where_it_is() -> None:
    batch = texts(LENGTHS)
    tokens = build_frontend()(batch.inputs, None, batch.padding)
    assert batch.padding is not None
    assert torch.equal(tokens.values.abs().sum(-1) == 0, batch.padding)
    assert tokens.padding is batch.padding
    assert (tokens.num_prefix, tokens.attention_bias) == (0, None)


def test_mask__is_read_from_its_replacement() -> None:
    frontend = build_frontend()
    batch, other = texts([9, 9]), texts([9, 9], seed=7)
    predict = torch.rand(2, 9, generator=seeded(3)) < 0.5
    replacement = torch.where(predict, other.inputs, batch.inputs)
    found = frontend(batch.inputs, Mask.of(predict, replacement), None).values
    assert torch.equal(found, frontend(replacement, None, None).values)


def test_mask__without_replacement_puts_the_mask_token() -> None:
    frontend = build_frontend()
    batch = texts([9, 9])
    predict = torch.rand(2, 9, generator=seeded(3)) < 0.5
    found = frontend(batch.inputs, Mask.of(predict), None).values
    by_hand = batch.inputs.masked_fill(predict, TOKENIZER.mask)
    assert torch.equal(found, frontend(by_hand, None, None).values)


def test_features__are_the_ids_without_gradient() -> None:
    batch = texts([5, 5])
    assert torch.equal(build_frontend().features(batch).detach(), batch.inputs)


def test_dropout__is_the_encoders_and_acts_in_training_only() -> None:
    frontend = build_frontend(dropout=0.5)
    batch = texts([20] * 8)
    whole = frontend.eval()(batch.inputs, None, None).values
    torch.manual_seed(0)
    dropped = frontend.train()(batch.inputs, None, None).values
    gone = dropped == 0
    assert float(gone.double().mean()) == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(dropped[~gone], 2 * whole[~gone])


def test_padding_rows__start_at_zero_and_stay() -> None:
    encoder = EncoderSettings(dim=16, num_heads=2, depth=1, init="normal", norm_eps=1e-5)
    frontend = TextFrontend(FrontendSettings(max_tokens=MAX_TOKENS), TOKENIZER, encoder)
    frontend.initialise(seeded(0))
    optimiser = torch.optim.AdamW(frontend.parameters(), lr=0.1, weight_decay=0.1)
    batch = texts(LENGTHS)
    for _ in range(3):
        values = frontend(batch.inputs, None, batch.padding).values
        (values * values.roll(1, -1)).sum().backward()
        optimiser.step()
    assert frontend.token_embed[TOKENIZER.pad_id].abs().max() == 0
    assert frontend.positions[1].abs().max() == 0
    assert frontend.positions[2].abs().max() > 0.1


def test_weights__start_as_the_reference_says() -> None:
    encoder = EncoderSettings(dim=64, num_heads=2, depth=1, init="normal", init_std=0.02)
    tokenizer = TokenizerSettings(size=2000, pad_id=7)
    frontend = TextFrontend(FrontendSettings(), tokenizer, encoder)
    frontend.initialise(seeded(0))
    assert frontend.positions.shape == (514, 64), "two rows more than positions, as published"
    for table in (frontend.token_embed, frontend.positions):
        assert float(table.detach().std()) == pytest.approx(0.02, rel=0.02)
        assert float(table.detach().abs().max()) > 0.06, "not clipped"
    assert frontend.token_embed[7].abs().max() == 0
    assert (frontend.token_embed[8:].abs().amax(1) > 0).all()
    assert torch.equal(frontend.norm.weight, torch.ones(64))
    assert frontend.norm.bias.abs().max() == 0
    again = TextFrontend(FrontendSettings(), tokenizer, encoder)
    again.initialise(seeded(0))
    assert torch.equal(again.token_embed, frontend.token_embed)


@pytest.mark.parametrize("init", ["normal", "truncated"])
def test_positions__start_as_small_as_asked(init: Literal["normal", "truncated"]) -> None:
    encoder = EncoderSettings(dim=64, num_heads=2, depth=1, init=init, init_std=0.02)
    plain, small, none = (
        TextFrontend(FrontendSettings(position_init_std=std), TOKENIZER, encoder)
        for std in (None, 0.002, 0.0)
    )
    for frontend in (plain, small, none):
        frontend.initialise(seeded(0))
        assert torch.equal(frontend.token_embed, plain.token_embed)
    torch.testing.assert_close(small.positions, plain.positions / 10)
    assert float(none.positions.detach().abs().max()) == 0


def test_weights__can_be_laid_out_without_memory() -> None:
    with torch.device("meta"):
        encoder = EncoderSettings(init="normal")
        frontend = TextFrontend(FrontendSettings(), TokenizerSettings(), encoder)
        frontend.initialise(torch.Generator(device="cpu"))
    count = sum(p.numel() for p in nn.ModuleList([frontend]).parameters())
    assert count == (50_265 + 514 + 2) * 768


def test_tokens__beyond_the_last_position_are_refused_by_name() -> None:
    frontend = build_frontend()
    frontend(texts([MAX_TOKENS]).inputs, None, None)
    with pytest.raises(UsageError, match=r"21 tokens.*max_tokens is 20.*block_tokens"):
        frontend(torch.zeros(1, MAX_TOKENS + 1, dtype=torch.int64), None, None)


# What other libraries' models have beside ours


@pytest.mark.parametrize("first", [1, 2, 5])
def test_first_position__is_the_row_of_the_first_token(first: int) -> None:
    encoder = EncoderSettings(dim=16, num_heads=2, depth=1, init="normal", norm_eps=1e-5)
    settings = FrontendSettings(max_tokens=MAX_TOKENS, first_position=first)
    frontend = TextFrontend(settings, TOKENIZER, encoder)
    frontend.initialise(seeded(0))
    assert frontend.positions.shape == (first + MAX_TOKENS, 16)
    empty = (frontend.positions.detach().abs().amax(1) == 0).nonzero().flatten().tolist()
    assert empty == [first - 1], "fairseq's padding row"
    ids = texts([MAX_TOKENS]).inputs
    values = frontend(ids, None, None).values[0]
    for place in (0, 7, MAX_TOKENS - 1):
        embedded = frontend.token_embed[ids[0, place]] + frontend.positions[first + place]
        torch.testing.assert_close(values[place], slow_norm(embedded, 1e-5))


def test_token_types__the_first_is_added_to_every_token_and_alone_learns() -> None:
    encoder = EncoderSettings(dim=16, num_heads=2, depth=1, init="normal", norm_eps=1e-5)
    settings = FrontendSettings(max_tokens=MAX_TOKENS, token_types=2)
    frontend = TextFrontend(settings, TOKENIZER, encoder)
    frontend.initialise(seeded(0))
    assert frontend.token_types is not None
    assert float(frontend.token_types.detach().abs().max()) == 0, "so that it starts without effect"
    batch = texts(LENGTHS)
    plain = TextFrontend(FrontendSettings(max_tokens=MAX_TOKENS), TOKENIZER, encoder)
    plain.initialise(seeded(0))
    assert [name for name in plain.state_dict() if "types" in name] == []
    before = frontend(batch.inputs, None, batch.padding).values
    assert torch.equal(before, plain(batch.inputs, None, batch.padding).values)
    with torch.no_grad():
        frontend.token_types.copy_(normal(3, 2, 16))
        plain.positions.add_(frontend.token_types[0])
    found = frontend(batch.inputs, None, batch.padding).values
    torch.testing.assert_close(found, plain(batch.inputs, None, batch.padding).values)
    (found * normal(4, *found.shape)).sum().backward()
    gradient = frontend.token_types.grad
    assert gradient is not None
    assert (gradient.abs().amax(1) > 0).tolist() == [True, False]
