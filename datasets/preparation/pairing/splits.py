"""Splits of the images of a folder: by lists, by random shares, and by shares of whole scenes."""

import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from datasets.preparation.pairing.naming import crop_pattern
from datasets.preparation.pairing.pairs import Folders, first_of, name_of
from datasets.preparation.pipeline import Source
from datasets.tile_set import SPLITS
from utils.console import counted
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import IMAGE_SUFFIXES

_NUM_COMPARED = 200  # groups of different sizes that are exchanged between splits


def split_by_lists(
    sources: list[Source], lists: dict[str, Path], folders: Folders
) -> dict[str, list[Source]]:
    """Split by text files with one image per line.

    A line is the path of an image or of its mask below its folder, or with that folder in front;
    slashes may be back slashes, and the suffix may be absent. A file name suffices where only one
    image has it.

    Raises:
        MissingDataError: a list is missing or empty, or names images that do not exist.
        DataError: a name belongs to several images, or an image is listed twice, or not at all.
    """
    by_id = {source.id: source for source in sources}
    find = _finder(sources, folders)
    found: dict[str, list[Source]] = {}
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        names = _read_names(path)
        ids = {name: find(name) for name in names}
        if unknown := [name for name in names if not ids[name]]:
            absent = counted(len(unknown), "image that does", "images that do")
            raise MissingDataError(
                f"{path} names {absent} not exist ({first_of(unknown)}); a "
                f"name is the path of an image below {folders.images}, with suffix or without"
            )
        for name, candidates in ids.items():
            if len(candidates) > 1:
                both = " or ".join(by_id[key].image.name for key in sorted(candidates)[:2])
                raise DataError(f"'{name}' in {path} may be {both}; write its folder as well")
        for name in names:
            (key,) = ids[name]
            if key in split_of:
                raise DataError(
                    f"'{name}' is listed twice, for {split_of[key]} and {split}; list it once"
                )
            split_of[key] = split
        found[split] = [by_id[key] for name in names for key in ids[name]]
    if left := [key for key in by_id if key not in split_of]:
        raise DataError(
            f"no list has {len(left)} of {counted(len(sources), 'image')} ({first_of(left)}); list "
            "them or remove the files"
        )
    return found


def _finder(sources: list[Source], folders: Folders) -> Callable[[str], set[str]]:
    """Return a function from a line of a list to the ids of the images that it may mean."""
    whole: dict[str, set[str]] = {}
    last: dict[str, set[str]] = {}
    places = [(folders.images, folders.image_suffix)]
    if folders.masks is not None and not folders.masks.is_file():
        places.append((folders.masks, folders.mask_suffix))
    for source in sources:
        names, files = {source.id}, (source.image, *source.labels.values())
        for (root, suffix), file in zip(places, files, strict=False):
            stem = name_of(file.path, root)
            names |= {f"{stem}{file.path.suffix}", f"{stem}", f"{name_of(file.path, root, suffix)}"}
        for name in names:
            whole.setdefault(name, set()).add(source.id)
            last.setdefault(posixpath.basename(name), set()).add(source.id)
    roots = [root.resolve().name for root, _ in places]

    def find(line: str) -> set[str]:
        path = posixpath.normpath(line.replace("\\", "/"))
        spellings = [line, path]
        for root in roots:
            _, folder, below = f"/{path}".rpartition(f"/{root}/")
            spellings += [below] if folder else []
        stems = [posixpath.splitext(spelling) for spelling in spellings]
        stripped = [stem for stem, suffix in stems if suffix.lower() in IMAGE_SUFFIXES]
        # First as written; the suffix may be that of the files from which these were made.
        for names in (spellings, stripped):
            for known in (whole, last)[: 1 if "/" in path else 2]:
                if found := next((known[name] for name in names if name in known), None):
                    return found
        return set()

    return find


def split_by_shares(
    sources: list[Source], shares: tuple[float, ...], seed: int, group_by: str | None = None
) -> dict[str, list[Source]]:
    """Split the source images at random.

    Args:
        sources: all source images.
        shares: fractions of train, val and test, which sum to 1. A split with a fraction above 0
            gets at least one image.
        seed: 0 or more; the same seed and images give the same splits.
        group_by: regular expression that is searched in the ids. Images with the same first group
            (without one, the same match) stay together, and the shares are kept as nearly as
            whole groups allow. None: every image by itself.

    Raises:
        ConfigError: the fractions do not sum to 1, the images or groups are too few, or the
            expression is none.
        DataError: an id does not match.
    """
    counts = counts_of(shares, len(sources), "image")
    order = np.random.default_rng(seed).permutation(len(sources))
    if group_by is None:
        members = [part.tolist() for part in np.split(order, np.cumsum(counts)[:-1])]
    else:
        members = _members_by_group(sources, counts, order, group_by)
    return {
        split: [sources[i] for i in sorted(own)]
        for split, own in zip(SPLITS, members, strict=True)
        if own
    }


