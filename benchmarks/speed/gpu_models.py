"""What `gpu` times: models of zoo on synthetic batches, and the operations that a step costs.

Operations are those of the model alone (no recomputation), two for each multiply-add, counted for
the forward pass; a training step counts three times as many. Tokens that a mask hides from the
encoder cost it nothing, and the decoder counts.

Notation: B samples, N tokens of a sample, T tokens of a packed batch, H heads, E width of a head,
D width, P values of a token, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import zoo.modalities.patch_vit as patch_vit
import zoo.modalities.volume.vit3d as vit3d
import zoo.objectives.mae as mae
from torch import Tensor
from zoo.modalities.code.encoder import CodeEncoder, CodeEncoderConfig
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.vision.open_clip import OpenCLIP
from zoo.objectives.contract import Objective
from zoo.objectives.mae import MAE, MAEConfig
from zoo.objectives.masked_lm import MaskedLM
from zoo.registry.build import Spec, build_encoder, build_objective, encoder_spec
from zoo.registry.catalogue import card
from zoo.registry.schema import Value

__all__ = [
    "WORKLOADS",
    "Cost",
    "Workload",
    "clip_flops",
    "mae_flops",
    "masked_lm_flops",
    "reference_attention",
    "transformer_flops",
]

MEAN_LENGTH = 96  # tokens of a text: what the drawn lengths come to, about


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a batch holds, and the operations of one forward pass over it."""

    samples: int
    tokens: int
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A model with its pretext task, and batches for it."""

    encoder: Encoder
    objective: Objective
    batch: Callable[[int], Batch]  # of about so many samples, on the device
    cost: Callable[[Batch], Cost]
    has_reference: bool  # whether `reference_attention` can stand in for zoo's own
    static_shapes: bool  # whether batches of one size are all alike
    chooses_kernels: bool = True  # whether attention is zoo's own, which has several


def transformer_flops(
    lengths: Iterable[int], dim: int, depth: int, *, hidden: int, gated: bool = False
) -> float:
    """Of blocks over sequences of these lengths: matrices, then scores and weighted sums."""
    per_token = 8 * dim**2 + (6 if gated else 4) * dim * hidden
    return float(depth * sum(n * per_token + 4 * n**2 * dim for n in lengths))


def mae_flops(
    encoder: patch_vit.PatchViTConfig, task: MAEConfig, *, tokens: int, values: int
) -> float:
    """Of one image of so many patches, each of so many values.

    Patches, encoder on the visible ones, projection, decoder, pixels of all.
    zoo computes the pixels of hidden patches only, a quarter of a per cent less.
    """
    visible = int(tokens * (1 - task.mask_ratio)) + 1
    dim, narrow = encoder.dim, task.decoder_dim
    trunk = transformer_flops([visible], dim, encoder.depth, hidden=int(dim * encoder.mlp_ratio))
    decoder = transformer_flops(
        [tokens + 1], narrow, task.decoder_depth, hidden=int(narrow * task.mlp_ratio)
    )
    ends = 2 * tokens * values * (dim + narrow) + 2 * visible * dim * narrow
    return trunk + decoder + ends


def clip_flops(encoder: OpenCLIP) -> float:
    """Of a pair: patches and projection of the image's tower, the text's, no embedding of words."""
    model: Any = encoder.model
    visual, size = model.visual, encoder.preprocess.img_size
    patch, dim, narrow = visual.patch_size[0], visual.transformer.width, model.transformer.width
    patches, length = (size // patch) ** 2, encoder.preprocess.context_length
    image = transformer_flops([patches + 1], dim, visual.transformer.layers, hidden=4 * dim)
    text = transformer_flops([length], narrow, model.transformer.layers, hidden=4 * narrow)
    ends = patches * 3 * patch**2 * dim + (dim + narrow) * encoder.dim
    return float(image + text + 2 * ends)


def masked_lm_flops(encoder: CodeEncoderConfig, lengths: Iterable[int], targets: int) -> float:
    """Of a packed batch: the trunk on all tokens, the head on the masked ones, no embedding."""
    dim = encoder.dim
    trunk = transformer_flops(lengths, dim, encoder.depth, hidden=encoder.hidden, gated=True)
    return trunk + 2 * targets * dim * (dim + encoder.vocab_size)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax written out on (B, N, H, E), as timm's unfused path and so the official MAE has it.

    Under autocast both products run in bfloat16 and the softmax in float32.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores.softmax(dim=-1) @ v).transpose(1, 2)


@contextmanager
def reference_attention() -> Iterator[None]:
    """Runs ViT and MAE on `plain_attention` meanwhile."""
    with ExitStack() as stack:
        for module in (patch_vit, vit3d, mae):
            stack.enter_context(patch.object(module, "attention", plain_attention))
        yield


def _mae(
    name: str,
    device: torch.device,
    *,
    tiny: bool,
    preprocess: Mapping[str, object] | None = None,
    options: dict[str, Value] | None = None,
) -> Workload:
    sizes: dict[str, object] = {"dim": 36, "depth": 2, "heads": 2}
    narrow: dict[str, Value] = {"decoder_dim": 12, "decoder_depth": 1, "decoder_heads": 2}
    one = card(name)
    recipe = one.recipe
    assert recipe is not None
    if one.modality == "vision":
        sizes |= {"img_size": 32, "patch_size": 8}
    encoder = build_encoder(encoder_spec(name, sizes if tiny else {}, preprocess))
    task = build_objective((options or recipe.objective) | (narrow if tiny else {}), encoder)
    assert isinstance(encoder, patch_vit.PatchViT | vit3d.ViT3D)
    assert isinstance(task, MAE)
    patches, patch_size = task.num_tokens, encoder.config.patch_size
    flops = mae_flops(encoder.config, task.config, tokens=patches, values=encoder.target_dim)
    grid = encoder.grid
    assert grid is not None
    channels = encoder.target_dim // patch_size ** len(grid)
    shape = (channels, *(patch_size * places for places in grid))

    def batch(size: int) -> Batch:
        noise = torch.rand(size, patches, device=device)
        if encoder.modality == "volume":
            return {"volume": torch.randn(size, *shape, device=device), "noise": noise}
        if encoder.modality == "audio":  # spectrograms: what makes them is not timed
            return {"features": torch.randn(size, *shape, device=device), "noise": noise}
        image = torch.randint(256, (size, *shape), dtype=torch.uint8, device=device)
        return {"image": image, "noise": noise}

    def cost(batch: Batch) -> Cost:
        size = len(batch["noise"])
        return Cost(samples=size, tokens=size * patches, flops=size * flops)

    return Workload(
        encoder=encoder,
        objective=task,
        batch=batch,
        cost=cost,
        has_reference=True,
        static_shapes=True,
    )


def _clip(device: torch.device, *, tiny: bool) -> Workload:
    """Both towers on pairs whose texts fill the context, as open_clip's always do."""
    sizes = {"width": 64, "depth": 2, "text_width": 64, "text_depth": 2, "text_heads": 2}
    encoder = build_encoder(encoder_spec("open-clip/ViT-B-16", sizes if tiny else {}))
    task = build_objective({"name": "image_text"}, encoder)
    assert isinstance(encoder, OpenCLIP)
    side, length = encoder.preprocess.img_size, encoder.preprocess.context_length
    model: Any = encoder.model
    words, flops = model.vocab_size, clip_flops(encoder)

    def batch(size: int) -> Batch:
        ids = torch.randint(1, words - 1, (size, length), device=device)
        ids[:, -1] = words - 1  # the end, whose vector is the text's
        image = torch.randint(256, (size, 3, side, side), dtype=torch.uint8, device=device)
        captions = torch.arange(size, device=device).unsqueeze(1)
        return {"image": image, "text_ids": ids, "caption_ids": captions}

    def cost(batch: Batch) -> Cost:
        size = len(batch["text_ids"])
        return Cost(samples=size, tokens=size * length, flops=size * flops)

    return Workload(
        encoder=encoder,
        objective=task,
        batch=batch,
        cost=cost,
        has_reference=False,
        static_shapes=True,
        chooses_kernels=False,
    )


