"""Self-contained HTML pages of results, rendered from ``templates/``.

A page opens offline: its pictures are embedded, and it loads nothing. Every text is escaped. The
same input gives the same bytes.
"""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from utils.console import percent

_JPEG_QUALITY = 88


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An embedded picture."""

    source: str  # data URI
    alt: str  # text that replaces the picture
    caption: str = ""
    link: str = ""  # URL the picture leads to


def picture(array: np.ndarray, alt: str, caption: str = "", *, photo: bool = False) -> Picture:
    """Embed ``(H, W, 3)`` or ``(H, W)`` uint8: as PNG, or as the smaller JPEG for a photo."""
    kind, data = ("jpeg", jpeg_base64(array)) if photo else ("png", _base64(array, "PNG"))
    return Picture(source=f"data:image/{kind};base64,{data}", alt=alt, caption=caption)


def jpeg_base64(array: np.ndarray) -> str:
    """Encode ``(H, W, 3)`` or ``(H, W)`` uint8 as JPEG in base64."""
    return _base64(array, "JPEG", quality=_JPEG_QUALITY, subsampling=0)


def _base64(array: np.ndarray, kind: str, **settings: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, optimize=kind == "PNG", **settings)
    return base64.b64encode(file.getvalue()).decode("ascii")


def render(template: str, **context: Any) -> str:
    """Render a template; a variable that it lacks is an error.

    Args:
        template: file name in ``templates/``.
        context: what the template shows; all text is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["finite"] = math.isfinite
    environment.filters["css"] = "rgb({0[0]}, {0[1]}, {0[2]})".format  # of a colour
    environment.filters["percent"] = percent
    return environment.get_template(template).render(context)
