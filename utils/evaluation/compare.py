"""Reports of evaluations that are to be compared: found, named, and checked to belong together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import ConfigError, DataError, MissingDataError
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

    A setting without a name gets that of its run folder, or the path where several have that one.

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
    given, groups = [], []
    for argument in arguments:
        name, places = _parsed(argument)
        reports = tuple(_read_report(Path(place)) for place in places)
        if len({report.path.resolve() for report in reports}) < len(reports):
            raise ConfigError(f"{name} lists the same report twice; name each seed once")
        given.append(name)
        groups.append(reports)
    names = [name or _run_name(group[0].path) for name, group in zip(given, groups, strict=True)]
    number_of = Counter(names)
    settings = [
        Setting(
            name=name if explicit or number_of[name] == 1 else str(reports[0].path.parent),
            reports=reports,
        )
        for name, explicit, reports in zip(names, given, groups, strict=True)
    ]
    name, number = Counter(setting.name for setting in settings).most_common(1)[0]
    if number > 1:
        raise ConfigError(f"two runs are named {name}; name them with NAME=RUN")
    first, *others = (report for reports in groups for report in reports)
    for report in others:
        _check_comparable(first, report)
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


def _read_report(place: Path) -> Report:
    """Read the report of a run folder or of the folder of an evaluation, or the file itself."""
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


def _run_name(path: Path) -> str:
    """Return the name of the run folder that a report belongs to."""
    folder = path.resolve().parent
    return folder.parent.name if folder.name.startswith("eval_") else folder.name


def _check_comparable(one: Report, other: Report) -> None:
    """Refuse reports that differ in more than their predictions."""
    for ours, theirs in zip(_facts(one, other), _facts(other, one), strict=True):
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


def _facts(report: Report, other: Report) -> list[str]:
    """Describe what must agree, and the first source image that the other report lacks."""
    header, left_out = report.content["header"], report.content["mean_without"]
    extra = [name for name in report.sources if name not in set(other.sources)]
    images = f"{len(report.sources)} source image{'s' * (len(report.sources) != 1)}"
    return [
        f"the classes {', '.join(report.classes)}",
        f"the split {header.get('split')}",
        f"the lists {header.get('lists')}",
        f"{header.get('labels')} labels",
        f"means without {', '.join(left_out)}" if left_out else "means over all classes",
        images + (f", {extra[0]} among them" if extra else ""),
    ]
