"""Tables of the docs that a command prints."""

from pathlib import Path

from benchmarks.sizes import table

ROOT = Path(__file__).parents[1]


def test_the_table_of_sizes_is_that_of_the_command():
    assert table() in (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
