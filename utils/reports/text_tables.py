"""Text in columns, for the console and for files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GAP = "  "
_MIN_WIDTH = 9  # of a column of numbers, so that tables below each other line up


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], rule_before: Sequence[int] = ()
) -> str:
    """Lay out cells, the first column to the left, the others to the right.

    Args:
        head: the first line.
        rows: as many cells each, or fewer.
        rule_before: rows that a rule is drawn above.
    """
    widths = [max(len(row[i]) for row in (head, *rows) if i < len(row)) for i in range(len(head))]
    widths[1:] = [max(width, _MIN_WIDTH) for width in widths[1:]]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        padded = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=False))
        return GAP.join([first.ljust(widths[0]), *padded]).rstrip()

    rule = "-" * len(line(head))
    lines = [line(head)]
    for index, row in enumerate(rows):
        lines += [rule] * (index in rule_before) + [line(row)]
    return "\n".join(lines)


def listed(facts: Mapping[str, Any]) -> str:
    """A line for each name, the values below each other."""
    width = max(map(len, facts), default=0)
    return "\n".join(f"{name.ljust(width)}{GAP}{value}" for name, value in facts.items())


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table before it is laid out, for a console or for a page."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]  # names in the first column, numbers in the others
    rule_before: Sequence[int] = (0,)

    @property
    def text(self) -> str:
        """In columns."""
        return table(self.head, self.rows, self.rule_before)
