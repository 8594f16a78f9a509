"""Foreign checkpoint layouts -> zoo's names. Encoders never know foreign names.

Every key of a foreign file ends in one of three places: the encoder, an objective's heads, or
`extra` with the reason why zoo has no use for it.
"""

from collections.abc import Callable
from functools import partial

from zoo.hub.bmmae import BMMAE_LAYOUTS, detect_bmmae
from zoo.hub.codet5p import CODET5P_RULES, check_codet5p, detect_codet5p
from zoo.hub.mae import (
    BIRD_MAE_AVERAGED_RULES,
    BIRD_MAE_RULES,
    MAE_RULES,
    TRANSFORMERS,
    TRANSFORMERS_RULES,
    detect_mae,
)
from zoo.hub.modernbert import MODERNBERT_RULES, check_modernbert, detect_modernbert
from zoo.hub.mosaicbert import MOSAICBERT_RULES, check_mosaicbert, detect_mosaicbert
from zoo.hub.names import rename_back
from zoo.hub.rules import Converted, Rules, State, divide
from zoo.hub.voco import VOCO_LAYOUTS, detect_voco
from zoo.hub.wav2vec2 import WAV2VEC2_LAYOUTS, detect_wav2vec2

from zoo.errors import UnknownNameError

__all__ = ["BACK", "LAYOUTS", "convert", "detect"]


def convert(state: State, layout: str | None = None) -> Converted:
    """Renames a foreign state dict.

    Args:
        state: the foreign tensors.
        layout: one of LAYOUTS; recognised by its keys when not given.

    Raises:
        UnknownNameError: no such layout.
        WeightsError: a tensor that its layout does not have.
    """
    name = layout or detect(state)
    if name not in LAYOUTS:
        raise UnknownNameError("checkpoint layout", name, LAYOUTS)
    return LAYOUTS[name](state)


def detect(state: State) -> str:
    """The layout of a state dict's keys; "zoo" where they look like none of the foreign ones."""
    return next((name for own in _DETECTORS if (name := own(state))), "zoo")


_DETECTORS: tuple[Callable[[State], str | None], ...] = (
    detect_wav2vec2,
    detect_voco,
    detect_bmmae,
    detect_mosaicbert,
    detect_modernbert,
    detect_codet5p,
    detect_mae,
)


def _from_zoo(state: State) -> Converted:
    return Converted(encoder=dict(state))


def _from_library(state: State) -> Converted:
    """A model of timm or open_clip, or zoo's own names for it; encoders know what else is there."""
    start = "model."
    return Converted(encoder={start + k.removeprefix(start): v for k, v in state.items()})


def _from_bird_mae_lightning(state: State) -> Converted:
    averaged = any(key.startswith("encoder_ema.") for key in state)
    rules = BIRD_MAE_AVERAGED_RULES if averaged else BIRD_MAE_RULES
    return _by_rules(state, rules, "bird-mae-lightning")


def _by_rules(
    state: State, rules: Rules, layout: str, check: Callable[[State], None] | None = None
) -> Converted:
    if check is not None:
        check(state)
    return Converted(*divide(state, rules, layout))


LAYOUTS: dict[str, Callable[[State], Converted]] = {
    "zoo": _from_zoo,
    "timm": _from_library,
    "open_clip": _from_library,
    "bird-mae-lightning": _from_bird_mae_lightning,
    **{
        name: partial(_by_rules, rules=rules, layout=name)
        for name, rules in {
            "mae": MAE_RULES,
            "transformers-vit-mae": TRANSFORMERS_RULES,
            **WAV2VEC2_LAYOUTS,
            **VOCO_LAYOUTS,
            **BMMAE_LAYOUTS,
        }.items()
    },
    **{
        name: partial(_by_rules, rules=rules, layout=name, check=check)
        for name, rules, check in (
            ("mosaicbert", MOSAICBERT_RULES, check_mosaicbert),
            ("modernbert", MODERNBERT_RULES, check_modernbert),
            ("codet5p", CODET5P_RULES, check_codet5p),
        )
    },
}
# Zoo's names (encoder, objective) -> a layout that somebody may want to have. transformers 5 reads
# files of transformers 4, too.
BACK: dict[str, Callable[[State, State], State]] = {
    "zoo": lambda encoder, objective: {**encoder, **objective},
    "transformers-vit-mae": partial(rename_back, pairs=TRANSFORMERS),
}
