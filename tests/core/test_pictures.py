"""Pictures made of pixels: every pixel where it belongs, and read back as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steps.core.pictures import bytes_of, grid, save_png


def test_values_fill_the_bytes() -> None:
    assert bytes_of(np.arange(17), 17)[[0, 1, 8, 16]].tolist() == [0, 16, 128, 255]
    assert bytes_of(np.arange(256), 256).tolist() == list(range(256))


def test_images_lie_in_rows_and_columns_with_gaps() -> None:
    images = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2, 1).astype(np.uint8)
    picture = grid(images, 3)
    assert picture.shape == (2 * 6 + 3, 3 * 6 + 2 * 3, 1)
    for row, column in np.ndindex(2, 3):
        top, left = row * 9, column * 9
        part = picture[top : top + 6, left : left + 6, 0]
        assert (part == images[row, column, :, :, 0].repeat(3, 0).repeat(3, 1)).all()
    assert (picture[6:9] == 255).all()
    assert (picture[:, 6:9] == 255).all()


def test_gaps_before_rows() -> None:
    images = np.zeros((3, 1, 1, 1, 1), np.uint8)
    picture = grid(images, 2, gaps=[1, 4], background=9)
    assert picture[:, 0, 0].tolist() == [0, 0, 9, 0, 0, 9, 9, 9, 9, 0, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_read_back(tmp_path: Path, channels: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    save_png(picture, tmp_path / ".a.png.part")  # as outputs are called until they are whole
    with Image.open(tmp_path / ".a.png.part") as image:
        assert image.format == "PNG"
        assert (np.asarray(image).reshape(picture.shape) == picture).all()
    first = (tmp_path / ".a.png.part").read_bytes()
    save_png(picture, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == first
