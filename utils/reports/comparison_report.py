"""The report of a comparison: several runs in one table, and their differences to the first."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils.console import GAP, WIDTH, Table, listed, percent, points
from utils.evaluation.bootstrap import (
    LEVEL,
    NUM_DRAWS,
    SEED,
    Difference,
    Sample,
    differences,
    sample,
)
from utils.evaluation.compare import Setting
from utils.files import to_json, write_json, write_png, write_text
from utils.reports.pages import picture, render
from utils.reports.tables import INTERVAL, mean_name, span
from utils.visualization.charts import DifferencePanel, difference_chart

_MARK = "*"  # the interval excludes zero
_READING = (
    f"{_MARK} the {INTERVAL} of the difference excludes zero. Intervals are not corrected for "
    "multiple comparisons: one in twenty excludes zero by chance."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Scores of several settings, the reference first."""

    settings: tuple[Setting, ...]
    samples: tuple[Sample, ...]
    differences: tuple[list[Difference], ...]  # of all but the first: mIoU, then each class
    classes: list[str]
    left_out: list[str]  # classes that the means leave out
    num_sources: int

    @property
    def rows(self) -> list[str]:
        """Return the names of the mIoU and of the classes."""
        return [mean_name(self.left_out, "mIoU"), *self.classes]


def compare(settings: Sequence[Setting]) -> Comparison:
    """Score settings, and their differences to the first one."""
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
        num_sources=samples[0].num_sources,
    )


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write ``compare.html``, ``compare.png`` and ``compare.json``, each file atomically.

    Scores in JSON are fractions; unknown ones are null.
    """
    header = comparison.settings[0].reports[0].content["header"]
    reference, *others = names = [setting.name for setting in comparison.settings]
    panel = DifferencePanel(
        title=f"over {comparison.num_sources} source images",
        series={
            name: [(d.value, d.low, d.high) for d in found]
            for name, found in zip(others, comparison.differences, strict=True)
        },
    )
    title = f"IoU, difference to {reference}"
    chart = difference_chart([panel], comparison.rows, title, level=LEVEL).pixels()
    page = render(
        "comparison.html",
        title=f"Comparison of {', '.join(names)} on {header.get('split')}",
        scores=scores_table(comparison),
        chart=picture(chart, f"differences to {reference}"),
        differences=difference_tables(comparison),
        reading=_READING,
        header_differences=header_differences(comparison),
        method=method(comparison),
    )
    write_text(folder / "compare.html", page)
    write_png(folder / "compare.png", chart)
    write_json(folder / "compare.json", to_json(_content(comparison)))


def comparison_text(comparison: Comparison) -> str:
    """Return what the console shows: scores, differences, differing settings, and the method."""
    blocks = [str(scores_table(comparison)), *map(str, difference_tables(comparison))]
    for name, values in header_differences(comparison).items():
        blocks.append(f"{name}\n{textwrap.indent(listed(values), GAP)}")
    notes = [textwrap.fill(note, WIDTH) for note in (_READING, method(comparison))]
    return "\n\n".join([*blocks, *notes])


def scores_table(comparison: Comparison) -> Table:
    """Return a table with a row per setting: means over its seeds."""
    rows = []
    for setting, found in zip(comparison.settings, comparison.samples, strict=True):
        rows.append(
            [
                setting.name,
                str(len(setting.reports)),
                percent(found.mean[0]),
                span(found.intervals[0]),
                "-" if math.isnan(found.spread) else percent(found.spread),
                *(percent(_mean_over_seeds(setting, key)) for key in ("mf1", "oa", "kappa")),
            ]
        )
    return Table(
        head=["run", "seeds", "mIoU", INTERVAL, "sd over seeds", "mF1", "OA", "kappa"],
        rows=rows,
        caption=f"Scores in %, {mean_name(comparison.left_out, 'means over the classes')}",
    )


def difference_tables(comparison: Comparison) -> list[Table]:
    """Return a table per setting but the first, with rows for the mIoU and each class."""
    reference, *others = zip(comparison.settings, comparison.samples, strict=True)
    tables = []
    for (setting, found), gains in zip(others, comparison.differences, strict=True):
        rows = [
            [
                name,
                percent(before),
                percent(after),
                points(gain.value),
                span((gain.low, gain.high), points),
                _MARK if gain.excludes_zero else "",
            ]
            for name, before, after, gain in zip(
                comparison.rows, reference[1].mean, found.mean, gains, strict=True
            )
        ]
        tables.append(
            Table(
                head=["IoU", reference[0].name, setting.name, "difference", INTERVAL, ""],
                rows=rows,
                rules=(0, 1),
                text_columns=(0, 5),
                caption=f"{setting.name} against {reference[0].name}: IoU in %, difference in "
                "percentage points",
            )
        )
    return tables


def header_differences(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Return the value of each setting for every header entry on which the reports differ."""
    headers = [report.content["header"] for s in comparison.settings for report in s.reports]
    return {
        key: {
            setting.name: ", ".join(
                dict.fromkeys(str(r.content["header"].get(key, "-")) for r in setting.reports)
            )
            for setting in comparison.settings
        }
        for key in dict.fromkeys(key for header in headers for key in header)
        if len({str(header.get(key)) for header in headers}) > 1
    }


