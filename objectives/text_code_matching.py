"""Text-code contrast, matching and generation: the second stage of CodeT5+ (arXiv 2305.07922).

Contrast pulls a text's vector to its code's. Matching asks the decoder, which reads the code and
sees the text, whether they belong together; its negatives are likelier the more similar they look.
Generation writes the code from the text and the text from the code. The four losses are added.

DEVIATION: matching takes its negatives from the batch of its own process, whose states are at hand,
and not from the queue.

Notation: B pairs, T tokens of their texts, C of their codes, D width of the decoder, E of vectors.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from zoo.modalities.contracts import Batch, Encoder, Features
from zoo.modalities.vocabulary import WriterEncoder
from zoo.objectives.contract import Losses
from zoo.objectives.lm_head import token_loss
from zoo.objectives.negatives import alike
from zoo.objectives.text_code import TextCode, TextCodeConfig, sides, vectors_of

__all__ = ["TextCodeMatching", "TextCodeMatchingConfig", "hard_negatives"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCodeMatchingConfig(TextCodeConfig):
    """Which ids tell the decoder what to do; those of CodeT5+ are 32100, 32101 and 32102."""

    match_id: int = 32_100  # stands for a code's first id where it is matched
    write_text_id: int = 32_101  # what the decoder reads first
    write_code_id: int = 32_102


class TextCodeMatching(TextCode):
    """Batches are those of `TextCode`; texts and codes are `<s> ... </s>`."""

    requires: ClassVar[type[Encoder]] = WriterEncoder
    config_class: ClassVar[type] = TextCodeMatchingConfig

    def __init__(self, config: TextCodeMatchingConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        assert isinstance(encoder, WriterEncoder)
        self.task = config
        ids = (config.match_id, config.write_text_id, config.write_code_id)
        if max(ids) >= encoder.vocab_size:
            raise ValueError(f"ids {ids} of the tasks: the vocabulary ends at {encoder.vocab_size}")
        self.itm_head = nn.Linear(encoder.embedding.embedding_dim, 2)

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The four losses as `parts`; metric `matched`, the matching's accuracy."""
        assert isinstance(encoder, WriterEncoder)
        text, code = sides(batch)
        text_seen, code_seen = encoder(text), encoder(code)
        a, b = (vectors_of(self.proj, seen) for seen in (text_seen, code_seen))
        ids = batch["pair_ids"]
        with torch.no_grad():
            same = (ids[:, None] == ids).any(-1) | alike((a, b), self.negatives)
            similarity = (self.logit_scale() * (a @ b.T)).masked_fill(same, float("-inf"))
        logits = self._match(encoder, text_seen, code, similarity)
        labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        labels[: len(a)] = 1
        task = self.task
        parts = {
            "contrast": self.contrast(a, b, batch),
            "matching": cross_entropy(logits.float(), labels),
            "text_to_code": _writing(encoder, text_seen, code, task.write_code_id),
            "code_to_text": _writing(encoder, code_seen, text, task.write_text_id),
        }
        metrics = {"matched": (logits.argmax(-1) == labels).float().mean()}
        return Losses(total=torch.stack([*parts.values()]).sum(), parts=parts, metrics=metrics)

    def _match(
        self, encoder: WriterEncoder, text: Features, code: Batch, similarity: Tensor
    ) -> Tensor:
        """(3 B, 2): the pairs, then each text with a wrong code, then each code with a wrong text.

        A pair has none where all others have the same text or code: (B, 2) to (3 B, 2).
        """
        own = torch.arange(len(similarity), device=similarity.device)
        misled_texts, wrong_codes = hard_negatives(similarity)
        misled_codes, wrong_texts = hard_negatives(similarity.T)
        chosen_texts = torch.cat([own, misled_texts, wrong_texts]).tolist()
        chosen_codes = torch.cat([own, wrong_codes, misled_codes]).tolist()
        assert text.lengths is not None
        states = text.tokens[0].split(text.lengths.tolist())
        reads = code["ids"].split(code["lengths"].tolist())
        seen = Features(
            tokens=torch.cat([states[i] for i in chosen_texts]).unsqueeze(0),
            pooled=text.pooled[chosen_texts],
            lengths=text.lengths[chosen_texts],
        )
        lengths = code["lengths"][chosen_codes]
        ids = torch.cat([reads[i] for i in chosen_codes])
        last = (lengths.cumsum(0) - 1).to(ids.device)
        first = last + 1 - lengths.to(ids.device)
        ids = ids.index_fill(0, first, self.task.match_id)
        hidden = encoder.decode(seen, {"decoder_ids": ids, "decoder_lengths": lengths})
        return self.itm_head(hidden[0, last])


def hard_negatives(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of (B, B) logits a column, drawn from their softmax.

    Returns:
        (n,) rows that have any, -inf being none, and (n,) their columns.
    """
    rows = similarity.isfinite().any(dim=1).nonzero().flatten()
    if not len(rows):
        return rows, rows
    return rows, similarity[rows].softmax(dim=1).multinomial(1).squeeze(1)


def _writing(encoder: WriterEncoder, seen: Features, written: Batch, start_id: int) -> Tensor:
    """Mean cross-entropy of all ids but the first of each text, `start_id` standing for that."""
    ids, lengths = written["ids"], written["lengths"]
    ends = lengths.cumsum(0)
    keep = torch.ones(len(ids), dtype=torch.bool)
    keep[ends - 1] = False
    index = keep.nonzero().flatten().to(ids.device)
    reads = ids.index_fill(0, (ends - lengths).to(ids.device), start_id)[index]
    hidden = encoder.decode(seen, {"decoder_ids": reads, "decoder_lengths": lengths - 1})
    return token_loss(encoder.logits(hidden)[0], ids[index + 1])
