"""Many images as one labelled picture."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hessian_penalty.errors import UserError

LEGIBLE_PIXELS = 64  # a tile is enlarged to at least this
INK = (122, 130, 140)  # mid-tone: legible on a white and on a dark ground
_LABEL_MARGIN = 8  # between a label and the tiles
_GROUP_GAP = 10  # additional, between rows of different labels


def images_uint8(
    images: Float[Tensor, "*batch channels height width"],
) -> UInt8[np.ndarray, "*batch height width 3"]:
    """Images in [-1, 1] as RGB bytes, channels last; values outside are clipped, one channel is grey.

    >>> images_uint8(torch.tensor([-1.0, 0.0, 1.0, 7.0]).reshape(1, 1, 4))[0, :, 0].tolist()
    [0, 128, 255, 255]

    Raises:
        UserError: neither 1 nor 3 channels, or NaN among the values.
    """
    channels = images.shape[-3]
    if channels not in (1, 3):
        raise UserError(f"Images must have 1 (grey) or 3 (RGB) channels, got {channels}.")
    if images.isnan().any():
        raise UserError("The images hold NaN: the generator has diverged; take an older checkpoint.")
    scaled = images.detach().cpu().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    rgb = scaled.movedim(-3, -1).expand(*scaled.shape[:-3], *scaled.shape[-2:], 3)  # (*batch, H, W, 3)
    return np.asarray(rgb.numpy())


class GridPainter:
    """Paints grids of one layout; labels are drawn once, so that a video costs only its tiles.

    Row labels stand left of the tiles and may have several lines, column labels above. With `background=None` the
    picture is RGBA with a transparent ground. Without labels and gap the picture is the tiles and nothing else.

    >>> GridPainter(2, 3, 8, 8, scale=4, gap=2).size
    (100, 66)

    Args:
        rows, columns: tiles of the grid.
        height, width: of one image, in its own pixels.
        scale: whole number of picture pixels a pixel; None takes the least that makes a tile legible (64 pixels).
        gap: pixels between tiles.
        row_labels, column_labels: one each row, one each column, or None.
        rows_a_label: so many rows share a label, at their middle, and stand apart from the others.
        background: RGB of the ground, on which labels keep clear of the edge, or None.
        ink: RGB of the labels.
        letters: height of the labels' letters in pixels; None takes a quarter of a tile, from 12 to 22.
        even: pad to even width and height, as video codecs want it.

    Raises:
        UserError: a number of labels that is not the grid's.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        height: int,
        width: int,
        *,
        scale: int | None = None,
        gap: int = 2,
        row_labels: Sequence[str] | None = None,
        column_labels: Sequence[str] | None = None,
        rows_a_label: int = 1,
        background: tuple[int, int, int] | None = None,
        ink: tuple[int, int, int] = INK,
        letters: int | None = None,
        even: bool = False,
    ) -> None:
        for name, labels, count in (("row", row_labels, rows // rows_a_label), ("column", column_labels, columns)):
            if labels is not None and len(labels) != count:
                raise UserError(f"`{name}_labels` must name each {name}: expected {count}, got {len(labels)}.")
        self.rows, self.columns, self.gap, self._together = rows, columns, gap, rows_a_label
        self.scale = scale if scale is not None else max(1, -(-LEGIBLE_PIXELS // min(height, width)))
        self.tile_height, self.tile_width = height * self.scale, width * self.scale
        font = _font(letters or max(12, min(self.tile_height // 4, 22)))
        row_boxes = [_text_size(label, font) for label in row_labels or ()]
        column_boxes = [_text_size(label, font) for label in column_labels or ()]
        self.left = max((box[0] for box in row_boxes), default=-_LABEL_MARGIN) + _LABEL_MARGIN
        self.left += _LABEL_MARGIN if row_boxes and background is not None else 0
        self.top = max((box[1] for box in column_boxes), default=-_LABEL_MARGIN) + _LABEL_MARGIN
        self.top += _LABEL_MARGIN if column_boxes and background is not None else 0
        total_width = self.left + columns * (self.tile_width + gap) - gap
        total_height = self.tile_corner(rows - 1, 0)[1] + self.tile_height
        if even:
            total_width, total_height = total_width + total_width % 2, total_height + total_height % 2
        mode, ground = ("RGBA", (*ink, 0)) if background is None else ("RGB", background)
        canvas = Image.new(mode, (total_width, total_height), ground)
        draw = ImageDraw.Draw(canvas)
        for row, label in enumerate(row_labels or ()):
            first, last = row * rows_a_label, (row + 1) * rows_a_label - 1
            center = (self.tile_corner(first, 0)[1] + self.tile_corner(last, 0)[1] + self.tile_height) / 2
            middle = (self.left - _LABEL_MARGIN, center)
            draw.multiline_text(middle, label, fill=ink, font=font, anchor="rm", align="right")
        for column, label in enumerate(column_labels or ()):
            bottom = (self.tile_corner(0, column)[0] + self.tile_width / 2, self.top - _LABEL_MARGIN / 2)
            draw.multiline_text(bottom, label, fill=ink, font=font, anchor="md", align="center")
        self._canvas: NDArray[Any] = np.asarray(canvas)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels."""
        return self._canvas.shape[1], self._canvas.shape[0]

    def tile_corner(self, row: int, column: int) -> tuple[int, int]:
        """Left and top pixel of a tile."""
        between_groups = row // self._together * _GROUP_GAP if self._together > 1 else 0
        top = self.top + row * (self.tile_height + self.gap) + between_groups
        return self.left + column * (self.tile_width + self.gap), top

    def paint_array(
        self,
        images: Float[Tensor, "rows columns channels height width"]
        | Iterable[Float[Tensor, "columns channels height width"]],
    ) -> UInt8[np.ndarray, "picture_height picture_width bands"]:
        """The picture as bytes (height, width, 3 or 4).

        Args:
            images: all of them, or one row after the other, taken as they come.
        """
        picture = self._canvas.copy()
        for row, of_row in enumerate(images):
            tiles = images_uint8(of_row).repeat(self.scale, axis=1).repeat(self.scale, axis=2)
            for column, tile in enumerate(tiles):
                x, y = self.tile_corner(row, column)
                picture[y : y + self.tile_height, x : x + self.tile_width, :3] = tile
                picture[y : y + self.tile_height, x : x + self.tile_width, 3:] = 255
        return picture

    def paint(
        self,
        images: Float[Tensor, "rows columns channels height width"]
        | Iterable[Float[Tensor, "columns channels height width"]],
    ) -> Image.Image:
        """The picture; see `paint_array`."""
        return Image.fromarray(self.paint_array(images))


def image_grid(images: Float[Tensor, "rows columns channels height width"], **options: Any) -> Image.Image:
    """One picture of all images in [-1, 1], enlarged by a whole number without smoothing.

    >>> image_grid(torch.zeros(2, 3, 1, 32, 32), row_labels=["z0", "z1"]).mode
    'RGBA'

    Args:
        options: as of `GridPainter`.
    """
    rows, columns, _, height, width = images.shape
    return GridPainter(rows, columns, height, width, **options).paint(images)


def side_by_side(pictures: Sequence[Image.Image], *, gap: int = 32) -> Image.Image:
    """Pictures in a row, tops aligned, on white.

    >>> side_by_side([Image.new("RGB", (10, 20)), Image.new("RGBA", (30, 5))], gap=4).size
    (44, 20)
    """
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGBA", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        row.alpha_composite(picture.convert("RGBA"), (left, 0))
        left += picture.width + gap
    return row.convert("RGB")


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as a PNG file, packed tightly."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as Matplotlib ships it: the same letters, Greek ones among them, on every machine."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _text_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    box = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font=font)
    return int(np.ceil(box[2])), int(np.ceil(box[3]))
