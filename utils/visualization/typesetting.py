"""Text on pictures: one font, a few colours, and measures that keep every letter on the page."""

import math
import unicodedata
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

PAPER: Color = (255, 255, 255)
INK: Color = (34, 38, 46)
FAINT_INK: Color = (110, 116, 128)
RULE: Color = (224, 227, 232)  # grid lines and outlines
MARGIN_PX = 20  # empty border of every picture
GAP_PX = 10  # between neighbours
TEXT_PX = 15
TITLE_PX = 18


@lru_cache
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in font (no font file of the system is needed) at a size in pixels."""
    loaded = ImageFont.load_default(size=size_px)
    assert isinstance(loaded, ImageFont.FreeTypeFont), "Pillow is built without FreeType"
    return loaded


def printable(text: str) -> str:
    """Text in one line and without accents, which the built-in font does not have."""
    decomposed = unicodedata.normalize("NFKD", " ".join(text.split()))
    return "".join(sign for sign in decomposed if not unicodedata.combining(sign))


def text_width_px(text: str, size_px: int = TEXT_PX) -> int:
    """Width that ``draw_text`` fills."""
    return math.ceil(font(size_px).getlength(printable(text)))


def line_height_px(size_px: int = TEXT_PX) -> int:
    """Height of a line, from the tallest ascender to the lowest descender."""
    return sum(font(size_px).getmetrics())


def shorten(text: str, width_px: int, size_px: int = TEXT_PX) -> str:
    """Cut text to a width, with an ellipsis if something is lost."""
    text = printable(text)
    if text_width_px(text, size_px) <= width_px:
        return text
    while text and text_width_px(text + "…", size_px) > width_px:
        text = text[:-1]
    return text.rstrip() + "…"


def blank(height_px: int, width_px: int) -> Image.Image:
    """An empty page."""
    return Image.new("RGB", (width_px, height_px), PAPER)


def draw_text(
    page: Image.Image,
    x_px: float,
    y_px: float,
    text: str,
    *,
    anchor: str = "la",
    size_px: int = TEXT_PX,
    color: Color = INK,
) -> None:
    """Write one line of text; ``anchor`` is Pillow's (``la``: x, y is the upper left corner)."""
    draw = ImageDraw.Draw(page)
    draw.text((x_px, y_px), printable(text), fill=color, font=font(size_px), anchor=anchor)


def draw_upright_text(
    page: Image.Image,
    center_x_px: float,
    bottom_y_px: float,
    text: str,
    *,
    size_px: int = TEXT_PX,
    color: Color = INK,
) -> None:
    """Write one line of text turned to the left, so that it reads from the bottom upwards."""
    strip = Image.new("L", (max(1, text_width_px(text, size_px)), line_height_px(size_px)), 0)
    ImageDraw.Draw(strip).text((0, 0), printable(text), fill=255, font=font(size_px))
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    corner = (round(center_x_px - turned.width / 2), round(bottom_y_px - turned.height))
    page.paste(color, corner, turned)


def draw_swatch(
    page: Image.Image, left_px: int, center_y_px: int, side_px: int, color: Color
) -> None:
    """A small square of a colour with a fine outline, so that white and pale ones show."""
    top_px = center_y_px - side_px // 2
    box = (left_px, top_px, left_px + side_px - 1, top_px + side_px - 1)
    ImageDraw.Draw(page).rectangle(box, fill=color, outline=tuple(c * 3 // 4 for c in color))
