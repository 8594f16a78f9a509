"""Zero-shot classification: images find the class whose description is most alike (2103.00020).

Notation: K classes, T templates, N images, E width that both towers share.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from zoo.errors import UsageError
from zoo.modalities.contracts import Raw
from zoo.modalities.progress import batch_starts
from zoo.modalities.towers import TwoTowerEncoder

__all__ = ["recall_at", "zero_shot_classifier", "zero_shot_predict"]

TEMPLATES = ("a photo of a {}.",)


@torch.inference_mode()
def zero_shot_classifier(
    encoder: TwoTowerEncoder, names: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """(K, E): for each class the mean of its templates' vectors, each and all of unit length.

    Args:
        encoder: in eval mode.
        names: of the classes, as they are put into the templates.
        templates: each with one `{}`; open_clip.OPENAI_IMAGENET_TEMPLATES are functions of a name,
            and go as `[t("{}") for t in ...]`.

    Raises:
        UsageError: a template has no place for a name.
    """
    if not templates or any("{}" not in template for template in templates):
        raise UsageError("templates need a {} where the name of a class goes")
    rows = []
    for name in names:
        texts = [template.replace("{}", name) for template in templates]
        vectors = encoder.encode_text(texts, normalize=True).float()
        rows.append(normalize(vectors.mean(0), dim=0))
    return torch.stack(rows)


def zero_shot_predict(
    encoder: TwoTowerEncoder, inputs: Sequence[Raw], classifier: Tensor, *, batch_size: int = 64
) -> np.ndarray:
    """(N,) the class of each image: paths, arrays, bytes or samples."""
    found = np.empty(len(inputs), dtype=np.int64)
    for start in batch_starts(len(inputs), batch_size, None):
        stop = start + batch_size
        vectors = encoder.embed(inputs[start:stop], progress=False)
        scores = vectors @ classifier.float().cpu().numpy().T
        found[start : start + len(scores)] = scores.argmax(1)
    return found


def recall_at(queries: Tensor, keys: Tensor, wanted: Tensor, k: int) -> float:
    """The share of queries that have a right key among their k most alike ones.

    Args:
        queries: (N, E) of unit length.
        keys: (M, E) of unit length.
        wanted: (N, M) True where a key is right.
        k: how many are looked at.
    """
    nearest = (queries @ keys.T).topk(min(k, len(keys)), dim=1).indices
    return wanted.gather(1, nearest).any(1).float().mean().item()
