import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from zoo.modalities.images import decode_image
from zoo.modalities.patch_vit import patchify, unpatchify
from zoo.modalities.vision.codec import VisionCodec
from zoo.modalities.vision.preprocess import VisionPreprocess, VisionPreprocessConfig

import zoo
from zoo.errors import DataError


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def preprocess():
    return VisionPreprocess(VisionPreprocessConfig(), img_size=28, in_chans=3)


def test_patchify_round_trip():
    x = torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12)
    patches = patchify(x, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(unpatchify(patches, (2, 3), 4), x)
    first = x[0, :, :4, 4:8]  # second patch of the first row, channel fastest
    assert torch.equal(patches[0, 1].view(4, 4, 3).permute(2, 0, 1), first)


def test_codec_is_lossless(image):
    codec = VisionCodec()
    sample = codec.decode(codec.encode({"image": image, "label": 7}))
    assert sample["label"] == 7
    assert np.array_equal(sample["image"].permute(1, 2, 0), image)
    grey = codec.decode(codec.encode({"image": image[..., 0]}))
    assert "label" not in grey
    assert np.array_equal(grey["image"][0], image[..., 0])


def test_every_kind_of_raw_input_gives_the_same(image, preprocess, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(image))
    kinds = [str(path), path, png(image), image, torch.from_numpy(image).permute(2, 0, 1)]
    results = [preprocess(kind)["image"] for kind in kinds]
    assert all(torch.equal(results[0], other) for other in results)
    assert results[0].shape == (3, 28, 28)
    assert results[0].dtype == torch.uint8


@pytest.mark.parametrize(("h", "w"), [(90, 120), (121, 90), (77, 300), (20, 31), (28, 29)])
@pytest.mark.parametrize("crop", [(0.875, "center"), (0.9, "center"), (1.0, "squash")])
def test_resize_and_crop_are_the_official_ones(h, w, crop):
    """torchvision on Pillow images, as MAE and timm evaluate, up to a grey level or so."""
    transforms = pytest.importorskip("torchvision.transforms")
    small = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC)
    pct, mode = crop
    config = VisionPreprocessConfig(crop_pct=pct, crop_mode=mode)
    got = VisionPreprocess(config, img_size=28, in_chans=3)(np.asarray(image))["image"]
    size = int(28 / pct)
    bicubic = transforms.InterpolationMode.BICUBIC
    resize = transforms.Resize((size, size) if mode == "squash" else size, bicubic)
    want = np.asarray(transforms.CenterCrop(28)(resize(image))).astype(int)
    difference = np.abs(got.permute(1, 2, 0).numpy() - want)
    assert difference.mean() < 0.1
    assert difference.max() <= 3


def test_colour_becomes_grey_as_in_pillow(image):
    preprocess = VisionPreprocess(
        VisionPreprocessConfig(mean=(0.5,), std=(0.5,), crop_pct=1.0), img_size=40, in_chans=1
    )
    got = preprocess(image[:, :40])["image"][0].numpy()
    assert np.array_equal(got, np.asarray(Image.fromarray(image[:, :40]).convert("L")))


def test_augmentation_depends_on_its_generator_only(image, preprocess):
    def once(seed):
        generator = torch.Generator().manual_seed(seed)
        return preprocess.augment({"image": decode_image(png(image))}, generator)["image"]

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))
    assert once(3).shape == (3, 28, 28)


def bomb(width, height):
    """A PNG whose header promises far more pixels than its bytes hold."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image"),
        (b"GIF89a", "not an image|damaged"),
        (b"<html>error 404</html>", "not an image"),
        (bomb(30_000, 30_000), "900000000 pixels, the limit is 64000000|damaged"),
    ],
)
def test_hostile_bytes_are_one_line(data, message):
    with pytest.raises(DataError, match=message) as caught:
        decode_image(data, name="x.png")
    assert str(caught.value).startswith("x.png: ")
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_damaged(image):
    with pytest.raises(DataError, match="damaged image"):
        decode_image(png(image)[:-300])


@pytest.mark.parametrize(
    "members", [{}, {"txt": b"x"}, {"cls": b"1"}, {"png": b"no"}, {"png": b"", "cls": b"x"}]
)
def test_broken_samples(members):
    with pytest.raises(DataError):
        VisionCodec().decode(members)


@pytest.mark.parametrize("label", [b"-1", b"1.5", b"\xff", b"9" * 40])
def test_broken_labels(image, label):
    with pytest.raises(DataError, match="whole number"):
        VisionCodec().decode({"png": png(image), "cls": label})


@pytest.mark.parametrize(
    "raw", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), "no/such/file.png", 3]
)
def test_unusable_raw_input(raw, preprocess):
    with pytest.raises(DataError):
        preprocess(raw)


def test_uint8_is_raw_and_floats_are_normalised():
    encoder = zoo.create("digits-mae", seed=0).eval()
    image = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    by_hand = (image.float() / 255 - 0.29) / 0.36
    with torch.no_grad():
        raw, done = (encoder({"image": x}).pooled for x in (image, by_hand))
    torch.testing.assert_close(raw, done)


def test_another_image_size_is_refused_by_name():
    encoder = zoo.create("digits-mae", seed=0)
    with pytest.raises(ValueError, match=r"takes \(B, 1, 8, 8\)"):
        encoder({"image": torch.zeros(1, 1, 16, 16)})


@pytest.mark.parametrize("pool", ["cls", "mean", "mean_norm"])
def test_features_fit_their_grid(pool):
    encoder = zoo.create("digits-mae", seed=0, pool=pool).eval()
    features = encoder({"image": torch.zeros(3, 1, 8, 8)})
    assert features.grid == (4, 4)
    assert features.tokens.shape == (3, 16, encoder.dim)
    assert features.pooled.shape == (3, encoder.dim)


def test_drop_path_only_in_training():
    encoder = zoo.create("digits-mae", seed=0, drop_path=0.9)
    image = {"image": torch.rand(8, 1, 8, 8)}
    with torch.no_grad():
        assert not torch.equal(encoder(image).pooled, encoder(image).pooled)
        encoder.eval()
        assert torch.equal(encoder(image).pooled, encoder(image).pooled)
