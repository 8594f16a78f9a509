"""A pretraining step of MAE ViT-B/16 at 224, 8 images, against the official way and lightly's.

Both are restated with timm's blocks. Official (facebookresearch/mae with its timm 0.3.2): attention
as products and a softmax, every patch is predicted, the loss is masked afterwards. Lightly 1.6:
timm's fused attention, and hidden patches alone are predicted. Losses are compared before anything
is timed. Forward, backward and AdamW, as PyTorch makes it by default (ours is fused), on one
thread, in turn in one process, by the processor's clock, because others use the machine; the peak
of memory in a process of its own each.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from zoo.benchmarks.speed.timing import alternate, report
from zoo.benchmarks.speed.updates import THREADS, Update, report_peaks, update_of
from zoo.modalities.patch_vit import patchify
from zoo.modalities.positions import sincos_positions
from zoo.registry.build import build_objective

import zoo

IMAGES, SIZE, PATCH, TOKENS, VISIBLE = 8, 224, 16, 196, 49
DIM, DEPTH, HEADS, DECODER_DIM, DECODER_DEPTH, DECODER_HEADS = 768, 12, 12, 512, 8, 16
ROUNDS = 5
Loss = Callable[[Tensor, Tensor], Tensor]


class Official(nn.Module):
    """The masked autoencoder as its authors compute it."""

    hidden_only = False
    places: Tensor
    decoder_places: Tensor

    def __init__(self) -> None:
        super().__init__()
        grid = (SIZE // PATCH, SIZE // PATCH)
        self.patch_embed = nn.Conv2d(3, DIM, PATCH, PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, DECODER_DIM))
        self.register_buffer("places", sincos_positions(DIM, grid, prefix=1))
        self.register_buffer("decoder_places", sincos_positions(DECODER_DIM, grid, prefix=1))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        kind = partial(Block, mlp_ratio=4, qkv_bias=True, norm_layer=norm)
        self.blocks = nn.Sequential(*(kind(DIM, HEADS) for _ in range(DEPTH)))
        self.norm = norm(DIM)
        self.decoder_embed = nn.Linear(DIM, DECODER_DIM)
        decoder = (kind(DECODER_DIM, DECODER_HEADS) for _ in range(DECODER_DEPTH))
        self.decoder_blocks = nn.Sequential(*decoder)
        self.decoder_norm = norm(DECODER_DIM)
        self.decoder_pred = nn.Linear(DECODER_DIM, PATCH * PATCH * 3)
        for block in (*self.blocks, *self.decoder_blocks):
            block.attn.fused_attn = self.hidden_only

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """(B, 3, S, S), (B, N) -> the loss."""
        x = self.patch_embed(image).flatten(2).transpose(1, 2) + self.places[:, 1:]
        order = noise.argsort(dim=1)
        back = order.argsort(dim=1)
        x = x.gather(1, order[:, :VISIBLE, None].expand(-1, -1, DIM))
        cls = (self.cls_token + self.places[:, :1]).expand(len(x), -1, -1)
        x = self.decoder_embed(self.norm(self.blocks(torch.cat([cls, x], dim=1))))
        masks = self.mask_token.expand(len(x), TOKENS - VISIBLE, -1).to(x.dtype)
        tokens = torch.cat([x[:, 1:], masks], dim=1)
        tokens = tokens.gather(1, back[:, :, None].expand(-1, -1, DECODER_DIM))
        x = torch.cat([x[:, :1], tokens], dim=1) + self.decoder_places
        return self.loss(self.decoder_blocks(x)[:, 1:], patchify(image, PATCH), order, back)

    def loss(self, x: Tensor, target: Tensor, order: Tensor, back: Tensor) -> Tensor:
        """Of decoded tokens (B, N, DECODER_DIM), all of them predicted."""
        error = self.errors(self.decoder_pred(self.decoder_norm(x)), target)
        mask = (back >= VISIBLE).float()
        return (error * mask).sum() / mask.sum()

    def errors(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(B, n, P) each -> (B, n)."""
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        return (prediction.float() - (target - mean) / (var + 1e-6).sqrt()).square().mean(-1)


class Lightly(Official):
    """With timm's fused attention, and predictions of hidden patches alone."""

    hidden_only = True

    def loss(self, x: Tensor, target: Tensor, order: Tensor, back: Tensor) -> Tensor:
        """Of decoded tokens (B, N, DECODER_DIM), those that were hidden predicted."""
        hidden = order[:, VISIBLE:, None]
        x = x.gather(1, hidden.expand(-1, -1, x.shape[-1]))
        target = target.gather(1, hidden.expand(-1, -1, target.shape[-1]))
        return self.errors(self.decoder_pred(self.decoder_norm(x)), target).mean()


def ours() -> tuple[Loss, list[nn.Parameter], dict[str, Tensor]]:
    """Loss, parameters, and the state under the restated models' names; by the card."""
    torch.manual_seed(0)
    encoder = zoo.create("mae-base", seed=0)
    recipe = zoo.card("mae").recipe
    assert recipe is not None
    objective = build_objective(recipe.objective, encoder)

    def loss(image: Tensor, noise: Tensor) -> Tensor:
        return objective(encoder, {"image": image, "noise": noise}).total

    trained = [p for p in (*encoder.parameters(), *objective.parameters()) if p.requires_grad]
    state = {**encoder.state_dict(), **objective.state_dict()}
    renamed = {name.replace("patch_embed.proj", "patch_embed"): v for name, v in state.items()}
    return loss, trained, renamed


WAYS = {"official": Official, "lightly": Lightly, "zoo": None}


def step(way: str, *, half: bool = False, weights: dict[str, Tensor] | None = None) -> Update:
    """One update of a model made here."""
    loss: Loss
    if kind := WAYS[way]:
        model = kind()
        model.load_state_dict(weights or {}, strict=False)
        loss, parameters = model, [*model.parameters()]
    else:
        loss, parameters, _ = ours()
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator)
    noise = torch.rand(IMAGES, TOKENS, generator=generator)
    fused = True if way == "zoo" else None
    return update_of(loss, parameters, (image, noise), half=half, fused=fused)


def main() -> None:
    """Says what each needs, compares losses, then times."""
    torch.set_num_threads(THREADS)
    candidates = {
        "official float32": ("official", False),
        "lightly float32": ("lightly", False),
        "zoo float32": ("zoo", False),
        "zoo bfloat16": ("zoo", True),
    }
    makes = {name: partial(step, way, half=half) for name, (way, half) in candidates.items()}
    report_peaks("vision_step", makes)
    weights = {name: value.clone() for name, value in ours()[2].items()}
    work = {name: step(way, half=half, weights=weights) for name, (way, half) in candidates.items()}
    for name, update in work.items():
        print(f"{name:<34} loss {update():.5f}")
    report("vision_step", alternate(work, ROUNDS, time.process_time), base="official float32")


if __name__ == "__main__":
    main()
