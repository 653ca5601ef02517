"""The command ``eval.py compare``: reports of evaluations in, one table out."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.evaluation.compared import read_settings
from utils.reports.comparison_report import compare, comparison_text, write_comparison

_COMPARE = "Scores of several evaluations and their differences to the first, with intervals."
_RUN = (
    "a run folder, the folder of an evaluation or its report.json; with a name: NAME=A; several "
    "seeds of one setting: NAME=A,B,C"
)


def compare_reports(arguments: Sequence[str]) -> None:
    """Compare several evaluations, the first of which is the reference."""
    parser = argparse.ArgumentParser(prog="eval.py compare", description=_COMPARE)
    parser.add_argument("runs", nargs="+", metavar="RUN", help=_RUN)
    parser.add_argument("--output", type=Path, help="default: compare, in that of the first report")
    args = parser.parse_args(arguments)
    settings = read_settings(args.runs)
    comparison = compare(settings)
    output = args.output or settings[0].reports[0].path.parent / "compare"
    write_comparison(output, comparison)
    print(comparison_text(comparison))
    print(f"\ntables, picture and all of it on one page, compare.html, in {output}")
