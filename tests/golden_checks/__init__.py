"""Checkers of golden fixtures by `kind`; all sizes and tolerances come from the sidecar."""

from golden_checks import (
    audio,
    audio_features,
    audio_probe,
    audio_wav2vec2,
    code,
    code_encoders,
    contrastive,
    data,
    selection,
    tabular,
    tabular_cv,
    training,
    views,
    vision,
    volume,
    volume_data,
    volume_encoders,
)
from golden_checks.fixture import Fixture, discover

CHECKS = {
    **vision.CHECKS,
    **contrastive.CHECKS,
    **views.CHECKS,
    **data.CHECKS,
    **selection.CHECKS,
    **training.CHECKS,
    **audio.CHECKS,
    **audio_features.CHECKS,
    **audio_probe.CHECKS,
    **audio_wav2vec2.CHECKS,
    **code.CHECKS,
    **code_encoders.CHECKS,
    **tabular.CHECKS,
    **tabular_cv.CHECKS,
    **volume.CHECKS,
    **volume_data.CHECKS,
    **volume_encoders.CHECKS,
}

__all__ = ["CHECKS", "Fixture", "discover"]
