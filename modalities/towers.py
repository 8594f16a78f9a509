"""Two towers, of images and of texts, as objectives and zero-shot classifiers see them.

Notation: B images or texts, S side, L tokens of a text, E width that both towers share.
"""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from zoo.modalities.contracts import Preprocess, SampleEncoder

__all__ = ["TwoTowerEncoder", "TwoTowerPreprocess"]


class TwoTowerPreprocess(Preprocess):
    """A preprocessing of images that has a tokenizer, too."""

    @abstractmethod
    def ids(self, texts: Sequence[str]) -> Tensor:
        """(B, L) int64 with start and end; what is longer is cut, what is shorter filled up."""


class TwoTowerEncoder(SampleEncoder):
    """Vectors of images and of texts that can be compared."""

    needs_words = "towers of images and of texts"

    @property
    @abstractmethod
    def logit_scale(self) -> nn.Parameter:
        """(1,), the logarithm of the inverse temperature."""

    @property
    @abstractmethod
    def logit_bias(self) -> nn.Parameter | None:
        """(1,) of SigLIP's loss, or None."""

    @abstractmethod
    def encode_image(self, image: Tensor, *, normalize: bool = False) -> Tensor:
        """(B, 3, S, S) -> (B, E), of unit length where `normalize`."""

    @abstractmethod
    def encode_text(self, texts: Tensor | Sequence[str], *, normalize: bool = False) -> Tensor:
        """Texts, or their ids (B, L), -> (B, E), of unit length where `normalize`."""
