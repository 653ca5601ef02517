"""One page that opens offline: HTML with its pictures inside, and nothing from elsewhere.

Every text is escaped; what is HTML already has the type ``Html``. The same input gives the same
bytes.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from PIL import Image

Color = tuple[int, int, int]

_JPEG_QUALITY = 88

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #22262e; --faint: #646a76;
  --rule: #e0e3e8; --fill: #f2f4f7; --link: #1864ab; }
@media (prefers-color-scheme: dark) { :root { --paper: #16191e; --ink: #e4e7ec; --faint: #9aa1ad;
  --rule: #343a44; --fill: #232932; --link: #7ab5ec; } }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; padding-top: .5rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; font-weight: 500; margin: 1rem 0 .3rem; overflow-wrap: anywhere; }
p, dl, figure, .wide { margin: .6rem 0; } p, dl { max-width: 52rem; } a { color: var(--link); }
figcaption, .faint, dt, th { color: var(--faint); } figcaption, .faint { font-size: .9rem; }
.wide { overflow-x: auto; } .columns { display: flex; flex-wrap: wrap; gap: 0 2rem; }
.columns div { min-width: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap; }
th { font-weight: 500; border-bottom: 1px solid var(--rule); }
.text { text-align: left; } .rule td { border-top: 1px solid var(--rule); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: .75rem; }
.figures div, pre { background: var(--fill); border-radius: .4rem; padding: .5rem 1rem; }
.figures b { display: block; font-size: 1.5rem; } pre { overflow-x: auto; font-size: .85rem; }
img { display: block; max-width: 100%; height: auto; image-rendering: auto; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .5rem; }
@media (min-width: 72rem) { .row { grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); } }
.row figure { margin: 0; } .row img { width: 100%; }
.swatch { display: inline-block; width: .8em; height: .8em; outline: 1px solid var(--faint);
  margin-right: .45em; } .legend > span { display: inline-block; margin-right: 1.1em; }
.bar { display: inline-block; position: relative; width: 9rem; height: .8rem;
  background: var(--fill); vertical-align: middle; }
.bar i { position: absolute; inset: 0 auto 0 0; }
.bar .range { top: 40%; bottom: 40%; background: var(--ink); outline: 1px solid var(--paper); }
"""


class Html(str):
    """Text that is HTML, its own texts escaped."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page under a heading."""

    title: str
    body: Html


def page(title: str, sections: Sequence[Section], head: Html | None = None) -> str:
    """A whole page.

    Args:
        title: of the page, and its heading.
        sections: in their order; from four on, links to them stand above.
        head: stands under the heading.
    """
    parts = [f"<h1>{escape(title)}</h1>"]
    if len(sections) >= 4:
        links = (f'<a href="#s{i}">{escape(part.title)}</a>' for i, part in enumerate(sections, 1))
        parts.append(f"<p>{' · '.join(links)}</p>")
    if head is not None:
        parts.append(head)
    for number, section in enumerate(sections, 1):
        parts.append(f'<section id="s{number}"><h2>{escape(section.title)}</h2>')
        parts.append(f"{section.body}</section>")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            *parts,
            "</body>\n</html>\n",
        ]
    )


def together(*parts: Html) -> Html:
    """Parts one below the other."""
    return Html("\n".join(parts))


def text_html(text: str, *, faint: bool = False) -> Html:
    """A paragraph; ``faint``: in the colour of captions."""
    return Html(f"<p{' class=faint' * faint}>{escape(text)}</p>")


def preformatted_html(text: str) -> Html:
    """Text in columns, as it stands in a console."""
    return Html(f"<pre>{escape(text)}</pre>")


def list_html(entries: Mapping[str, str]) -> Html:
    """Names with a text each."""
    pairs = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in entries.items())
    return Html(f"<dl>{''.join(pairs)}</dl>")


def figures_html(figures: Sequence[tuple[str, str, str]]) -> Html:
    """Few numbers in large letters: (name, number, what stands under it)."""
    boxes = (
        f"<div>{escape(name)}<b>{escape(number)}</b><span class=faint>{escape(note)}</span></div>"
        for name, number, note in figures
    )
    return Html(f'<div class="figures">{"".join(boxes)}</div>')


