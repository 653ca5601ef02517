"""Whether one setting is better than another: paired differences and how sure they are.

Scores of all settings are taken on the same draws of source images, so that what makes an image
hard for all of them cancels. Where a setting was trained with several seeds, its
score is the mean over them, and every draw takes the seeds, too, with replacement: a hierarchical
bootstrap (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import ConfigError, DataError, MissingDataError
from utils.evaluation.bootstrap import NUM_DRAWS, SEED, draw_times, interval_of, scores_of_draws
from utils.files import read_json

_NEEDED = ("header", "classes", "mean_without", "miou", "mf1", "oa", "kappa", "sources")


@dataclass(frozen=True, kw_only=True)
class Report:
    """A ``report.json``, read."""

    path: Path
    content: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """Names of the C classes."""
        return [entry["name"] for entry in self.content["classes"]]

    @property
    def sources(self) -> list[str]:
        """Names of the S source images."""
        return [entry["name"] for entry in self.content["sources"]]

    @property
    def confusions(self) -> np.ndarray:
        """``(S, C, C)`` int64, of the source images."""
        return np.array([entry["confusion"] for entry in self.content["sources"]], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run, or several that differ in their seed only."""

    name: str
    reports: tuple[Report, ...]

    @property
    def confusions(self) -> np.ndarray:
        """``(seeds, S, C, C)`` int64."""
        return np.stack([report.confusions for report in self.reports])


def read_settings(arguments: Sequence[str]) -> list[Setting]:
    """Read what the command line names.

    Args:
        arguments: a run folder, the folder of an evaluation or a ``report.json`` each; with a name,
            ``NAME=A``, or for several seeds of one setting ``NAME=A,B,C``.

    Raises:
        ConfigError: fewer than two, a name or a report twice, several reports without a name.
        MissingDataError, DataError: no report, a damaged one, or reports that cannot be compared.
    """
    if len(arguments) < 2:
        raise ConfigError("compare takes two runs or more, the first of which is the reference")
    parsed = [_parsed(argument) for argument in arguments]
    _check_names([name for name, _ in parsed if name])
    settings = []
    for name, places in parsed:
        reports = tuple(read_report(Path(place)) for place in places)
        if len({report.path.resolve() for report in reports}) < len(reports):
            raise ConfigError(f"{name} holds one report twice")
        settings.append(Setting(name=name or _name(reports[0].path), reports=reports))
    settings = _told_apart(settings)
    first, *others = (report for setting in settings for report in setting.reports)
    for report in others:
        check_comparable(first, report)
    return settings


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two of the runs are called {name}; give each a name of its own")


def _parsed(argument: str) -> tuple[str, list[str]]:
    """The name, empty if none is given, and the places of the reports."""
    if Path(argument).exists():
        return "", [argument]
    name, equals, rest = argument.rpartition("=")
    places = rest.split(",")
    if not all(places):
        raise ConfigError(f"'{argument}' names no report after '=' or ','; write NAME=A,B")
    if len(places) > 1 and not equals:
        raise ConfigError(f"give several seeds of one setting a name: NAME={argument}")
    return name, places


def read_report(place: Path) -> Report:
    """Read the report of a run folder, of the folder of an evaluation, or the file itself.

    Raises:
        MissingDataError: there is none, or a run folder has several.
        DataError: it is damaged, or older than what a comparison needs.
    """
    path = _found(place)
    content = read_json(path)
    missing = [key for key in _NEEDED if not isinstance(content, dict) or key not in content]
    if missing:
        raise DataError(f"{path} has no '{missing[0]}'; write it anew with this eval.py")
    return Report(path=path, content=content)


def _found(place: Path) -> Path:
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
    """The run's folder, for the folder of an evaluation inside it."""
    folder = path.resolve().parent
    return folder.parent.name if folder.name.startswith("eval_") else folder.name


def _told_apart(settings: Sequence[Setting]) -> list[Setting]:
    """Runs of one name get that of the folder of their report."""
    names = [setting.name for setting in settings]
    named = [
        setting
        if names.count(setting.name) == 1
        else Setting(name=str(setting.reports[0].path.parent), reports=setting.reports)
        for setting in settings
    ]
    _check_names([setting.name for setting in named])
    return named


def check_comparable(one: Report, other: Report) -> None:
    """Refuse two reports whose difference would not be one of the networks.

    Raises:
        DataError: other classes, split, lists, labels, means, source images or counted pixels.
    """
    facts = [*zip(_facts(one), _facts(other), strict=True), _extra_sources(one, other)]
    for ours, theirs in facts:
        if ours != theirs:
            raise DataError(
                f"{one.path} has {ours}, {other.path} has {theirs}; they cannot be compared"
            )
    targets = one.confusions.sum(axis=2), other.confusions.sum(axis=2)
    if (wrong := (targets[0] != targets[1]).any(axis=1)).any():
        place = int(wrong.argmax())
        ours, theirs = (f"{int(counts[place].sum()):,}" for counts in targets)
        raise DataError(
            f"{one.path} and {other.path} count other target pixels of {one.sources[place]} "
            f"({ours} and {theirs}); evaluate both on the same labels, cut the same way"
        )