def counts_of(shares: tuple[float, ...], total: int, unit: str) -> list[int]:
    """Return the numbers of train, val and test out of a total, at least one for a share above 0.

    Raises:
        ConfigError: the shares do not sum to 1, or there are too few of the unit.
    """
    total_is_one = abs(sum(shares) - 1) <= 1e-6  # false for nan, too
    if not total_is_one or min(shares) < 0 or shares[0] == 0:
        raise ConfigError(
            f"--shares must be three numbers from 0 to 1 that sum to 1, the first (train) above 0, "
            f"not {' '.join(map(str, shares))}"
        )
    counts = [max(1, round(share * total)) if share else 0 for share in shares]
    counts[0] = total - sum(counts[1:])
    if counts[0] < 1:
        raise ConfigError(
            f"{counted(total, f'{unit} is', f'{unit}s are')} too few for --shares "
            f"{' '.join(map(str, shares))}; every split needs one"
        )
    return counts


def _members_by_group(
    sources: list[Source], counts: Sequence[int], order: np.ndarray, group_by: str
) -> list[list[int]]:
    """Return the indices of the source images of every split, whole groups in a random order."""
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise ConfigError(
            f"--group-by {group_by} is not a regular expression ({error}); correct it"
        ) from error
    groups: dict[str, list[int]] = {}
    for index in order.tolist():
        match = pattern.search(sources[index].id)
        key = match[1 if pattern.groups else 0] if match else None
        if key is None:
            raise DataError(
                f"--group-by {group_by} does not match '{sources[index].id}'; choose an expression "
                "that matches the id of every image"
            )
        groups.setdefault(key, []).append(index)
    num_splits = sum(count > 0 for count in counts)
    if len(groups) < num_splits:
        raise ConfigError(
            f"--group-by {group_by} makes {counted(len(groups), 'group')} of "
            f"{counted(len(sources), 'image')} for the {num_splits} splits of --shares, each of "
            "which needs one; choose an expression with more groups, or shares of fewer splits"
        )
    members: list[list[int]] = [[] for _ in counts]
    split_of = assign_groups([len(group) for group in groups.values()], counts)
    for group, split in zip(groups.values(), split_of, strict=True):
        members[split] += group
    return members


def assign_groups(sizes: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Return the split of every group, so that the splits get nearly the wanted sizes.

    Args:
        sizes: of the groups, above 0; equal ones are taken in this order.
        wanted: sizes of the splits, with the same sum. Those above 0, of which there are no more
            than groups, get at least one group.
    """
    split_of, lacks = [0] * len(sizes), [*wanted]
    empty = {split for split, size in enumerate(wanted) if size}
    # The large ones first, because the small ones fit everywhere.
    for done, group in enumerate(sorted(range(len(sizes)), key=lambda group: -sizes[group])):
        open_splits = empty if len(sizes) - done == len(empty) else range(len(wanted))
        split = max(open_splits, key=lambda split: (lacks[split], wanted[split] > 0))
        split_of[group] = split
        lacks[split] -= sizes[group]
        empty.discard(split)
    while exchange := _best_exchange(sizes, split_of, lacks):
        one, other, from_split, to_split = exchange
        moved = sizes[one] - (0 if other is None else sizes[other])
        lacks[from_split] += moved
        lacks[to_split] -= moved
        split_of[one] = to_split
        if other is not None:
            split_of[other] = from_split
    return split_of


def _best_exchange(
    sizes: Sequence[int], split_of: Sequence[int], lacks: Sequence[int]
) -> tuple[int, int | None, int, int] | None:
    """Return the exchange of groups that brings the splits nearest to their sizes, if any does.

    Returns:
        Two groups, the second of which may be absent, and their present splits.
    """
    numbers = Counter(split_of)
    of_size = {(split, sizes[group]): group for group, split in enumerate(split_of)}
    candidates = [*of_size.items()][:_NUM_COMPARED]
    best, largest = None, 0
    for (source, size), group in candidates:
        others = [(split, other_size, other) for (split, other_size), other in candidates]
        empty = [
            (split, 0, None)
            for split in range(len(lacks))
            if numbers[source] > 1 and numbers[split]
        ]
        for split, other_size, other in (*others, *empty):
            moved = size - other_size
            # The sum of squared deviations, before less after.
            gain = -2 * moved * (lacks[source] - lacks[split] + moved)
            if split != source and gain > largest:
                best, largest = (group, other, source, split), gain
    return best


def _read_names(path: Path) -> list[str]:
    if not path.is_file():
        raise MissingDataError(f"the split list {path} does not exist")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"the split list {path} is not UTF-8 text; save it as such") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise MissingDataError(f"the split list {path} is empty; leave it out or name images in it")
    return names


def crop_note(ids: Collection[str], num_splits: int) -> str | None:
    """Return a line that names ``--group-by`` if the names of images look like crops of scenes."""
    pattern = crop_pattern(ids)
    if pattern is None or num_splits < 2:
        return None
    scenes = sorted({re.sub(pattern, r"\1", name) for name in ids})
    note = f"note: by their names, the {len(ids)} images are crops of"
    option = f"--group-by {shlex.quote(pattern)}"
    if len(scenes) < num_splits:
        return (
            f"{note} {', '.join(scenes)} only, so splits may share pixels; scenes are kept in one "
            f"split by {option}, which takes {num_splits} scenes, and --blocks splits a whole scene"
        )
    return (
        f"{note} {len(scenes)} scenes, so splits may share pixels; {option} keeps scenes together"
    )
