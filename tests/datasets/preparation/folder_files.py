"""Empty files in folders, and the splits that ``prepare.py folder`` makes of them."""

import argparse
from pathlib import Path

from datasets.preparation.folder import add_arguments, find_splits
from datasets.preparation.pipeline import Source


def touch(folder: Path, names: str) -> None:
    """Make empty files; names are separated by spaces."""
    for name in names.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def ids(splits: dict[str, list[Source]]) -> dict[str, list[str]]:
    return {split: [source.id for source in members] for split, members in splits.items()}


def split(*command: object) -> dict[str, list[Source]]:
    """Source images of every split by command-line arguments."""
    parser = argparse.ArgumentParser()
    add_arguments(parser.add_argument)
    required = ("--output", "set", "--classes", "classes.json")
    return find_splits(parser.parse_args([*required, *map(str, command)]))
