"""Names of files that belong together: endings of images and masks, and crops of one scene."""

import re
import shlex
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import takewhile

_NUM_COMPARED, _NUM_CANDIDATES = 100, 20  # names, and endings of them, that are compared
_SEPARATORS = "_-. "
_MASK_WORDS = ("mask", "label", "lbl", "gt", "seg", "ann", "target")
_COORDINATE = r"[_-](?:[xyrc]|row|col)?\d{1,6}"
_MIN_CROPS = 4  # of a scene on average; fewer are no sign of crops


def propose_suffixes(images: Sequence[str], masks: Sequence[str]) -> str:
    """Return the options that pair most names, as a clause with an example; empty if none do.

    Args:
        images: names of the images without file suffix.
        masks: those of the masks; the same list if they are not known apart.
    """
    plain = len({*images} & {*masks}) if images != masks else 0
    candidates: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], tuple[str, str]] = {}
    for pair in _similar_names(images, masks):
        for endings in _endings(*pair):
            if images != masks or (_is_of_mask(endings[1]) and not _is_of_mask(endings[0])):
                candidates[endings] += 1
                example.setdefault(endings, pair)
    counts = {
        endings: len(_without(images, endings[0]) & _without(masks, endings[1]))
        for endings, _ in candidates.most_common(_NUM_CANDIDATES)
    }
    # A cut inside of a word is chance if it explains a single pair.
    fitting = [e for e, count in counts.items() if count > plain + (not _is_whole(e))]
    if not fitting:
        return ""
    best = min(fitting, key=lambda e: (-counts[e], not _is_whole(e), len(e[0] + e[1]), e))
    options = [
        # An argument that begins with '-' would be taken for an option.
        f"--{kind}-suffix{'=' if ending.startswith('-') else ' '}{shlex.quote(ending)}"
        for kind, ending in zip(("image", "mask"), best, strict=True)
        if ending
    ]
    image, mask = example[best]
    return f"if {image} and {mask} belong together, give {' '.join(options)}"


def _similar_names(images: Sequence[str], masks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield images, each with the masks whose names begin most alike."""
    ordered = sorted({*masks}, key=_sorting)
    keys = [_sorting(name) for name in ordered]
    paired = {*ordered} if images != masks else set()
    unpaired = [name for name in images if name not in paired]
    for image in unpaired[:: max(1, len(unpaired) // _NUM_COMPARED)]:
        at = bisect_left(keys, _sorting(image))
        for mask in ordered[max(at - 1, 0) : at + 2]:
            if mask != image:
                yield image, mask


def _sorting(name: str) -> str:
    """Return a key by which the end of a word comes before any other character."""
    return "".join("\0" if character in _SEPARATORS else character for character in name)


def _endings(image: str, mask: str) -> Iterator[tuple[str, str]]:
    """Yield endings of two names that begin alike: from the last common end of a word, and all."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(image, mask, strict=False))
    length = len([*alike])
    cuts = [
        cut
        for cut in range(length, 0, -1)
        if all(text[cut : cut + 1] in ("", *_SEPARATORS) for text in (image, mask))
    ]
    for cut in dict.fromkeys([*cuts[:1], length]):
        endings = image[cut:], mask[cut:]
        # Numbers tell images apart, not images from masks.
        if cut and all(
            not text or (any(map(str.isalpha, text)) and "/" not in text) for text in endings
        ):
            yield endings


def _is_whole(endings: tuple[str, str]) -> bool:
    return all(not ending or ending[0] in _SEPARATORS for ending in endings)


def _is_of_mask(ending: str) -> bool:
    return any(word in ending.lower() for word in _MASK_WORDS)


def _without(names: Iterable[str], ending: str) -> set[str]:
    return {name.removesuffix(ending) for name in names if name.endswith(ending)}


def crop_pattern(names: Collection[str]) -> str | None:
    """Return a regular expression whose first group is the scene that a crop was cut from.

    Names are taken for crops if they end in two numbers, such as ``_y00000_x00512`` or ``_3_12``,
    or in four, of which two are the opposite corner or the size, and there are many of a scene.
    The expression matches every name.

    Args:
        names: of all images, without file suffix.

    Returns:
        None: at least half of the names are of another form.
    """
    for count in (4, 2):
        tails = {name: tail for name in names if (tail := _tail(name, count))}
        forms = Counter(map(_form, tails.values()))
        if not forms:
            continue
        form, number = forms.most_common(1)[0]
        crops = {name: tail for name, tail in tails.items() if _form(tail) == form}
        scenes = {name.removesuffix(tail) for name, tail in crops.items()}
        if 2 * number < len(names) or number < _MIN_CROPS * len(scenes):
            continue
        if count == 2 or _are_boxes([[*map(int, re.findall(r"\d+", t))] for t in crops.values()]):
            return f"^(.+?){form}$" if number == len(names) else f"^(.+?)(?:{form})?$"
    return None


def _tail(name: str, count: int) -> str | None:
    """Return the last numbers of a name with their separators; None if no scene precedes them."""
    match = re.fullmatch(rf"(.+?)((?:{_COORDINATE}){{{count}}})", name, re.IGNORECASE)
    return match[2] if match else None


def _form(tail: str) -> str:
    return re.sub(r"\d+", r"\\d+", tail)


def _are_boxes(boxes: Sequence[Sequence[int]]) -> bool:
    """Return True if four numbers are corners of boxes, or corner and size, of one size mostly."""
    for sizes in (
        [(box[2] - box[0], box[3] - box[1]) for box in boxes],
        [(box[1] - box[0], box[3] - box[2]) for box in boxes],
        [(box[2], box[3]) for box in boxes],
    ):
        _, number = Counter(sizes).most_common(1)[0]
        if min(map(min, sizes)) > 0 and 2 * number >= len(boxes):
            return True
    return False
