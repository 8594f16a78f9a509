"""A file of weights in other names: what `zoo convert` does, in either direction."""

from pathlib import Path

from zoo.hub.convert import BACK, convert, detect
from zoo.hub.rules import Converted
from zoo.hub.weights import read_state

from zoo.errors import UnknownNameError, UsageError, WeightsError
from zoo.files import save_tensors, storage_errors

__all__ = ["rewrite"]


def rewrite(source: Path, out: Path, *, layout: str | None = None, to: str = "zoo") -> Converted:
    """Writes the tensors of a file as safetensors under the names of another layout.

    Pretraining heads come along where the new layout has names for them.

    Args:
        source: what `zoo.hub.weights.read_state` reads; no code of it is run.
        out: a .safetensors file that does not exist.
        layout: of the source, recognised by default; "zoo" for zoo's own names.
        to: the new layout, one of `zoo.hub.convert.BACK`.

    Returns:
        Where every key went; `objective` holds the heads that were written.

    Raises:
        UsageError: no such layout, or `out` exists or is no .safetensors.
        WeightsError: a tensor that the layout does not have, or a damaged file.
        StorageError: it cannot be written.
    """
    if to not in BACK:
        raise UnknownNameError("layout to write", to, BACK)
    if out.suffix != ".safetensors" or out.exists():
        raise UsageError(f"{out}: must be a new file that ends in .safetensors")
    state = read_state(source)
    if layout is None and detect(state) == "zoo":
        raise WeightsError(
            f"{source}: no layout that zoo recognises (keys such as {', '.join([*state][:3])}); "
            "give --layout"
        )
    found = convert(state, layout)
    heads = found.objective
    if to == "zoo" and convert({**found.encoder, **heads}).encoder.keys() != found.encoder.keys():
        heads = {}  # nothing would tell them from the encoder
    left = {key: "a head of the pretraining objective" for key in found.objective.keys() - heads}
    written = BACK[to](found.encoder, heads)
    draft = out.with_name(f".tmp-{out.name}")
    with storage_errors(out):
        try:
            save_tensors(draft, written)
            draft.rename(out)
        finally:
            draft.unlink(missing_ok=True)
    return Converted(found.encoder, heads, found.extra | left)
