"""DupMAE (arXiv 2305.02564): a text's vector must tell the text, in order and as a bag of words.

The encoder learns masked language modelling, L_e. Its state of a text's first token, c, goes to one
decoder layer, which says every token from c and from those that a mask of its own lets it see, L_d.
The largest logits of the other tokens name the text's words in any order, L_b. Total:
L_e + L_d + 0.1 L_b; with `bag_weight=0 query_norm=false` this is RetroMAE (arXiv 2205.12035).

DEVIATION: encoders with rotary or ALiBi positions have no table of them for the decoder to share:
it has its own, and adds it to its keys too (`key_positions`).

Notation: B texts, N tokens of a text, S those of the longest, T tokens of a batch, D width,
V vocabulary, R masks.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from zoo.modalities.blocks import Mlp
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.packing import Packed
from zoo.modalities.vocabulary import VocabularyEncoder
from zoo.objectives.contract import Losses
from zoo.objectives.lm_head import token_loss
from zoo.objectives.masked_lm import MaskedLM, MaskedLMConfig
from zoo.objectives.masking import Vocabulary

from zoo.errors import DataError

__all__ = ["DupMAE", "DupMAEConfig", "bag_of_words", "visible"]

_MASKS = 256  # that the rows of one text choose from


@dataclass(frozen=True, slots=True, kw_only=True)
class DupMAEConfig(MaskedLMConfig):
    """Encoder masks, decoder and bag of words."""

    policy: Literal["token", "word", "span", "identifier", "lexicon"] = "word"
    head_bias: bool = True
    decoder_mask_ratio: float = 0.5
    decoder_heads: int = 12
    decoder_hidden: int = 3072
    max_length: int = 512  # tokens of a text, at most
    query_norm: bool = True  # the decoder's query is norm(c + position), else c + position
    key_positions: bool = True  # false for encoders whose embedding block adds them already
    bag_weight: float = 0.1

    def __post_init__(self) -> None:
        MaskedLMConfig.__post_init__(self)
        if not 0.0 < self.decoder_mask_ratio < 1.0:
            raise ValueError(f"decoder_mask_ratio must lie in (0, 1): {self.decoder_mask_ratio}")


class DupMAE(MaskedLM):
    """Batches are those of `MaskedLM` with `clean_ids` (T,) and `visible` (sum N^2,) from `views`.

    The decoder needs memory for S^2 tokens of each text.
    """

    requires: ClassVar[type[Encoder]] = VocabularyEncoder
    config_class: ClassVar[type] = DupMAEConfig

    def __init__(self, config: DupMAEConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.task = config
        self.position = nn.Embedding(config.max_length, encoder.dim)
        self.query_norm = (
            nn.LayerNorm(encoder.dim, eps=config.norm_eps) if config.query_norm else nn.Identity()
        )
        self.decoder = QueryBlock(
            encoder.dim, config.decoder_heads, config.decoder_hidden, eps=config.norm_eps
        )
        nn.init.trunc_normal_(self.position.weight, std=0.02)

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """Masks of the encoder and of every row of the decoder.

        Raises:
            DataError: the text is longer than `max_length`.
        """
        ids, task = sample["ids"], self.task
        if len(ids) > task.max_length:
            raise DataError(
                f"a text of {len(ids)} tokens: set objective.max_length to as many",
                code="TOO_LARGE",
            )
        ordinary = self.vocabulary.is_ordinary(ids)
        words = sample.get("word", torch.arange(len(ids))).masked_fill(~ordinary, -1)
        rows = visible(words, task.decoder_mask_ratio, generator)
        masked = super().views(sample, generator)
        return masked | {"clean_ids": ids, "visible": rows.flatten()}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The three losses as `parts`; metric `top1` of the encoder's masked tokens."""
        assert isinstance(encoder, VocabularyEncoder)
        packed = Packed(batch["lengths"], batch["ids"].device)
        states = encoder.encode(encoder.tokenize(batch)).x.flatten(0, 1)
        table, truth = encoder.embedding.weight, batch["target_ids"]
        guesses = self.head(states[batch["target_index"]], table)
        parts = {
            "encoder": token_loss(guesses, truth),
            "decoder": self._decoder_loss(encoder, batch, states, packed),
        }
        total = parts["encoder"] + parts["decoder"]
        if self.task.bag_weight > 0:
            largest = largest_logits(self.head(states, table), packed)
            parts["bag"] = bag_of_words(largest, batch["clean_ids"], packed, self.vocabulary)
            total = total + self.task.bag_weight * parts["bag"]
        top1 = (guesses.argmax(-1) == truth).float().mean()
        return Losses(total=total, parts=parts, metrics={"top1": top1})

    def _decoder_loss(
        self, encoder: VocabularyEncoder, batch: Batch, states: Tensor, packed: Packed
    ) -> Tensor:
        """L_d: every token but the first and the last of each text."""
        clean, lengths = batch["clean_ids"], packed.lengths
        first = packed.cu_seqlens[:-1].long()
        places = self.position(packed.positions)
        keys = encoder.tokenize(batch | {"ids": clean}).x.flatten(0, 1)
        if self.task.key_positions:
            keys = keys + places
        vectors = states[first]
        keys = keys.index_copy(0, first, vectors.to(keys.dtype))
        query = self.query_norm(vectors[packed.sequence_ids] + places)
        inner = torch.ones_like(clean, dtype=torch.bool)
        inner[first] = False
        inner[packed.cu_seqlens[1:].long() - 1] = False
        longest = packed.longest
        shown = clean.new_zeros(len(lengths), longest, longest, dtype=torch.bool)
        for row, part in enumerate(batch["visible"].split([n * n for n in lengths])):
            n = lengths[row]
            shown[row, :n, :n] = part.view(n, n)
        padded = [pad_sequence(x.split(lengths), batch_first=True) for x in (query, keys)]
        out = self.decoder(*padded, shown)
        real = torch.arange(longest, device=out.device) < packed.cu_seqlens.diff().unsqueeze(1)
        return token_loss(self.head(out[real][inner], encoder.embedding.weight), clean[inner])


