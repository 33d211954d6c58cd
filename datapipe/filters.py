"""Says which pictures are left out for their shape or size."""

from datapipe.addresses import Refusal
from datapipe.config import BuildConfig
from datapipe.status import SampleStatus


def refuse_shape(width: int, height: int, config: BuildConfig) -> Refusal | None:
    """Why a picture of this size is left out; None when it is kept. Texts name the limit, not the picture."""
    shorter, longer = min(width, height), max(width, height)
    if shorter < config.min_image_size:
        return Refusal(SampleStatus.TOO_SMALL, f"shorter side below {config.min_image_size} pixels")
    if width * height > config.max_image_area:
        return Refusal(SampleStatus.TOO_BIG, f"more than {config.max_image_area:.0f} pixels")
    if longer > config.max_aspect_ratio * shorter:
        return Refusal(
            SampleStatus.ASPECT_RATIO, f"longer side more than {config.max_aspect_ratio:g} times the shorter"
        )
    return None
