"""Several runs in one table, and what each scores more than the first: text, JSON, page, chart."""

import argparse
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.evaluation.bootstrap import LEVEL, NUM_DRAWS, SEED
from utils.evaluation.compare import (
    Difference,
    Sample,
    Setting,
    differences,
    read_settings,
    sample,
    spread_over_seeds,
)
from utils.files import known, write_json, write_png, write_text
from utils.reports.html import (
    Html,
    Section,
    list_html,
    page,
    picture_html,
    table_html,
    text_html,
    together,
)
from utils.reports.tables import GAP, Table, listed, percent, points
from utils.visualization.difference_chart import Panel, difference_chart

_TEXT_WIDTH = 100
_MARK = "*"  # the interval excludes zero
_READING = (
    f"{_MARK} the {LEVEL:.0%} interval of the difference excludes zero. Each interval stands for "
    "itself: of many classes and runs, one in twenty excludes zero by chance."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Settings with their scores, the reference first."""

    settings: tuple[Setting, ...]
    samples: tuple[Sample, ...]
    differences: tuple[list[Difference], ...]  # of all but the first: mIoU, then the classes
    classes: list[str]
    left_out: list[str]  # of the means
    num_sources: int

    @property
    def rows(self) -> list[str]:
        """Names of the mean and of the classes."""
        left_out = f" without {', '.join(self.left_out)}" if self.left_out else ""
        return [f"mIoU{left_out}", *self.classes]


def compare(settings: Sequence[Setting]) -> Comparison:
    """Score the settings and their differences to the first; see ``read_settings``."""
    first = settings[0].reports[0]
    classes, left_out = first.classes, first.content["mean_without"]
    without = [classes.index(name) for name in left_out]
    samples = [sample(s.confusions, without, number) for number, s in enumerate(settings)]
    return Comparison(
        settings=tuple(settings),
        samples=tuple(samples),
        differences=tuple(differences(samples[0], other) for other in samples[1:]),
        classes=classes,
        left_out=left_out,
        num_sources=int(first.confusions.any(axis=(1, 2)).sum()),
    )


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write ``compare`` as .txt, .png, .html and .json, each file atomically.

    Figures in JSON are fractions; what is not known is null.
    """
    picture = difference_picture(comparison)
    write_text(folder / "compare.txt", comparison_text(comparison) + "\n")
    write_png(folder / "compare.png", picture)
    write_text(folder / "compare.html", _page(comparison, picture))
    write_json(folder / "compare.json", _plain(comparison))


def comparison_text(comparison: Comparison) -> str:
    """What the console shows: scores, differences, in what else the runs differ, and how."""
    reference = comparison.settings[0].name
    blocks = [scores_table(comparison).text]
    for table in difference_tables(comparison):
        blocks.append(f"difference to {reference}, in points\n{table.text}")
    for key, said in header_facts(comparison).items():
        blocks.append(f"{key}\n{textwrap.indent(listed(said), GAP)}")
    notes = [textwrap.fill(note, _TEXT_WIDTH) for note in (_READING, method(comparison))]
    return "\n\n".join([*blocks, *notes])


def scores_table(comparison: Comparison) -> Table:
    """A line for every setting: means over its seeds."""
    head = ["run", "seeds", "mIoU", f"{LEVEL:.0%} interval", "over seeds", "mF1", "OA", "kappa"]
    rows = []
    for setting, found in zip(comparison.settings, comparison.samples, strict=True):
        spread = spread_over_seeds(found)
        rows.append(
            [
                setting.name,
                str(len(setting.reports)),
                percent(found.mean[0]),
                _range(*found.intervals[0], percent),
                "-" if math.isnan(spread) else f"+-{percent(spread)}",
                *(percent(_mean_over_seeds(setting, key)) for key in ("mf1", "oa", "kappa")),
                *map(percent, found.mean[1:]),
            ]
        )
    return Table(head=[*head, *comparison.classes], rows=rows)


def difference_tables(comparison: Comparison) -> list[Table]:
    """For every setting but the first, a line for the mIoU and for every class."""
    reference, *others = zip(comparison.settings, comparison.samples, strict=True)
    tables = []
    for (setting, found), gains in zip(others, comparison.differences, strict=True):
        head = ["IoU", reference[0].name, setting.name, "difference", f"{LEVEL:.0%} interval", ""]
        rows = [
            [
                name,
                percent(before),
                percent(after),
                points(gain.value),
                _range(gain.low, gain.high, points),
                _MARK if gain.excludes_zero else "",
            ]
            for name, before, after, gain in zip(
                comparison.rows, reference[1].mean, found.mean, gains, strict=True
            )
        ]
        tables.append(Table(head=head, rows=rows, rule_before=(0, 1)))
    return tables


def header_facts(comparison: Comparison) -> dict[str, dict[str, str]]:
    """What the heads of the reports do not agree in, and what each setting has there."""
    headers = [report.content["header"] for s in comparison.settings for report in s.reports]
    return {
        key: {setting.name: _said(setting, key) for setting in comparison.settings}
        for key in dict.fromkeys(key for header in headers for key in header)
        if len({str(header.get(key)) for header in headers}) > 1
    }


def _said(setting: Setting, key: str) -> str:
    values = (str(report.content["header"].get(key, "-")) for report in setting.reports)
    return ", ".join(dict.fromkeys(values))


def method(comparison: Comparison) -> str:
    """How the intervals were made, and what they do not know."""
    if comparison.num_sources < 2:
        return "No intervals: they take two source images or more."
    images = f"the {comparison.num_sources} source images with replacement"
    counts = [len(setting.reports) for setting in comparison.settings]
    if max(counts) == 1:
        return (
            f"Intervals: percentile bootstrap, {NUM_DRAWS} draws of {images}, the same ones for "
            "every run, so differences are paired. They tell of the choice of images and know "
            "nothing of other training seeds."
        )
    told = (
        f"Intervals: hierarchical percentile bootstrap; each of {NUM_DRAWS} draws takes {images}, "
        "the same ones for every run, and of every setting as many seeds as it has, with "
        "replacement; its score is their mean. Of few seeds, such draws tell too narrow a range: "
        "of three, two thirds of the variance."
    )
    if min(counts) == 1:
        told += " Of a setting with one seed they know nothing of other seeds."
    return f"{told} 'over seeds' is the standard deviation of the mIoU over seeds."


def difference_picture(comparison: Comparison) -> np.ndarray:
    """All differences with their intervals, ``(H, W, 3)`` uint8."""
    reference, *others = (setting.name for setting in comparison.settings)
    series = dict(zip(others, comparison.differences, strict=True))
    images = f"over {comparison.num_sources} source images"
    panel = Panel(title=images, note="", series=series)
    return difference_chart([panel], comparison.rows, f"IoU, difference to {reference}")


def _page(comparison: Comparison, picture: np.ndarray) -> str:
    reference = comparison.settings[0].name
    table = scores_table(comparison)
    parts: list[Html] = [picture_html(picture, "", f"differences to {reference}")]
    for each in difference_tables(comparison):
        parts.append(table_html(each.head, each.rows, each.rule_before[1:], (0, 5)))
    parts.append(text_html(_READING, faint=True))
    facts = [
        together(text_html(key, faint=True), list_html(said))
        for key, said in header_facts(comparison).items()
    ]
    sections = [
        Section(title="Runs", body=table_html(table.head, table.rows)),
        Section(title=f"Differences to {reference}, in points", body=together(*parts)),
        Section(title="What else differs", body=together(*facts)),
        Section(title="How", body=text_html(method(comparison))),
    ]
    names = ", ".join(setting.name for setting in comparison.settings)
    header = comparison.settings[0].reports[0].content["header"]
    return page(f"Comparison of {names} on {header.get('split')}", sections)


def _plain(comparison: Comparison) -> dict[str, Any]:
    reference = comparison.settings[0].name
    runs = []
    for setting, found in zip(comparison.settings, comparison.samples, strict=True):
        runs.append(
            {
                "name": setting.name,
                "reports": [str(report.path) for report in setting.reports],
                "miou_of_seeds": [known(value) for value in found.of_seeds[:, 0]],
                "spread_over_seeds": known(spread_over_seeds(found)),
                **{key: known(_mean_over_seeds(setting, key)) for key in ("mf1", "oa", "kappa")},
                **_named(
                    comparison,
                    [
                        {"value": known(value), "low": known(low), "high": known(high)}
                        for value, (low, high) in zip(found.mean, found.intervals, strict=True)
                    ],
                ),
            }
        )
    gains = [
        {"name": setting.name, "to": reference, **_named(comparison, [_entry(d) for d in found])}
        for setting, found in zip(comparison.settings[1:], comparison.differences, strict=True)
    ]
    return {
        "reference": reference,
        "num_sources": comparison.num_sources,
        "mean_without": comparison.left_out,
        "interval": {"level": LEVEL, "draws": NUM_DRAWS, "seed": SEED},
        "method": method(comparison),
        "differs": header_facts(comparison),
        "runs": runs,
        "differences": gains,
    }


def _named(comparison: Comparison, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Entries of the mIoU and of the classes under their names."""
    classes = zip(comparison.classes, entries[1:], strict=True)
    return {"miou": entries[0], "classes": [{"name": name, **entry} for name, entry in classes]}


def _entry(found: Difference) -> dict[str, Any]:
    ends = {"low": known(found.low), "high": known(found.high)}
    return {"value": known(found.value), **ends, "excludes_zero": bool(found.excludes_zero)}


def _mean_over_seeds(setting: Setting, key: str) -> float:
    values = [report.content[key] for report in setting.reports]
    return math.nan if None in values else sum(values) / len(values)


def _range(low: float, high: float, words: Any) -> str:
    return "-" if math.isnan(low) else f"{words(low)} to {words(high)}"


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