class QueryBlock(nn.Module):
    """BERT's layer (arXiv 1810.04805), post-norm, with a stream of its own for the queries."""

    def __init__(self, dim: int, heads: int, hidden: int, *, eps: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} must be a multiple of decoder_heads {heads}")
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, hidden)
        self.norm2 = nn.LayerNorm(dim, eps=eps)

    def forward(self, query: Tensor, keys: Tensor, shown: Tensor) -> Tensor:
        """Queries and keys (B, S, D) -> (B, S, D); `shown` (B, S, S): which keys a row sees."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q, query), (self.k, keys), (self.v, keys))
        )
        # The lowest number, not -inf: a row that sees nothing must not become NaN.
        lowest = torch.finfo(q.dtype).min
        bias = torch.zeros_like(shown, dtype=q.dtype).masked_fill(~shown, lowest).unsqueeze(1)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(-2)
        x = self.norm1(query + self.proj(seen))
        return self.norm2(x + self.mlp(x))


def visible(words: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """(N, N) True where the decoder's row i sees token j: never itself.

    Each row takes one of R = min(N, 256) masks, each of which hides whole words at random up to the
    share `ratio` of the tokens that belong to one.

    Args:
        words: (N,) each token's word, -1 for tokens that are never hidden.
        ratio: hidden share.
        generator: all chance.
    """
    length = len(words)
    count = min(length, _MASKS)
    hidden = torch.zeros(count, length, dtype=torch.bool)
    inside = words >= 0
    if inside.any():
        _, which, sizes = words[inside].unique(return_inverse=True, return_counts=True)
        order = torch.rand(count, len(sizes), generator=generator).argsort(1)
        fits = sizes[order].cumsum(1) <= max(1, round(ratio * len(which)))
        hidden[:, inside] = torch.zeros_like(fits).scatter(1, order, fits)[:, which]
    rows = torch.randint(count, (length,), generator=generator)
    return (~hidden[rows]).fill_diagonal_(False)


def largest_logits(logits: Tensor, packed: Packed) -> Tensor:
    """Logits (T, V) of packed tokens -> (B, V): the largest of each text, its first token aside."""
    return torch.stack([part[1:].amax(0) for part in logits.float().split(packed.lengths)])


def bag_of_words(largest: Tensor, ids: Tensor, packed: Packed, vocabulary: Vocabulary) -> Tensor:
    """L_b = -sum_v w_v log softmax(o)_v, meaned over texts.

    w_v is 1 / n for each of a text's distinct ids, n its tokens that are not special: repeats make
    the weights add up to less than 1.

    Args:
        largest: o (B, V).
        ids: (T,) of the texts.
        packed: how they divide.
        vocabulary: which ids count.
    """
    weights = torch.zeros_like(largest)
    for row, text in enumerate(ids.split(packed.lengths)):
        ordinary = text[vocabulary.is_ordinary(text)]
        weights[row, ordinary] = 1 / max(1, len(ordinary))
    return -(weights * largest.log_softmax(-1)).sum(-1).mean()
