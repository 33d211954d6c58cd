"""Makes small pictures that travel inside the page."""

import base64
import io

from PIL import Image

from datapipe.config import MAX_IMAGE_PIXELS
from datapipe.decode import DECODER_ERRORS, open_image

GRID_SIDE = 176  # pixels; shown at 110–150, so that they stay sharp on dense screens
EXAMPLE_SIDE = 136
QUALITY = 78


def thumbnail_uri(data: bytes, side: int) -> str | None:
    """The picture, at most `side` pixels wide and high, as a `data:` URI; None when it can't be decoded.

    It is always encoded anew: nothing of the bytes, their metadata or their colour profile gets into the page.
    """
    try:
        with open_image(data, MAX_IMAGE_PIXELS) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                return None
            image.draft("RGB", (side, side))
            small = _on_white(image)
    except (Image.DecompressionBombError, *DECODER_ERRORS):
        return None
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.info.clear()
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
