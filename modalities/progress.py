"""A bar on the terminal while inputs become features."""

from collections.abc import Iterable

__all__ = ["batch_starts"]


def batch_starts(total: int, batch_size: int, progress: bool | None) -> Iterable[int]:
    """Where each batch of `total` inputs begins, behind a bar as `Encoder.embed` describes it."""
    steps = range(0, total, batch_size)
    if progress is False or len(steps) < 2:
        return steps
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if progress is None and not console.is_terminal:
        return steps
    return track(steps, description="embedding", console=console, transient=True)
