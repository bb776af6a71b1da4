"""Pictures made of pixels: many small images in one PNG, enlarged by whole factors to stay sharp."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def bytes_of(images: np.ndarray, values: int) -> np.ndarray:
    """Pixel values from 0 to ``values`` - 1 as bytes from 0 to 255."""
    import numpy as np

    scaled: np.ndarray = np.rint(images.astype(float) * (255 / (values - 1))).astype(np.uint8)
    return scaled


def grid(images: np.ndarray, factor: int, gaps: list[int] | None = None, background: int = 255) -> np.ndarray:
    """Images in rows and columns, each pixel a square.

    Args:
        images: bytes, ``uint8 [rows, columns, height, width, channels]``, of one channel (grey)
            or three (RGB).
        factor: how many times as large a pixel becomes.
        gaps: enlarged pixels before each row but the first, ``factor`` by default; columns are ``factor``
            apart.
        background: what gaps are filled with.

    Returns:
        ``uint8 [height, width, channels]``.
    """
    import numpy as np

    large = images.repeat(factor, 2).repeat(factor, 3)
    rows, columns, height, width, channels = large.shape
    before = [0, *([factor] * (rows - 1) if gaps is None else gaps)]
    size = (sum(before) + rows * height, columns * width + (columns - 1) * factor, channels)
    picture = np.full(size, background, np.uint8)
    top = 0
    for row, gap in enumerate(before):
        top += gap
        for column in range(columns):
            left = column * (width + factor)
            picture[top : top + height, left : left + width] = large[row, column]
        top += height
    return picture


def save_png(picture: np.ndarray, out: Path) -> None:
    """Write a picture ``uint8 [height, width, channels]``, of one channel or three, as PNG."""
    from PIL import Image

    shown = picture[..., 0] if picture.shape[2] == 1 else picture
    Image.fromarray(shown).save(out, format="PNG", compress_level=9)