def _code(device: torch.device, *, tiny: bool) -> Workload:
    """ModernBERT's width at BERT-base's depth; lengths as functions of Python code have them."""
    sizes: dict[str, Value] = {"depth": 12}
    if tiny:
        sizes = {"vocab_size": 64, "dim": 32, "depth": 2, "heads": 2, "hidden": 48}
    spec = Spec(name="code-base", modality="code", encoder={"name": "code", **sizes}, preprocess={})
    encoder = build_encoder(spec)
    task = build_objective({"name": "masked_lm"}, encoder)
    assert isinstance(encoder, CodeEncoder)
    assert isinstance(task, MaskedLM)
    ratio, ordinary = task.config.mask_ratio, (encoder.ordinary.start, encoder.ordinary.stop)

    def batch(size: int) -> Batch:
        total = size * MEAN_LENGTH  # the same in every batch, as with a budget of tokens
        drawn = torch.distributions.LogNormal(4.14, 0.85).sample((size * 4,)).clamp(8, 512).long()
        ends = drawn.cumsum(0).clamp(max=total)
        ends[-1] = total
        lengths = ends.diff(prepend=ends.new_zeros(1))
        masked = int(total * ratio)
        index = torch.randperm(total, device=device)[:masked].sort().values
        return {
            "ids": torch.randint(*ordinary, (total,), device=device),
            "lengths": lengths[lengths > 0],  # on the host
            "target_index": index,
            "target_ids": torch.randint(*ordinary, (masked,), device=device),
        }

    def cost(batch: Batch) -> Cost:
        lengths = batch["lengths"].tolist()
        flops = masked_lm_flops(encoder.config, lengths, len(batch["target_ids"]))
        return Cost(samples=len(lengths), tokens=len(batch["ids"]), flops=flops)

    return Workload(
        encoder=encoder,
        objective=task,
        batch=batch,
        cost=cost,
        has_reference=False,
        static_shapes=False,
    )


WORKLOADS: dict[str, Callable[..., Workload]] = {
    "mae-b": partial(_mae, "mae-base"),
    "mae-l": partial(_mae, "mae-large"),
    "bird-mae-b": partial(_mae, "bird-mae-base"),
    "clip-vit-b-16": _clip,
    "code-base": _code,
    # The ViT of UNETR and BM-MAE on CT of 96^3, with the decoder of BM-MAE.
    "volume-vit-b": partial(
        _mae,
        "bm-mae-base",
        preprocess={"sequences": ["ct"], "modality": "ct", "size": [96, 96, 96]},
        options={"name": "mae", "decoder_dim": 384, "decoder_depth": 3, "decoder_heads": 12},
    ),
}
