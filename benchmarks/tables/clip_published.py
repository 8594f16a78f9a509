"""What open_clip published of its models, in per cent: facts of two tables of its repository.

`docs/openclip_results.csv` at 0a1cc15 and `docs/openclip_retrieval_results.csv` at 05e7db4 of
mlfoundations/open_clip, measured by its authors with CLIP_benchmark.
"""

from collections.abc import Mapping

__all__ = ["PUBLISHED"]

# imagenet, -v2, -sketch, -a, -r; then flickr30k and coco: image R@1, R@5, text R@1, R@5 of each
_ROWS = {
    "ViT-B-32.openai": (
        *(63.32, 55.92, 42.29, 31.55, 69.33),
        *(58.78, 83.56, 78.90, 94.90, 30.44, 55.94, 50.12, 75.00),
    ),
    "ViT-B-32.laion2b_s34b_b79k": (
        *(66.56, 58.14, 53.66, 26.27, 76.43),
        *(66.78, 88.38, 84.10, 96.20, 39.34, 65.43, 56.32, 79.84),
    ),
    "ViT-B-32.datacomp_xl_s13b_b90k": (
        *(69.17, 60.75, 56.76, 30.35, 78.18),
        *(61.08, 84.92, 79.00, 93.90, 37.14, 62.35, 53.54, 77.78),
    ),
    "ViT-B-16.openai": (
        *(68.34, 61.88, 48.24, 49.95, 77.70),
        *(62.16, 85.72, 82.20, 96.60, 33.09, 58.42, 52.42, 76.70),
    ),
    "ViT-B-16.laion2b_s34b_b88k": (
        *(70.23, 62.28, 56.08, 38.23, 80.61),
        *(69.84, 90.38, 86.30, 97.90, 42.31, 67.70, 59.44, 81.78),
    ),
    "ViT-B-16.datacomp_xl_s13b_b90k": (
        *(73.49, 65.98, 60.44, 48.40, 83.62),
        *(67.56, 88.34, 85.10, 97.20, 40.16, 65.95, 57.44, 80.86),
    ),
    "ViT-L-14.openai": (
        *(75.54, 69.83, 59.59, 70.75, 87.84),
        *(64.96, 87.24, 85.20, 97.40, 36.51, 61.06, 56.34, 79.38),
    ),
    "ViT-L-14.laion2b_s32b_b82k": (
        *(75.25, 67.80, 63.28, 53.85, 87.42),
        *(75.52, 92.86, 89.50, 98.70, 46.51, 71.08, 63.36, 83.98),
    ),
    "ViT-L-14.datacomp_xl_s13b_b90k": (
        *(79.21, 72.05, 67.95, 69.59, 90.83),
        *(73.38, 91.74, 89.00, 98.60, 45.73, 70.03, 63.30, 84.14),
    ),
    "ViT-H-14.laion2b_s32b_b79k": (
        *(77.96, 70.90, 66.57, 59.35, 89.34),
        *(77.64, 94.18, 90.70, 99.20, 49.48, 73.38, 65.92, 86.06),
    ),
    "ViT-g-14.laion2b_s34b_b88k": (
        *(78.47, 71.58, 67.54, 60.92, 90.20),
        *(77.72, 94.16, 91.40, 99.30, 48.78, 73.34, 66.38, 85.98),
    ),
    "ViT-bigG-14.laion2b_s39b_b160k": (
        *(80.09, 73.59, 68.94, 69.33, 92.13),
        *(79.56, 94.98, 92.90, 99.30, 51.37, 74.90, 67.38, 86.86),
    ),
}
_CLASSES = ("imagenet", "imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r")
_RECALLS = ("image R@1", "image R@5", "text R@1", "text R@5")


def _table(row: tuple[float, ...]) -> dict[str, Mapping[str, float]]:
    classes = {name: {"accuracy": value} for name, value in zip(_CLASSES, row[:5], strict=True)}
    pairs = {
        "flickr30k": dict(zip(_RECALLS, row[5:9], strict=True)),
        "coco": dict(zip(_RECALLS, row[9:], strict=True)),
    }
    return {**classes, **pairs}


# model -> data set -> measure -> per cent
PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    f"open-clip/{name}": _table(row) for name, row in _ROWS.items()
}
