"""Splits of a folder of images: lists, random shares, and shares of whole scenes."""

import itertools
import random
import re
import shlex
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from datasets.preparation.archives import ArchiveFile
from datasets.preparation.pairing.pairs import Folders, find_pairs
from datasets.preparation.pairing.splits import (
    assign_groups,
    crop_note,
    split_by_lists,
    split_by_shares,
)
from datasets.preparation.pipeline import Source
from tests.datasets.preparation.folder_files import ids, split, touch
from utils.errors import ConfigError, DataError, MissingDataError

CROPS = [f"2_10_{x}_{y}_{x + 128}_{y + 128}" for x in range(0, 384, 64) for y in range(0, 384, 64)]
GROUP_BY = r"^(\d+_\d+)_"


def sources_of(names):
    file = ArchiveFile(name="a.png", path=Path("a.png"))
    return [Source(id=name, image=file, labels={}) for name in names]


@pytest.fixture
def folders(tmp_path):
    """Images a, far/b and c with masks of another ending and suffix."""
    touch(tmp_path / "images", "a_sat.jpg far/b_sat.tif c_sat.png")
    touch(tmp_path / "masks", "a_m.png far/b_m.png c_m.png")
    places = {"images": tmp_path / "images", "masks": tmp_path / "masks"}
    return Folders(**places, image_suffix="_sat", mask_suffix="_m")


def by_lists(folders, tmp_path, **texts):
    """Splits by lists of these bytes; None: the list does not exist."""
    for name, text in texts.items():
        if text is not None:
            (tmp_path / f"{name}.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    lists = {name: tmp_path / f"{name}.txt" for name in texts}
    return split_by_lists(find_pairs(folders), lists, folders)


def test_arguments_that_the_command_line_must_give(folders, tmp_path):
    images, both = ("--images", folders.images), ("--labels", folders.masks)
    shares, train_list = ("--shares", 0.34, 0.33, 0.33), ("--train-list", tmp_path / "no.txt")
    endings = ("--image-suffix", "_sat", "--mask-suffix", "_m")
    for command, sentence in (
        ((*images, *shares), r"give --tree, or --images and --labels$"),
        (("--tree", tmp_path, *both, *shares), "give --tree, or --images and --labels, not both"),
        ((*images, *both), "say how to split: give either --train-list"),
        ((*images, *both, *train_list, *shares), "say how to split: give either --train-list"),
        ((*images, *both, *train_list, "--group-by", "a"), "--group-by is about --shares of whole"),
        ((*images, *both, *shares, "--blocks", 9, "--group-by", "a"), "--group-by is about --sha"),
        ((*images, *both, *train_list, "--blocks", 9), "--blocks needs --shares, and images that"),
        ((*images, *both, *shares, "--gap", 9), "--gap is about --blocks; leave it out"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            split(*command)
    found = ids(split("--tree", tmp_path, *shares, *endings))
    assert sorted(chain(*found.values())) == ["a", "c", "far__b"]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (b"\xef\xbb\xbfa\r\nfar/b\r\n\r\n", " c "),  # as Windows editors write it
        ("a_sat.jpg\nfar/b_sat.tif", "c_sat"),
        ("a_m.png\nfar\\b_m.png", "c_m"),
        ("./a\nfar//b", ".\\c"),
        ("images/a_sat.jpg\nimages\\far\\b_sat", "masks/c_m.png"),
        ("C:\\data\\images\\a_sat.jpg\n/elsewhere/images/far/b", "ROOT/images/c_sat.png"),
        ("a.png\nb.tif", "c_sat.tiff"),  # bare names, and suffixes of other copies
        ("a\nfar__b", "c"),
    ],
)
def test_lists_name_images_in_many_ways(folders, tmp_path, train, val):
    """Case 29 of docs/trials.md: suffixes, back slashes and bare names were unknown names."""
    val = val.replace("ROOT", str(tmp_path))
    found = by_lists(folders, tmp_path, train=train, val=val)
    assert ids(found) == {"train": ["a", "far__b"], "val": ["c"]}


def test_a_bare_name_that_several_images_have_is_refused(tmp_path):
    touch(tmp_path, "images/a.png images/p/a.png images/p/b.png images/q/b.png")
    touch(tmp_path, "masks/a.png masks/p/a.png masks/p/b.png masks/q/b.png")
    folders = Folders(images=tmp_path / "images", masks=tmp_path / "masks")
    found = by_lists(folders, tmp_path, train="a.png\nq\\b.png\n", val="p/a.png\np/b.png")
    assert ids(found) == {"train": ["a", "q__b"], "val": ["p__a", "p__b"]}
    touch(tmp_path, "images/p/c.tif images/c.png masks/p/c.png masks/c.bmp")
    found = by_lists(folders, tmp_path, train="c.tif\na\nq/b", val="c.bmp\np/a\np/b")
    assert ids(found) == {"train": ["p__c", "a", "q__b"], "val": ["c", "p__a", "p__b"]}
    with pytest.raises(DataError) as caught:
        by_lists(folders, tmp_path, train="a", val="b.png\np/a")
    assert str(caught.value) == (
        f"'b.png' in {tmp_path}/val.txt may be {folders.images}/p/b.png or "
        f"{folders.images}/q/b.png; write its folder as well"
    )


@pytest.mark.parametrize(
    ("train", "val", "error", "sentence"),
    [
        ("a\nfar/b", "c\nx\ny", MissingDataError, r"val\.txt names 2 images .* \(first: x, y\)"),
        (
            "a\nfar/b",
            "near/b",
            MissingDataError,
            r"a name is the path of an image below .*images, ",
        ),
        ("a\nfar/b", "c\na.jpg", DataError, "'a.jpg' is listed twice, for train and val; list it"),
        ("a\nfar/b\na", "c", DataError, "'a' is listed twice, for train and train; list it"),
        ("a", "c", DataError, r"no list has 1 of 3 images \(first: far__b\); list them or"),
        ("a\nfar/b\nc", "\n", MissingDataError, r"val\.txt is empty; leave it out or name"),
        ("a\nfar/b\nc", None, MissingDataError, r"split list .*val\.txt does not exist"),
        (b"\x89PNG\xff", None, DataError, r"train\.txt is not UTF-8 text"),
    ],
)
def test_lists_that_are_wrong(folders, tmp_path, train, val, error, sentence):
    with pytest.raises(error, match=sentence):
        by_lists(folders, tmp_path, train=train, val=val)


def test_shares_are_of_source_images_repeatable_and_complete():
    many = sources_of(map(str, range(30)))
    found = ids(split_by_shares(many, (0.8, 0.1, 0.1), seed=0))
    assert {name: len(group) for name, group in found.items()} == {"train": 24, "val": 3, "test": 3}
    assert sorted(chain(*found.values())) == sorted(source.id for source in many)
    assert found == ids(split_by_shares(many, (0.8, 0.1, 0.1), seed=0))
    assert found != ids(split_by_shares(many, (0.8, 0.1, 0.1), seed=1))
    assert found["val"] == ["9", "22", "27"]  # as every earlier version split them
    assert list(split_by_shares(many, (0.5, 0.5, 0), seed=0)) == ["train", "val"]
    assert len(split_by_shares(many, (0.99, 0.01, 0), seed=0)["val"]) == 1  # never rounded away
    with pytest.raises(ConfigError, match=r"2 images are too few for --shares 0\.8 0\.1 0\.1"):
        split_by_shares(many[:2], (0.8, 0.1, 0.1), seed=0)


@pytest.mark.parametrize(
    "shares", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (0, 0.5, 0.5), (float("nan"), 0.1, 0.1)]
)
def test_shares_that_do_not_sum_to_one(shares):
    with pytest.raises(ConfigError, match="--shares must be three numbers from 0 to 1 that sum"):
        split_by_shares(sources_of("abc"), shares, seed=0)


