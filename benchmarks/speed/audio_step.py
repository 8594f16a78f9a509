"""A pretraining step of Bird-MAE base (ViT-B, 512 x 128, 4 clips), against upstream's way.

Upstream's way is restated with timm's blocks, on as many tokens: the patches go through a
convolution, the decoder puts all tokens back into their places, every patch is predicted, and the
loss is masked afterwards. Forward, backward and AdamW on one thread, in turn in one process, by the
processor's clock, because others use the machine; the peak of memory in a process of its own each.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from zoo.benchmarks.speed.timing import alternate, report
from zoo.benchmarks.speed.updates import THREADS, Update, report_peaks, update_of
from zoo.modalities.positions import sincos_positions
from zoo.objectives.mae import random_order
from zoo.registry.build import build_objective

import zoo

CLIPS, FRAMES, MELS, PATCH = 4, 512, 128, 16
DIM, DEPTH, HEADS, DECODER_DIM, DECODER_DEPTH, DECODER_HEADS = 768, 12, 12, 512, 8, 16
TOKENS, RATIO, ROUNDS = 256, 0.75, 3


class Upstream(nn.Module):
    """The masked autoencoder as its authors compute it."""

    places: Tensor
    decoder_places: Tensor

    def __init__(self) -> None:
        super().__init__()
        grid = (FRAMES // PATCH, MELS // PATCH)
        self.patch_embed = nn.Conv2d(1, DIM, PATCH, PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, DECODER_DIM))
        self.register_buffer("places", sincos_positions(DIM, grid, prefix=1))
        self.register_buffer("decoder_places", sincos_positions(DECODER_DIM, grid, prefix=1))
        kind = partial(Block, mlp_ratio=4, qkv_bias=True)
        self.blocks = nn.Sequential(*(kind(DIM, HEADS) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(DIM)
        self.decoder_embed = nn.Linear(DIM, DECODER_DIM)
        decoder = (kind(DECODER_DIM, DECODER_HEADS) for _ in range(DECODER_DEPTH))
        self.decoder_blocks = nn.Sequential(*decoder)
        self.decoder_norm = nn.LayerNorm(DECODER_DIM)
        self.decoder_pred = nn.Linear(DECODER_DIM, PATCH * PATCH)

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """(B, 1, T, M), (B, N) -> the loss."""
        x = self.patch_embed(features).flatten(2).transpose(1, 2) + self.places[:, 1:]
        order = random_order(noise)
        back, visible = order.argsort(dim=1), int(TOKENS * (1 - RATIO))
        x = x.gather(1, order[:, :visible, None].expand(-1, -1, DIM))
        cls = (self.cls_token + self.places[:, :1]).expand(len(x), -1, -1)
        x = self.decoder_embed(self.norm(self.blocks(torch.cat([cls, x], dim=1))))
        masks = self.mask_token.expand(len(x), TOKENS - visible, -1).to(x.dtype)
        tokens = torch.cat([x[:, 1:], masks], dim=1)
        tokens = tokens.gather(1, back[:, :, None].expand(-1, -1, DECODER_DIM))
        x = torch.cat([x[:, :1], tokens], dim=1) + self.decoder_places
        prediction = self.decoder_pred(self.decoder_norm(self.decoder_blocks(x)))[:, 1:]
        target = features.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
        target = target.squeeze(1).transpose(2, 3).flatten(3).flatten(1, 2)
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        error = (prediction.float() - (target - mean) / (var + 1e-6).sqrt()).square().mean(-1)
        mask = (back >= visible).float()
        return (error * mask).sum() / mask.sum()


def upstream() -> tuple[Callable[[Tensor, Tensor], Tensor], list[nn.Parameter]]:
    """Loss and parameters, upstream's way."""
    model = Upstream()
    return model, list(model.parameters())


def ours() -> tuple[Callable[[Tensor, Tensor], Tensor], list[nn.Parameter]]:
    """Loss and parameters, by the card."""
    encoder = zoo.create("bird-mae-base")
    recipe = zoo.card("bird-mae").recipe
    assert recipe is not None
    objective = build_objective(recipe.objective, encoder)

    def loss(features: Tensor, noise: Tensor) -> Tensor:
        return objective(encoder, {"features": features, "noise": noise}).total

    return loss, [p for p in (*encoder.parameters(), *objective.parameters()) if p.requires_grad]


WAYS = {"upstream": upstream, "zoo": ours}


def step(way: str, *, half: bool = False) -> Update:
    """One update of a model made here."""
    torch.manual_seed(0)
    loss, parameters = WAYS[way]()
    batch = torch.randn(CLIPS, 1, FRAMES, MELS), torch.rand(CLIPS, TOKENS)
    return update_of(loss, parameters, batch, half=half, fused=True if way == "zoo" else None)


def main() -> None:
    """Times the four, then says what each needs."""
    torch.set_num_threads(THREADS)
    candidates = {
        f"{way} {'bfloat16' if half else 'float32'}": (way, half)
        for half in (False, True)
        for way in WAYS
    }
    makes = {name: partial(step, way, half=half) for name, (way, half) in candidates.items()}
    work = {name: make() for name, make in makes.items()}
    report("audio_step", alternate(work, ROUNDS, time.process_time), base="upstream float32")
    del work
    report_peaks("audio_step", makes)


if __name__ == "__main__":
    main()