def _facts(report: Report) -> list[str]:
    """What must agree, in words."""
    header, left_out = report.content["header"], report.content["mean_without"]
    return [
        f"the classes {', '.join(report.classes)}",
        f"the split {header.get('split')}",
        f"the lists {header.get('lists')}",
        f"{header.get('labels')} labels",
        f"means without {', '.join(left_out)}" if left_out else "means over all classes",
    ]


def _extra_sources(one: Report, other: Report) -> tuple[str, str]:
    """Numbers of source images, and the first one that the other side lacks."""

    def words(own: Sequence[str], others: Sequence[str]) -> str:
        extra = [name for name in own if name not in set(others)]
        number = f"{len(own)} source image{'s' * (len(own) != 1)}"
        return number + (f", {extra[0]} among them" if extra else "")

    return words(one.sources, other.sources), words(other.sources, one.sources)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of two scores, as fractions in -1..1, and the ends of its 95 % interval.

    The difference is nan for a class that does not occur in one of the two, and the ends are where
    no draw has one, or where there are fewer than two source images.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero (False for nan)."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Scores of a setting, fractions or nan: mIoU in column 0, IoU of the C classes after it."""

    of_seeds: np.ndarray  # (seeds, 1 + C), on all source images
    drawn: np.ndarray  # (draws, 1 + C), mean over seeds; no draws of fewer than two source images

    @property
    def mean(self) -> np.ndarray:
        """Over the seeds, ``(1 + C,)``."""
        return _mean_of_known(self.of_seeds)

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """Of each column; nan without draws."""
        return [interval_of(column) for column in self.drawn.T]


def sample(confusions: np.ndarray, left_out: Sequence[int] = (), number: int = 0) -> Sample:
    """Score a setting on all source images and on draws of them.

    Draws are paired with those of another setting on the same sources in the same order.

    Args:
        confusions: ``(seeds, sources, C, C)`` pixel counts; sources without a counted pixel are not
            drawn.
        left_out: indices of classes that the mean does not count.
        number: of the setting, another one for each: their seeds are drawn independently.
    """
    counted = confusions[:, confusions.any(axis=(0, 2, 3))]
    num_seeds, num_sources = counted.shape[:2]
    whole, times = np.ones((1, num_sources)), draw_times(max(1, num_sources))

    def scored(taken: np.ndarray) -> np.ndarray:
        """``(seeds, draws, 1 + C)``."""
        found = [scores_of_draws(each, taken, left_out) for each in counted]
        return np.stack([np.column_stack(columns) for columns in found])

    of_seeds = scored(whole)[:, 0]
    if num_sources < 2:
        return Sample(of_seeds=of_seeds, drawn=np.empty((0, of_seeds.shape[1])))
    rng = np.random.default_rng([SEED, number])
    seeds = rng.integers(num_seeds, size=(num_seeds, NUM_DRAWS, 1))
    drawn = np.take_along_axis(scored(times), seeds, axis=0)
    return Sample(of_seeds=of_seeds, drawn=_mean_of_known(drawn))


def differences(reference: Sample, other: Sample) -> list[Difference]:
    """What ``other`` scores more, in mIoU and in the IoU of every class, draw by draw."""
    ends = [interval_of(column) for column in (other.drawn - reference.drawn).T]
    values = other.mean - reference.mean
    return [
        Difference(value=float(value), low=low, high=high)
        for value, (low, high) in zip(values, ends, strict=True)
    ]


def spread_over_seeds(found: Sample) -> float:
    """Standard deviation of the mIoU over the seeds; nan for one seed."""
    mious = found.of_seeds[:, 0]
    return float(mious.std(ddof=1)) if len(mious) > 1 else np.nan


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without what is nan; nan where all is."""
    known = ~np.isnan(values)
    number = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


@dataclass(frozen=True, kw_only=True)
class PairedIntervals:
    """Scores of the second minus those of the first."""

    num_sources: int  # that have a counted pixel; below two there are no intervals
    miou: Difference
    iou: tuple[Difference, ...]  # of each class


def paired_intervals(
    confusions_a: np.ndarray, confusions_b: np.ndarray, left_out: Sequence[int] = ()
) -> PairedIntervals:
    """What ``b`` scores more than ``a``, over the same draws of source images.

    The mIoU of each is that of ``utils.evaluation.metrics``, so the difference is that of the two
    reported numbers, also where only one of them predicts a class that no target pixel has.

    Args:
        confusions_a: ``(sources, C, C)`` pixel counts of each source image; images without a
            counted pixel are not drawn.
        confusions_b: the same of the other prediction, for the same images in the same order.
        left_out: indices of classes that the mean does not count.

    Raises:
        ValueError: the two do not belong to the same targets.
    """
    if confusions_a.shape != confusions_b.shape:
        raise ValueError(f"confusions are {confusions_a.shape} and {confusions_b.shape}")
    if not np.array_equal(confusions_a.sum(axis=2), confusions_b.sum(axis=2)):
        raise ValueError("the two count other target pixels, so their images are not the same")
    one, other = (
        sample(confusions[np.newaxis], left_out) for confusions in (confusions_a, confusions_b)
    )
    miou, *iou = differences(one, other)
    num_sources = int(confusions_a.any(axis=(1, 2)).sum())
    return PairedIntervals(num_sources=num_sources, miou=miou, iou=tuple(iou))