def table_html(
    head: Sequence[str],
    rows: Sequence[Sequence[str | Html]],
    rule_before: Sequence[int] = (),
    text_columns: Sequence[int] = (0,),
) -> Html:
    """A table that scrolls by itself where the screen is narrower.

    Args:
        head: the first line.
        rows: as many cells each, or fewer; ``bar_html`` and ``name_html`` make cells, all others
            are escaped.
        rule_before: rows that a rule is drawn above.
        text_columns: stand to the left; all others hold numbers, which stand to the right.
    """

    def line(tag: str, cells: Sequence[str | Html], kind: str = "") -> str:
        written = (
            f"<{tag}{' class=text' * (place in text_columns)}>{_escaped(cell)}</{tag}>"
            for place, cell in enumerate([*cells, *[""] * (len(head) - len(cells))])
        )
        return f"<tr{kind}>{''.join(written)}</tr>"

    lines = [line("td", row, " class=rule" * (i in rule_before)) for i, row in enumerate(rows)]
    body = "\n".join(lines)
    return Html(f'<div class="wide"><table>\n{line("th", head)}\n{body}\n</table></div>')


def _escaped(cell: str | Html) -> str:
    return cell if isinstance(cell, Html) else escape(cell)


def name_html(name: str, color: Color | None = None) -> Html:
    """A name after a swatch of its colour, if it has one."""
    swatch = "" if color is None else f'<span class="swatch" style="{_fill(color)}"></span>'
    return Html(f"<span>{swatch}{escape(name)}</span>")


def legend_html(names: Sequence[str], colors: Sequence[Color]) -> Html:
    """Names with their colours, side by side."""
    entries = " ".join(name_html(*entry) for entry in zip(names, colors, strict=True))
    return Html(f'<p class="legend">{entries}</p>')


def bar_html(share: float, color: Color, low: float = math.nan, high: float = math.nan) -> Html:
    """A bar for a share of 1, and its interval as a line on it; nothing for what is nan."""
    parts = []
    if not math.isnan(share):
        parts.append(f'<i style="width:{100 * share:.2f}%;{_fill(color)}"></i>')
    if not math.isnan(low + high):
        place = f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"
        parts.append(f'<i class="range" style="{place}"></i>')
    return Html(f'<span class="bar">{"".join(parts)}</span>')


def _fill(color: Color) -> str:
    return "background:#{:02x}{:02x}{:02x}".format(*color)


def picture_html(array: np.ndarray, caption: str, alt: str, *, photo: bool = False) -> Html:
    """A picture with a line under it.

    Args:
        array: ``(H, W, 3)`` or ``(H, W)`` uint8.
        caption: the line; none if empty.
        alt: what is read to those who do not see the picture.
        photo: embedded as JPEG, which is small; otherwise as PNG, pixel by pixel.
    """
    height_px, width_px = array.shape[:2]
    data = jpeg_base64(array) if photo else _base64(array, "PNG", optimize=True)
    source = f"data:image/{'jpeg' if photo else 'png'};base64,{data}"
    size = f'width="{width_px}" height="{height_px}"'
    image = f'<img {size} alt="{escape(alt)}" src="{source}">'
    return _figure_html(image, caption)


def jpeg_html(data: str, caption: str, alt: str) -> Html:
    """A picture that is a JPEG already, as ``jpeg_base64`` makes one."""
    image = f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{data}">'
    return _figure_html(image, caption)


def jpeg_base64(array: np.ndarray) -> str:
    """``(H, W, 3)`` or ``(H, W)`` uint8 as a JPEG, in base64."""
    return _base64(array, "JPEG", quality=_JPEG_QUALITY, subsampling=0)


def _base64(array: np.ndarray, kind: str, **settings: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **settings)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _figure_html(image: str, caption: str) -> Html:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{image}{below}</figure>")


def row_html(title: str, pictures: Sequence[Html]) -> Html:
    """Pictures of one size side by side, under a title; on a narrow screen in several lines."""
    return Html(f'<h3>{escape(title)}</h3>\n<div class="row">{"".join(pictures)}</div>')


def columns_html(*parts: Html) -> Html:
    """Parts side by side where the screen is wide enough."""
    return Html(f'<div class="columns">{"".join(f"<div>{part}</div>" for part in parts)}</div>')
