"""Named splits: which source images are trained on, validated on and tested on.

A number is only comparable to one of the same split. So every prepared set says the name of its
split, where its lists come from, and a hash of them.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from utils.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class NamedSplit:
    """Lists of source images, and who uses them."""

    name: str
    source: str  # where the lists come from, one sentence
    lists: Mapping[str, tuple[str, ...]]  # source ids by split
    unlabelled: tuple[str, ...] = ()  # splits whose labels are hidden

    def __post_init__(self) -> None:
        check_disjoint(f"split '{self.name}'", self.lists)

    def sources(self) -> tuple[str, ...]:
        """Every source image of any split."""
        return tuple(source for ids in self.lists.values() for source in ids)


def split_sha256(lists: Mapping[str, Iterable[str]]) -> str:
    """SHA-256 that stands for the source images of every split; empty splits do not count.

    It names the protocol: how the images are cut into tiles does not matter.
    """
    plain = {split: sorted(set(ids)) for split, ids in lists.items()}
    text = json.dumps({k: v for k, v in plain.items() if v}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_disjoint(where: str, lists: Mapping[str, Iterable[str]]) -> None:
    """Refuse a source image in two splits.

    Raises:
        DataError: naming the image and both splits.
    """
    split_of: dict[str, str] = {}
    for split, ids in lists.items():
        for source in ids:
            if split_of.setdefault(source, split) != split:
                raise DataError(
                    f"{where}: source image '{source}' is in the splits {split_of[source]} and "
                    f"{split}; a source image may be in one split only"
                )


def find_split(name: str, known: Collection[NamedSplit], data_set: str) -> NamedSplit:
    """The split of this name.

    Raises:
        ConfigError: there is none; names those there are.
    """
    for split in known:
        if split.name == name:
            return split
    names = ", ".join(split.name for split in known)
    raise ConfigError(f"--split {name} is no split of {data_set}; it has {names}")