@pytest.mark.parametrize("pattern", [GROUP_BY, r"^\d+_\d+"])
def test_images_of_a_group_stay_in_one_split(pattern):
    """Case 13 of docs/trials.md: crops of one scene were in all splits."""
    scenes = [f"2_{number}" for number in range(10, 20)]
    crops = [name.replace("2_10", scene, 1) for scene in scenes for name in CROPS]
    found = split_by_shares(sources_of(crops), (0.6, 0.2, 0.2), 0, pattern)
    own = {name: {s.id[:4] for s in sources} for name, sources in found.items()}
    assert {name: len(scenes) for name, scenes in own.items()} == {"train": 6, "val": 2, "test": 2}
    assert sum(map(len, own.values())) == len(set().union(*own.values()))
    assert ids(found) == ids(split_by_shares(sources_of(crops), (0.6, 0.2, 0.2), 0, pattern))
    assert ids(found) != ids(split_by_shares(sources_of(crops), (0.6, 0.2, 0.2), 1, pattern))


@pytest.mark.parametrize(
    ("names", "pattern", "error", "sentence"),
    [
        (CROPS, GROUP_BY, ConfigError, "makes 1 group of 36 images for the 3 splits of --shares, "),
        ([*CROPS, "far__b"], GROUP_BY, DataError, "does not match 'far__b'; choose an expression"),
        (CROPS, "(", ConfigError, r"--group-by \( is not a regular expression \(missing \)"),
        (["a_1", "b", "c_2"], r"\w(_\d)?", DataError, "does not match 'b'"),  # no first group
    ],
)
def test_groups_that_make_no_splits(names, pattern, error, sentence):
    """Case 13 of docs/trials.md: there are too few scenes in its one scene."""
    with pytest.raises(error, match=sentence):
        split_by_shares(sources_of(names), (0.6, 0.2, 0.2), 0, pattern)


