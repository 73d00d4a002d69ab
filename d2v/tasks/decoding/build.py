"""From a lexicon and a language model to a decoder that this machine can run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from d2v.tasks.decoding.arpa import read_arpa, read_words
from d2v.tasks.decoding.base import BLANK, BOUNDARY, BeamSettings, Decoder
from d2v.tasks.decoding.lexicon import build_lexicon
from d2v.tasks.decoding.prefix_beam import PrefixBeamDecoder

try:
    from d2v.tasks.decoding.flashlight_beam import ORDERS, FlashlightDecoder
except ImportError:  # no such wheel for this platform, or not asked for
    FLASHLIGHT = False
else:
    FLASHLIGHT = True


def build_decoder(
    symbols: Sequence[str],
    words: Iterable[str],
    arpa: Path | None,
    settings: BeamSettings,
    normalise: Callable[[str], str] = str.upper,
) -> Decoder:
    """Flashlight's beam search where it is installed, else ours, which scores alike.

    Args:
        symbols: of the CTC model; the blank is `<s>`, the word boundary `|`.
        words: of the training transcripts. Together with those of the language model they are
            all that can be found.
        arpa: the language model, `.gz` or plain; None for none.
        settings: of the search.
        normalise: a word of the language model -> its spelling in transcripts.

    Raises:
        UsageError: the file is missing or damaged, or its words cannot be spelled.
    """
    known, order = read_words(arpa) if arpa is not None else (None, None)
    lexicon = build_lexicon(symbols, words, known, normalise)
    if FLASHLIGHT and order in (None, *ORDERS):
        return FlashlightDecoder(list(symbols), lexicon, arpa, settings, lexicon.remarks)
    reason = (
        f"flashlight does not read language models of order {order}"
        if FLASHLIGHT
        else "flashlight-text is not installed (pip install 'd2v[lm]')"
    )
    remark = f"The slow beam search is used: {reason}."
    model = read_arpa(arpa) if arpa is not None else None
    ids = (symbols.index(BLANK), symbols.index(BOUNDARY))
    return PrefixBeamDecoder(ids, lexicon, model, settings, (*lexicon.remarks, remark))
