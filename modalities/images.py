"""Image files -> pixels: bounded by their header, and as fast as what is installed allows."""

import io
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from zoo.modalities.bounds import MAX_PIXELS, decoding
from zoo.modalities.contracts import Buffer

from zoo.errors import DataError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = ["decode_image"]


def decode_image(data: Buffer, *, name: str = "image") -> Tensor:
    """An image file -> uint8 (1, H, W) where the file is grey, else (3, H, W) RGB.

    JPEG, PNG, WebP, BMP, GIF (its first picture) and TIFF are read. Pixels are as they are
    stored: an EXIF orientation is not applied.

    Raises:
        DataError: the bytes are no such image, are damaged, or promise more than 64 million pixels.
    """
    if not len(data):
        raise DataError(f"{name}: not an image (no bytes)", code="EMPTY_PART")
    with decoding(f"{name}: damaged image"):
        opener = _image_opener(bytes(data[:12]))
        if opener is None:
            kinds = "JPEG, PNG, WebP, BMP, GIF, TIFF"
            raise DataError(f"{name}: not an image that zoo reads ({kinds})")
        with _open_image(opener, data, name) as image:
            grey = image.mode in ("1", "L")
            decode_jpeg = _jpeg_decoder() if image.format == "JPEG" else None
            if decode_jpeg is not None and image.mode in ("L", "RGB"):
                # The same pixels, sooner. What it refuses, Pillow may still read: which samples
                # are bad must not depend on what is installed.
                with suppress(RuntimeError):
                    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            image.load()
            image.info.pop("transparency", None)  # else Pillow warns that it cannot keep it
            pixels = np.array(image.convert("L" if grey else "RGB"))
    tensor = torch.from_numpy(pixels)
    return tensor.unsqueeze(0) if grey else tensor.permute(2, 0, 1)


def _open_image(
    opener: "Callable[[io.BytesIO], ImageFile]", data: Buffer, name: str
) -> "ImageFile":
    """The header is read and within the limit; no pixel is decoded yet."""
    from PIL.Image import DecompressionBombError

    try:
        image = opener(io.BytesIO(data))
    except DecompressionBombError as error:
        raise DataError(f"{name}: {error}", code="TOO_LARGE") from None
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height} = {image.width * image.height} pixels"
        ending = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(image.format or "", b"")
        # What was cut is damaged, whatever its header promises.
        code = "TOO_LARGE" if ending in bytes(data[-64:]) else "DECODE"
        raise DataError(f"{name}: {size}, the limit is {MAX_PIXELS}", code=code)
    return image


def _image_opener(start: bytes) -> "Callable[[io.BytesIO], ImageFile] | None":
    """By content, because names lie; `Image.open` would try every format that Pillow knows."""
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.GifImagePlugin import GifImageFile
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.TiffImagePlugin import TiffImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    if start[:4] == b"RIFF":
        return WebPImageFile if start[8:] == b"WEBP" else None
    openers: dict[bytes, Callable[[io.BytesIO], ImageFile]] = {
        b"\xff\xd8\xff": JpegImageFile,
        b"\x89PNG\r\n\x1a\n": PngImageFile,
        b"BM": BmpImageFile,
        b"GIF8": GifImageFile,
        b"II*\0": TiffImageFile,
        b"MM\0*": TiffImageFile,
    }
    return next((opener for magic, opener in openers.items() if start.startswith(magic)), None)


@cache
def _jpeg_decoder() -> Callable[[Tensor], Tensor] | None:
    """What torchvision decodes with, without the seconds that its import takes."""
    spec = find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        library = Path(folder, "image.so")
        if library.exists():
            with suppress(OSError, AttributeError):
                torch.ops.load_library(library)
                decode = torch.ops.image.decode_jpeg.default
                return lambda data: decode(data, 0, False)  # channels as stored; no orientation
    return None