@pytest.mark.parametrize(
    ("sizes", "wanted", "got"),
    [
        ([1, 1, 10], [8, 2, 2], [10, 1, 1]),
        ([5, 4, 3, 3, 3], [9, 9, 0], [9, 9, 0]),  # only by an exchange
        ([6, 6, 1], [11, 1, 1], [6, 6, 1]),
        ([1] * 10, [6, 2, 2], [6, 2, 2]),
        ([7], [7, 0, 0], [7, 0, 0]),
    ],
)
def test_shares_are_kept_as_nearly_as_groups_allow(sizes, wanted, got):
    sums = Counter()
    for group, split_index in enumerate(assign_groups(sizes, wanted)):
        sums[split_index] += sizes[group]
    assert [sums[index] for index in range(3)] == got


def test_groups_of_any_sizes_come_near_the_best_assignment():
    draw = random.Random(0)
    excess = []
    for _ in range(60):
        sizes = [draw.randint(1, 9) for _ in range(draw.randint(3, 7))]
        wanted = [0, *(max(1, sum(sizes) // draw.randint(3, 9)) for _ in range(2))]
        wanted[0] = sum(sizes) - sum(wanted)

        def cost(of, sizes=sizes, wanted=wanted):
            sums = [sum(s for s, own in zip(sizes, of, strict=True) if own == k) for k in range(3)]
            return sum(abs(a - b) for a, b in zip(sums, wanted, strict=True))

        found = assign_groups(sizes, wanted)
        assert {*found} == {0, 1, 2}
        options = itertools.product(range(3), repeat=len(sizes))
        best = min(cost(of) for of in options if {*of} == {0, 1, 2})
        excess.append(cost(found) - best)
    assert sum(map(bool, excess)) <= 6 and max(excess) <= 2


@pytest.mark.parametrize(
    ("tail", "regex"),
    [
        ("_{x}_{y}_{x1}_{y1}", r"_\d+_\d+_\d+_\d+"),
        ("_{x}_{y}_128_128", r"_\d+_\d+_\d+_\d+"),
        ("_{x}_{y}", r"_\d+_\d+"),
        ("_y{y:05}_x{x:05}", r"_y\d+_x\d+"),
        ("-r{x}-c{y}", r"-r\d+-c\d+"),
    ],
)
def test_names_of_crops_are_noticed_with_an_expression_that_works(tail, regex):
    """Case 13 of docs/trials.md."""
    numbers = [dict(x=x, y=y, x1=x + 128, y1=y + 128) for x in (0, 64, 512) for y in (0, 64, 512)]
    scenes = ("2_10", "2_11", "top_3_10", "far__b")
    names = [scene + tail.format(**each) for scene in scenes for each in numbers]
    for more, pattern in ((), f"^(.+?){regex}$"), (("other",), f"^(.+?)(?:{regex})?$"):
        note = crop_note([*names, *more], 3)
        assert note == (
            f"note: by their names, the {len(names) + len(more)} images are crops of "
            f"{len(scenes) + len(more)} scenes, so splits may share pixels; --group-by "
            f"{shlex.quote(pattern)} keeps scenes together"
        )
        option = shlex.split(re.search(r"--group-by (.+) keeps", note)[1])
        found = split_by_shares(sources_of([*names, *more]), (0.5, 0.25, 0.25), 0, *option)
        own = [
            {re.match(scenes_of(scenes), s.id)[0] for s in sources} for sources in found.values()
        ]
        assert sum(map(len, own)) == len(set().union(*own)) == len(scenes) + len(more)


def scenes_of(scenes):
    return "|".join([*scenes, "other"])


def test_numbers_of_a_scene_are_no_coordinates_of_its_crops():
    offsets = [(x, y) for x in (0, 512, 1024) for y in (0, 512, 1024)]
    names = [f"top_{row}_{x}_{y}" for row in ("2_10", "2_11", "3_10") for x, y in offsets]
    assert r"crops of 3 scenes, so splits may share pixels; --group-by '^(.+?)_\d+_\d+$'" in (
        crop_note(names, 3) or ""
    )


def test_crops_of_a_single_scene_are_noticed_too():
    """Case 13 of docs/trials.md."""
    assert crop_note(CROPS, 3) == (
        "note: by their names, the 36 images are crops of 2_10 only, so splits may share pixels; "
        r"scenes are kept in one split by --group-by '^(.+?)_\d+_\d+_\d+_\d+$', which takes 3 "
        "scenes, and --blocks splits a whole scene"
    )
    assert crop_note(CROPS, 1) is None


@pytest.mark.parametrize(
    "names",
    [
        [f"IMG_{number:04}" for number in range(30)],
        [f"tile{number}_part{part:03}" for number in range(1, 9) for part in range(1, 5)],
        [f"site_2020{month:02}01_1015{month:02}" for month in range(1, 13)],
        [f"area{number}" for number in range(38)],
        [f"{name}_{number}_0" for number, name in enumerate("abcdefgh")],  # one of a scene
        [],
    ],
)
def test_other_names_are_no_crops(names):
    assert crop_note(names, 3) is None
