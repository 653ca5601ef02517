"""Comparison of evaluations: paired differences of scores with bootstrap intervals.

All settings are scored on the same draws of source images, so that the difficulty of an image,
common to all of them, cancels: paired intervals are far narrower than a comparison of each
setting's own intervals suggests. Where a setting was trained with several seeds, its score is the
mean over them, and each draw resamples the seeds as well: a hierarchical bootstrap (Davison and
Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import ConfigError, DataError, MissingDataError
from utils.evaluation.bootstrap import (
    NUM_DRAWS,
    SEED,
    draw_times,
    interval_of,
    nan_mean,
    scores_of_draws,
)
from utils.files import read_json

_NEEDED = ("header", "classes", "mean_without", "miou", "mf1", "oa", "kappa", "sources")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Content of one ``report.json``."""

    path: Path
    content: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """Return the names of the C classes."""
        return [entry["name"] for entry in self.content["classes"]]

    @property
    def sources(self) -> list[str]:
        """Return the names of the S source images."""
        return [entry["name"] for entry in self.content["sources"]]

    @property
    def confusions(self) -> np.ndarray:
        """Return the confusion matrix of each source image, ``(S, C, C)`` int64."""
        return np.array([entry["confusion"] for entry in self.content["sources"]], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run, or several runs that differ only in their seed."""

    name: str
    reports: tuple[Report, ...]

    @property
    def confusions(self) -> np.ndarray:
        """Return the confusion matrices, ``(seeds, S, C, C)`` int64."""
        return np.stack([report.confusions for report in self.reports])


def read_settings(arguments: Sequence[str]) -> list[Setting]:
    """Read the reports named on the command line.

    Args:
        arguments: each a run folder, the folder of an evaluation or a ``report.json``; with a name
            ``NAME=A``, for several seeds of one setting ``NAME=A,B,C``.

    Raises:
        ConfigError: fewer than two settings, a repeated name or report, several reports without a
            name.
        MissingDataError: a report is missing.
        DataError: a report is damaged, or the reports cannot be compared.
    """
    if len(arguments) < 2:
        raise ConfigError("compare needs two or more runs; the first one is the reference")
    parsed = [_parsed(argument) for argument in arguments]
    settings = []
    for name, places in parsed:
        reports = tuple(read_report(Path(place)) for place in places)
        if len({report.path.resolve() for report in reports}) < len(reports):
            raise ConfigError(f"{name} lists the same report twice; name each seed once")
        settings.append(Setting(name=name or _name(reports[0].path), reports=reports))
    settings = _with_unique_names(settings, [name for name, _ in parsed])
    first, *others = (report for setting in settings for report in setting.reports)
    for report in others:
        check_comparable(first, report)
    return settings


def _parsed(argument: str) -> tuple[str, list[str]]:
    """Split ``NAME=A,B`` into the name, empty if none is given, and the paths of the reports."""
    if Path(argument).exists():
        return "", [argument]
    name, equals, rest = argument.rpartition("=")
    places = rest.split(",")
    if not all(places):
        raise ConfigError(f"'{argument}' has an empty report name after '=' or ','; write NAME=A,B")
    if len(places) > 1 and not equals:
        raise ConfigError(f"several seeds of one setting need a name; write NAME={argument}")
    return name, places


def read_report(place: Path) -> Report:
    """Read the report of a run folder or of the folder of an evaluation, or the file itself.

    Raises:
        MissingDataError: there is no report, or a run folder has several.
        DataError: the report is damaged or lacks a field.
    """
    path = _find_report(place)
    content = read_json(path)
    missing = [key for key in _NEEDED if not isinstance(content, dict) or key not in content]
    if missing:
        raise DataError(f"{path} has no field '{missing[0]}'; run eval.py again to rewrite it")
    return Report(path=path, content=content)


def _find_report(place: Path) -> Path:
    if not place.is_dir():
        return place
    if (place / "report.json").is_file():
        return place / "report.json"
    found = sorted(place.glob("eval_*/report.json"))
    if not found:
        raise MissingDataError(f"{place} holds no report.json; run eval.py on its checkpoint first")
    if len(found) > 1:
        names = ", ".join(path.parent.name for path in found)
        raise MissingDataError(f"{place} holds several evaluations ({names}); name one of them")
    return found[0]


def _name(path: Path) -> str:
    """Return the name of the run folder that a report belongs to."""
    folder = path.resolve().parent
    return folder.parent.name if folder.name.startswith("eval_") else folder.name


def _with_unique_names(settings: Sequence[Setting], given: Sequence[str]) -> list[Setting]:
    """Name settings without a given name after the folder of their report where names coincide."""
    names = [setting.name for setting in settings]
    named = [
        setting
        if explicit or names.count(setting.name) == 1
        else replace(setting, name=str(setting.reports[0].path.parent))
        for setting, explicit in zip(settings, given, strict=True)
    ]
    names = [setting.name for setting in named]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two runs are named {name}; name them with NAME=RUN")
    return named


def check_comparable(one: Report, other: Report) -> None:
    """Refuse reports that differ in more than their predictions.

    Raises:
        DataError: classes, split, lists, labels, means, source images or counted pixels differ.
    """
    facts = [*zip(_facts(one), _facts(other), strict=True), _extra_sources(one, other)]
    for ours, theirs in facts:
        if ours != theirs:
            raise DataError(
                f"{one.path} has {ours}, {other.path} has {theirs}; such reports cannot be compared"
            )
    targets = one.confusions.sum(axis=2), other.confusions.sum(axis=2)
    if (wrong := (targets[0] != targets[1]).any(axis=1)).any():
        place = int(wrong.argmax())
        ours, theirs = (f"{int(counts[place].sum()):,}" for counts in targets)
        raise DataError(
            f"{one.path} and {other.path} count different target pixels of {one.sources[place]} "
            f"({ours} and {theirs}); evaluate both on the same labels, cut the same way"
        )


def _facts(report: Report) -> list[str]:
    """Describe what must agree."""
    header, left_out = report.content["header"], report.content["mean_without"]
    return [
        f"the classes {', '.join(report.classes)}",
        f"the split {header.get('split')}",
        f"the lists {header.get('lists')}",
        f"{header.get('labels')} labels",
        f"means without {', '.join(left_out)}" if left_out else "means over all classes",
    ]


def _extra_sources(one: Report, other: Report) -> tuple[str, str]:
    """Describe the source images of each side, and the first one that the other side lacks."""

    def words(own: Sequence[str], others: Sequence[str]) -> str:
        extra = [name for name in own if name not in set(others)]
        number = f"{len(own)} source image{'s' * (len(own) != 1)}"
        return number + (f", {extra[0]} among them" if extra else "")

    return words(one.sources, other.sources), words(other.sources, one.sources)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of two scores, a fraction in -1..1, with the ends of its 95 % interval.

    The value is nan for a class that does not occur on one side; the ends are nan where no draw has
    a value, and for fewer than two source images.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Return True if the interval lies on one side of zero (False for nan)."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Scores of a setting, fractions or nan: mIoU in column 0, then the IoU of the C classes."""

    of_seeds: np.ndarray  # (seeds, 1 + C), on all source images
    drawn: np.ndarray  # (draws, 1 + C), mean over seeds; 0 draws for fewer than two source images

    @property
    def mean(self) -> np.ndarray:
        """Return the mean over the seeds, ``(1 + C,)``."""
        return nan_mean(self.of_seeds, axis=0)

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """Return the interval of each column; nan without draws."""
        return [interval_of(column) for column in self.drawn.T]


def sample(confusions: np.ndarray, left_out: Sequence[int] = (), number: int = 0) -> Sample:
    """Score a setting on all source images and on draws of them.

    Draws are paired with those of any other setting with the same sources in the same order.

    Args:
        confusions: ``(seeds, sources, C, C)`` pixel counts; sources without a counted pixel are not
            drawn.
        left_out: indices of classes excluded from the mean.
        number: index of the setting, so that the seeds of each are drawn independently.
    """
    counted = confusions[:, confusions.any(axis=(0, 2, 3))]
    num_seeds, num_sources = counted.shape[:2]
    whole, times = np.ones((1, num_sources)), draw_times(max(1, num_sources))

    def scored(taken: np.ndarray) -> np.ndarray:
        """Return the scores of some draws, ``(seeds, draws, 1 + C)``."""
        by_seed = [scores_of_draws(each, taken, left_out) for each in counted]
        return np.stack([np.column_stack(columns) for columns in by_seed])

    of_seeds = scored(whole)[:, 0]
    if num_sources < 2:
        return Sample(of_seeds=of_seeds, drawn=np.empty((0, of_seeds.shape[1])))
    rng = np.random.default_rng([SEED, number])
    seeds = rng.integers(num_seeds, size=(num_seeds, NUM_DRAWS, 1))
    drawn = np.take_along_axis(scored(times), seeds, axis=0)
    return Sample(of_seeds=of_seeds, drawn=nan_mean(drawn, axis=0))


def differences(reference: Sample, other: Sample) -> list[Difference]:
    """Return the gains of ``other`` in mIoU and in the IoU of each class, paired by draw."""
    ends = [interval_of(column) for column in (other.drawn - reference.drawn).T]
    values = other.mean - reference.mean
    return [
        Difference(value=float(value), low=low, high=high)
        for value, (low, high) in zip(values, ends, strict=True)
    ]


def spread_over_seeds(found: Sample) -> float:
    """Return the standard deviation of the mIoU over the seeds; nan for one seed."""
    mious = found.of_seeds[:, 0]
    return float(mious.std(ddof=1)) if len(mious) > 1 else np.nan