def method(comparison: Comparison) -> str:
    """State how the intervals were computed, and what they do not cover."""
    if comparison.num_sources < 2:
        return "No intervals: they need at least two source images."
    images = f"the {comparison.num_sources} source images with replacement"
    counts = [len(setting.reports) for setting in comparison.settings]
    if max(counts) == 1:
        return (
            f"Intervals: paired percentile bootstrap, {NUM_DRAWS} draws of {images}, the same "
            "draws for every run. They cover the choice of images, not that of the training seed."
        )
    text = (
        f"Intervals: hierarchical percentile bootstrap; each of {NUM_DRAWS} draws takes {images}, "
        "the same ones for every run, and for each setting as many seeds as it has, with "
        "replacement; its score is the mean over these. With few seeds the intervals are too "
        "narrow: three seeds give two thirds of the variance."
    )
    if min(counts) == 1:
        text += " For a setting with one seed they do not cover the choice of the seed."
    return f"{text} sd over seeds: standard deviation of the mIoU."


def _content(comparison: Comparison) -> dict[str, Any]:
    """Return the content of ``compare.json``."""
    runs = []
    for setting, found in zip(comparison.settings, comparison.samples, strict=True):
        scores = [
            {"value": value, "low": low, "high": high}
            for value, (low, high) in zip(found.mean, found.intervals, strict=True)
        ]
        runs.append(
            {
                "name": setting.name,
                "reports": [str(report.path) for report in setting.reports],
                "miou_of_seeds": found.of_seeds[:, 0].tolist(),
                "spread_over_seeds": found.spread,
                **{key: _mean_over_seeds(setting, key) for key in ("mf1", "oa", "kappa")},
                **_named(comparison, scores),
            }
        )
    reference = comparison.settings[0].name
    return {
        "reference": reference,
        "num_sources": comparison.num_sources,
        "mean_without": comparison.left_out,
        "interval": {"level": LEVEL, "draws": NUM_DRAWS, "seed": SEED},
        "method": method(comparison),
        "differs": header_differences(comparison),
        "runs": runs,
        "differences": [
            {
                "name": setting.name,
                "to": reference,
                **_named(
                    comparison, [{**asdict(d), "excludes_zero": d.excludes_zero} for d in found]
                ),
            }
            for setting, found in zip(comparison.settings[1:], comparison.differences, strict=True)
        ],
    }


def _named(comparison: Comparison, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the entries of the mIoU and of the classes by name."""
    classes = zip(comparison.classes, entries[1:], strict=True)
    return {"miou": entries[0], "classes": [{"name": name, **entry} for name, entry in classes]}


def _mean_over_seeds(setting: Setting, key: str) -> float:
    values = [report.content[key] for report in setting.reports]
    return math.nan if None in values else sum(values) / len(values)
