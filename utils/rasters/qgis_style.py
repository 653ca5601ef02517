"""Layer styles of QGIS (``.qml``): it opens a raster with the style file of the same name."""

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from utils.files import write_text

_HEAD = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.16.0" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" alphaBand="-1" opacity="1" nodataColor="">
      <rasterTransparency/>
      <colorPalette>
"""
_TAIL = """      </colorPalette>
    </rasterrenderer>
  </pipe>
  <blendMode>0</blendMode>
</qgis>
"""


def write_style(
    raster: Path, names: Sequence[str], palette: Sequence[tuple[int, int, int]]
) -> None:
    """Write the style of a class map beside it: names and colours of the values 0, 1, ...

    A value that is not listed, such as that of pixels without data, is transparent.

    Args:
        raster: file of the class map; ``a.tif`` gets ``a.qml``.
        names: of the classes.
        palette: their colours, 0..255.
    """
    entries = [
        f'        <paletteEntry value="{value}" label={quoteattr(_printable(name))} '
        f'color="#{bytes(color).hex()}" alpha="255"/>\n'
        for value, (name, color) in enumerate(zip(names, palette, strict=True))
    ]
    write_text(raster.with_suffix(".qml"), _HEAD + "".join(entries) + _TAIL)


def _printable(name: str) -> str:
    """Replace the characters that XML has no way to write, such as control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in name)
