"""Two towers, of anything and of texts, as objectives and zero-shot classifiers see them.

Fields of a batch that hold texts are called `text_...`; all others are the other tower's.

Notation: B samples or texts, E width that both towers share.
"""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from zoo.modalities.contracts import Batch, Preprocess, SampleEncoder

__all__ = ["TwoTowerEncoder", "TwoTowerPreprocess"]


class TwoTowerPreprocess(Preprocess):
    """A preprocessing of anything that reads texts, too."""

    @abstractmethod
    def caption(self, text: str) -> Batch:
        """The fields `text_...` of one text, as `collate` takes them."""


class TwoTowerEncoder(SampleEncoder):
    """Vectors of anything and of texts that can be compared; the pooled features are the former."""

    needs_words = "a tower of texts beside its own"

    @property
    @abstractmethod
    def logit_scale(self) -> nn.Parameter:
        """(1,), the logarithm of the inverse temperature."""

    @property
    @abstractmethod
    def logit_bias(self) -> nn.Parameter | None:
        """(1,) of SigLIP's loss, or None."""

    @abstractmethod
    def encode_text(self, texts: Batch | Sequence[str], *, normalize: bool = False) -> Tensor:
        """Texts, or a batch with their fields, -> (B, E), of unit length where `normalize`."""
