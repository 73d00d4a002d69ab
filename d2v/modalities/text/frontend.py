"""From token ids to tokens: embedding, learned positions, norm.

Letters: B batch, T tokens, D width, V tokens of the tokenizer.
"""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from d2v.core.encoder import EncoderSettings, initialise_normal
from d2v.errors import UsageError
from d2v.modalities.text.tokenizer import TokenizerSettings
from d2v.settings import Settings
from d2v.types import Batch, Frontend, Mask, Tokens


class FrontendSettings(Settings):
    """How ids become tokens (reference section 2.3). Norm and dropout are the encoder's."""

    max_tokens: int = Field(512, ge=3)
    """Longest sample in tokens, `<s>` included: so many positions are learned."""
    first_position: int = Field(2, ge=1)
    """Row of a sample's first token. fairseq counts on from its padding row, 1, which stays zero;
    the rows in front are kept, so that published tables fit (reference section 5.4)."""
    position_init_std: float | None = Field(None, ge=0)
    """Deviation that the positions start with; null for that of all weights, `encoder.init_std`, as
    published. Smaller ones keep a short training from telling places apart instead of texts, which
    data2vec 2.0 of small models tends to: its targets' spread across samples then falls."""
    token_types: int = Field(0, ge=0)
    """Rows of a table whose first one is added to every token; Hugging Face's layout has it
    (reference section 5.4), and nothing else needs it."""


class TextFrontend(Frontend):
    """Token embedding plus learned positions, normalised. `<mask>` is a token like the others."""

    def __init__(
        self, settings: FrontendSettings, tokenizer: TokenizerSettings, encoder: EncoderSettings
    ) -> None:
        super().__init__()
        num_positions = settings.first_position + settings.max_tokens
        self.token_embed = nn.Parameter(torch.empty(tokenizer.size, encoder.dim))
        self.positions = nn.Parameter(torch.empty(num_positions, encoder.dim))
        self.token_types: nn.Parameter | None = None
        if settings.token_types:
            self.token_types = nn.Parameter(torch.empty(settings.token_types, encoder.dim))
        self.norm = nn.LayerNorm(encoder.dim, eps=encoder.norm_eps)
        self.dropout = nn.Dropout(encoder.dropout)
        self.settings, self.tokenizer, self.encoder = settings, tokenizer, encoder

    def features(self, batch: Batch) -> Tensor:
        """The ids themselves: what is masked decides which are looked up. (B, T) int64."""
        return batch.inputs

    def forward(self, features: Tensor, mask: Mask | None, padding: Tensor | None) -> Tokens:
        """Tokens for the encoder.

        Args:
            features: (B, T) int64 ids, padding on the right.
            mask: its `replacement` is read instead; without one `<mask>` stands at masked places.
            padding: (B, T) bool, True where there is no data; None for nowhere.

        Returns:
            (B, T, D), zero where there is no data.

        Raises:
            UsageError: more tokens than there are positions.
        """
        ids, num_tokens = features, features.shape[1]
        if num_tokens > self.settings.max_tokens:
            raise UsageError(
                f"A sample has {num_tokens} tokens, and modality.frontend.max_tokens is "
                f"{self.settings.max_tokens}",
                expected="a position for each token",
                remedy="Raise modality.frontend.max_tokens, or prepare with a smaller "
                "modality.store.block_tokens.",
            )
        if mask is not None and mask.replacement is not None:
            ids = mask.replacement
        elif mask is not None:
            ids = ids.masked_fill(mask.predict, self.tokenizer.mask)
        x = F.embedding(ids, self.token_embed, padding_idx=self.tokenizer.pad_id)  # (B, T, D)
        # Padding is on the right, so the running count of real tokens is the place itself.
        first = self.settings.first_position
        x = x + self.positions[first : first + num_tokens]
        if self.token_types is not None:
            x = x + self.token_types[0]
        x = self.dropout(self.norm(x))
        if padding is not None:
            x = x.masked_fill(padding.unsqueeze(-1), 0)
        return Tokens(values=x, padding=padding)

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Nothing: ids need no figures."""

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Both tables as the encoder's weights, padding rows zero (reference section 2.3)."""
        for table in (self.token_embed, self.positions):
            initialise_normal(table, self.encoder, generator)
        if self.settings.position_init_std is not None:
            self.positions.mul_(self.settings.position_init_std / self.encoder.init_std)
        self.token_embed[self.tokenizer.pad_id].zero_()
        self.positions[self.settings.first_position - 1].zero_()
        if self.token_types is not None:
            self.token_types.zero_()
        nn.init.ones_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)
