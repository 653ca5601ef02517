"""Reports that are compared: found, read, and refused where they do not belong together."""

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
