"""Recipe loader: YAML and ``key.sub=value`` overrides -> frozen ``Config``.

All mistakes are reported in one error, before anything is built, read or written. Only this file
uses YAML.
"""

import argparse
import copy
import difflib
import re
import types
from collections.abc import Hashable
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from configs.schema import Config, OptimConfig
from utils.errors import ConfigError
from utils.files import to_json

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML loader: ``6e-5`` is a number, ``off`` is text, a repeated key is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        first: [(tag, regex) for tag, regex in resolvers if not tag.endswith((":bool", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping as PyYAML does, but refuse a repeated key."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if not isinstance(key, Hashable):
                continue  # PyYAML refuses it below
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"{self.name}, line {line}: the key '{key}' appears twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes the text that ``_Loader`` would not read back as text, e.g. '1e5'."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _parse_yaml(text: str, name: str) -> Any:
    try:
        loader = _Loader(text)  # raises at once on control characters
        loader.name = name
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read a recipe file and apply ``key.sub=value`` overrides.

    Raises:
        ConfigError: listing every problem found in the file and the overrides together.
    """
    return config_from_dict(_read_recipe(path), str(path), overrides)


def _read_recipe(path: Path) -> dict[str, Any]:
    """Read the nested plain values of a recipe file."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; recipes are in configs/")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a UTF-8 text file; recipes are in configs/") from error
    recipe = _parse_yaml(text, str(path))
    if not isinstance(recipe, dict):
        raise ConfigError(f"{path} must hold 'key: value' lines at its top level")
    return recipe


def recipe_parser(description: str) -> argparse.ArgumentParser:
    """Build the parser of ``--config FILE [--download] [key.sub=value ...]``.

    Args:
        description: of the script, for ``--help``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--config", type=Path, required=True, help="recipe, e.g. configs/dubai.yaml"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change the recipe")
    parser.add_argument(
        "--download", action="store_true", help="fetch missing official weights into weights/"
    )
    return parser


def batch_notes(path: Path, optim: OptimConfig, overrides: list[str]) -> list[str]:
    """Return a note if an override changes the batch size but not the learning rate."""
    keys = {override.partition("=")[0].strip() for override in overrides}
    chosen_for = _read_recipe(path).get("optim", {}).get("batch_size", OptimConfig.batch_size)
    if "optim.batch_size" not in keys or "optim.lr" in keys or chosen_for == optim.batch_size:
        return []
    return [
        f"note: optim.batch_size is {optim.batch_size}, and optim.lr={optim.lr:g} of {path} was "
        f"chosen for {chosen_for}; another batch may need another rate"
    ]


def _apply_override(recipe: dict[str, Any], override: str) -> None:
    """Set the value of ``key.sub=value`` in nested dictionaries."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override '{override}' is not of the form key.sub=value")
    *parents, last = key.strip().split(".")
    node = recipe
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override '{override}': '{parent}' is a value, not a section")
        node = child
    node[last] = _parse_yaml(value, f"override '{override}'")


def config_from_dict(
    recipe: dict[str, Any], source: str, overrides: list[str] | None = None
) -> Config:
    """Build a ``Config`` from nested plain values (a YAML file, or the recipe in a checkpoint).

    Args:
        recipe: nested dictionaries of plain values; left unchanged.
        source: named in the error, e.g. the file's path.
        overrides: ``key.sub=value`` texts, the last one wins.

    Raises:
        ConfigError: listing every problem with its dotted key.
    """
    recipe = copy.deepcopy(recipe)
    for override in overrides or []:
        _apply_override(recipe, override)
    problems: list[str] = []
    config = _build(Config, recipe, "", problems)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise ConfigError(f"{source} has {count}:{lines}")
    return config


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return the resolved recipe as nested plain values; tuples become lists."""
    return to_json(asdict(config))


def config_to_yaml(config: Config) -> str:
    """Return the resolved recipe as YAML text that ``load_config`` reads back unchanged."""
    return yaml.dump(config_to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys of differing values, each as ``key: ours | theirs``."""
    lines = []
    for key in dict.fromkeys([*ours, *theirs]):
        left, right = ours.get(key), theirs.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            lines += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            lines.append(f"{prefix}{key}: {left} | {right}")
    return lines


def _build(cls: type[T], values: Any, prefix: str, problems: list[str]) -> T:
    """Build dataclass ``cls``, and append invalid entries to ``problems``.

    Defaults replace invalid values, so that the remaining ones are checked as well; without a
    default, nothing is built.
    """
    if not isinstance(values, dict):
        problems.append(f"{prefix.rstrip('.')}: must be a section of 'key: value' lines")
        values = {}
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            problems.append(f"{prefix}{key}: unknown key{_nearest(str(key), list(known))}")
    arguments: dict[str, Any] = {}
    complete = True
    for name, spec in known.items():
        dotted, before = prefix + name, len(problems)
        has_default = spec.default is not MISSING or spec.default_factory is not MISSING
        if name in values:
            arguments[name] = _convert(values[name], hints[name], dotted, problems)
        elif is_dataclass(hints[name]) and not has_default:
            arguments[name] = _build(hints[name], {}, dotted + ".", problems)
        elif not has_default:
            problems.append(f"{dotted}: missing, it has no default")
        is_wrong = len(problems) > before
        if is_wrong and (not is_dataclass(hints[name]) or arguments.get(name) is None):
            arguments.pop(name, None)
            complete &= has_default
    if not complete:
        return None  # type: ignore[return-value]
    built = cls(**arguments)
    if hasattr(built, "problems"):
        problems += [f"{prefix}{key}: {text}" for key, text in built.problems()]
    return built


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known here: {', '.join(known)}"


def _convert(value: Any, hint: Any, key: str, problems: list[str]) -> Any:
    """Convert ``value`` to the type ``hint``, or append a problem."""
    if is_dataclass(hint):
        return _build(hint, value, key + ".", problems)  # type: ignore[arg-type]
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # X | None, or a word | a list
        if value is None and type(None) in options:
            return None
        is_list = isinstance(value, (list, tuple)) and get_origin(options[1]) is tuple
        return _convert(value, options[is_list], key, problems)
    if origin is Literal:
        if (type(value), value) not in [(type(option), option) for option in options]:
            problems.append(f"{key}: {value!r} is not one of {', '.join(map(str, options))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            problems.append(f"{key}: must be a list like [a, b], not {value!r}")
            return value
        inner = [options[0]] * len(value) if options[-1] is ... else list(options)
        if len(inner) != len(value):
            problems.append(f"{key}: must have {len(inner)} entries, not {len(value)}")
            return value
        pairs = zip(value, inner, strict=True)
        return tuple(_convert(v, t, f"{key}[{i}]", problems) for i, (v, t) in enumerate(pairs))
    if origin is dict:  # of text to something
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            problems.append(f"{key}: must be a mapping like {{name: value}}, not {value!r}")
            return value
        return {n: _convert(v, options[1], f"{key}.{n}", problems) for n, v in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        problems.append(f"{key}: must be {_TYPE_WORDS[hint]}, not {value!r}")
    return value


_TYPE_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
