"""Text for the console, pages and charts: tables, lists of named values, formatted scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GAP = "  "
WIDTH = 100  # columns to which running text is wrapped
_MIN_WIDTH = 9  # of a column of numbers, so that tables printed below each other line up


@dataclass(frozen=True, kw_only=True)
class Table:
    """Formatted cells, printed on the console by ``str`` and on pages by a template.

    Attributes:
        head: column titles.
        rows: cells of each row; missing cells at the end are empty.
        rules: indices of the rows that a horizontal rule precedes.
        text_columns: left-aligned columns; all others are right-aligned.
        caption: a line above the table, naming its unit; may be empty.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    rules: Sequence[int] = (0,)
    text_columns: Sequence[int] = (0,)
    caption: str = ""

    def __str__(self) -> str:
        columns = range(len(self.head))
        cells = (self.head, *self.rows)
        widths = [max(len(row[i]) for row in cells if i < len(row)) for i in columns]

        def line(row: Sequence[str]) -> str:
            padded = (
                cell.ljust(width) if i in self.text_columns else cell.rjust(max(width, _MIN_WIDTH))
                for i, cell, width in zip(columns, row, widths, strict=False)
            )
            return GAP.join(padded).rstrip()

        rule = "-" * len(line(self.head))
        lines = [self.caption] * bool(self.caption) + [line(self.head)]
        for index, row in enumerate(self.rows):
            lines += [rule] * (index in self.rules) + [line(row)]
        return "\n".join(lines)


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number with its noun, and other words that agree, such as ``1 file``.

    Args:
        number: 0 or more; thousands are separated.
        one: words for 1.
        several: those for other numbers; None: ``one`` with an s.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def percent(fraction: float) -> str:
    """Format with two decimals; ``-`` for nan."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def points(difference: float) -> str:
    """Format as percentage points with sign and two decimals; ``-`` for nan."""
    if math.isnan(difference):
        return "-"
    text = f"{100 * difference:+.2f}"
    return "0.00" if float(text) == 0 else text


def listed(facts: Mapping[str, Any]) -> str:
    """Return one line per name, with the values aligned below each other."""
    width = max(map(len, facts), default=0)
    return "\n".join(f"{name.ljust(width)}{GAP}{value}" for name, value in facts.items())
