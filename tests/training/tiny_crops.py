"""An encoder of crops that trains in milliseconds, and a recipe of it."""

from dataclasses import dataclass

from torch import nn
from zoo.modalities.contracts import Features
from zoo.modalities.volume.preprocess import VolumePreprocess, VolumePreprocessConfig
from zoo.modalities.volumes import CropEncoder

__all__ = ["RECIPE", "TinyCrops", "TinyCropsConfig"]

RECIPE = """
model = "tiny-crops"
modality = "volume"
encoder.name = "training.tiny_crops:TinyCrops"
preprocess.size = [32, 32, 16]
loader.workers = 0

[objective]
name = "zoo.objectives.voco:VoCo"
crop_size = 16
hidden_dim = 32
output_dim = 16
drop = 0.0

[train]
steps = 4
batch_size = 4
lr = 1e-3
warmup = 2
optimizer = "adamw"
log_every = 1
timeout = 20
loggers = []
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyCropsConfig:
    dim: int = 16


class TinyCrops(CropEncoder):
    modality = "volume"
    config_class = TinyCropsConfig
    preprocess_class = VolumePreprocessConfig

    def __init__(self, config, preprocess):
        super().__init__()
        self.config, self.dim = config, config.dim
        self.preprocess = VolumePreprocess(preprocess)
        self.stem = nn.Conv3d(1, 2 * config.dim, 4, stride=4)
        self.blocks = nn.ModuleList([nn.Linear(2 * config.dim, config.dim)])

    def forward(self, batch):
        cells = self.stem(batch["volume"])
        tokens = self.blocks[0](cells.relu().flatten(2).transpose(1, 2))
        return Features(tokens=tokens, pooled=tokens.mean(dim=1), grid=tuple(cells.shape[2:]))
