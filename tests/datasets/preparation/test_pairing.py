"""Pairs of images and labels: names, endings, layouts of folders, and what is passed over."""

import re
import shlex

import pytest

from datasets.preparation.pairing.naming import propose_suffixes
from datasets.preparation.pairing.pairs import Folders, find_pairs, flat_folders
from tests.datasets.preparation.folder_files import ids, split, touch
from utils.errors import ConfigError, DataError, MissingDataError


@pytest.fixture
def flat(tmp_path):
    """Images a, far/b and c with their masks, in ``images`` and ``masks``."""
    touch(tmp_path / "flat" / "images", "a.jpg far/b.tif c.png")
    touch(tmp_path / "flat" / "masks", "a.png far/b.png c.png")
    return tmp_path / "flat"


def folders_of(root, **suffixes):
    return Folders(images=root / "images", masks=root / "masks", **suffixes)


def named(sources):
    """File names of image and mask by id."""
    return {s.id: (s.image.path.name, *(m.path.name for m in s.labels.values())) for s in sources}


def test_files_are_paired_by_their_path_below_the_folders(flat):
    sources = find_pairs(folders_of(flat))
    assert [source.id for source in sources] == ["a", "c", "far__b"]
    assert sources[2].image.path == flat / "images" / "far" / "b.tif"
    assert sources[2].labels["full"].path == flat / "masks" / "far" / "b.png"
    touch(flat, "images/d.png images/e.png images/f.png images/g.png masks/z.png")
    with pytest.raises(MissingDataError) as caught:
        find_pairs(folders_of(flat))
    assert str(caught.value) == (
        f"4 of 7 images have no mask of the same name in {flat}/masks (first: d, e, f), and 1 of 4 "
        f"masks has no image of the same name in {flat}/images (first: z); add the missing files "
        "or remove the others"
    )


def test_names_that_are_not_unique(flat):
    touch(flat, "images/far__b.png masks/far__b.png")
    with pytest.raises(DataError, match=r"would both be named 'far__b'; rename one of them"):
        find_pairs(folders_of(flat))
    touch(flat, "images/a.vrt")  # of the tiles beside it, for example
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.vrt have the same name; rename or"):
        find_pairs(folders_of(flat))


@pytest.mark.parametrize(
    ("images", "masks", "options", "pairs"),
    [
        ("far/1_sat.jpg", "far/1_mask.png", ("_sat.jpg", "_mask.png"), "far__1"),
        ("a.tif a.jpg", "a.png", (".tif", ""), "a"),
    ],
)
def test_endings_are_no_part_of_the_names(tmp_path, images, masks, options, pairs):
    """Case 10 of docs/trials.md."""
    touch(tmp_path / "images", images)
    touch(tmp_path / "masks", masks)
    sources = find_pairs(folders_of(tmp_path, image_suffix=options[0], mask_suffix=options[1]))
    assert [source.id for source in sources] == pairs.split()
    assert [s.image.path.name for s in sources] == [n.split("/")[-1] for n in images.split()][
        : len(sources)
    ]


def test_images_and_masks_may_lie_in_one_folder(tmp_path, capsys):
    """Case 10 of docs/trials.md."""
    touch(tmp_path, "1_sat.jpg 1_mask.png 2_sat.jpg 2_mask.png 2_depth.png notes.txt")
    one = {"images": tmp_path, "masks": tmp_path}
    wanted = {"1": ("1_sat.jpg", "1_mask.png"), "2": ("2_sat.jpg", "2_mask.png")}
    assert named(find_pairs(Folders(**one, image_suffix="_sat", mask_suffix="_mask"))) == wanted
    assert capsys.readouterr().out.splitlines() == [
        f"1 file of {tmp_path} is no image by its suffix (.txt) and was passed over",
        f"passed over 1 file of {tmp_path} without the ending '_sat'",
    ]
    (tmp_path / "2_depth.png").unlink()
    with pytest.raises(ConfigError) as caught:  # each would be its own mask
        find_pairs(Folders(**one))
    assert str(caught.value) == (
        f"images and masks lie in one folder, {tmp_path}, and no ending of their names tells them "
        "apart; if 1_sat and 1_mask belong together, give --image-suffix _sat --mask-suffix _mask"
    )


def test_an_ending_of_one_kind_suffices_in_one_folder(tmp_path):
    touch(tmp_path / "a", "1.jpg 1_mask.png 2.jpg 2_mask.png")
    folders = Folders(images=tmp_path / "a", masks=tmp_path / "a", mask_suffix="_mask")
    assert named(find_pairs(folders)) == {
        "1": ("1.jpg", "1_mask.png"),
        "2": ("2.jpg", "2_mask.png"),
    }
    touch(tmp_path / "b", "1_RGB.tif 1.tif")
    folders = Folders(images=tmp_path / "b", masks=tmp_path / "b", image_suffix="_RGB")
    assert named(find_pairs(folders)) == {"1": ("1_RGB.tif", "1.tif")}


def test_masks_below_the_folder_of_images_are_no_images(tmp_path):
    touch(tmp_path, "a.jpg far/b.jpg masks/a.png masks/far/b.png")
    sources = find_pairs(Folders(images=tmp_path, masks=tmp_path / "masks"))
    assert [source.id for source in sources] == ["a", "far__b"]


@pytest.mark.parametrize(
    ("images", "masks", "options"),
    [
        ("1_sat 2_sat 10_sat", "1_mask 2_mask 10_mask", "--image-suffix _sat --mask-suffix _mask"),
        ("x y", "x_15label y_15label", "--mask-suffix _15label"),
        ("a_RGB", "a_label", "--image-suffix _RGB --mask-suffix _label"),
        ("0001rgb 0002rgb", "0001gt 0002gt", "--image-suffix rgb --mask-suffix gt"),
        ("a_1rgb a_2rgb", "a_1gt a_2gt", "--image-suffix rgb --mask-suffix gt"),
        ("a-im b-im", "a-lb b-lb", "--image-suffix=-im --mask-suffix=-lb"),
        ("a_im b_im", "a_(1)m b_(1)m", "--image-suffix _im --mask-suffix '_(1)m'"),
        ("1 2 3", "1_edge 1_gt 2_gt 3_gt", "--mask-suffix _gt"),
        ("x1 x10 x100", "x1_gt x10_gt x100_gt", "--mask-suffix _gt"),
        ("far/a_sat b_sat", "far/a_m b_m", "--image-suffix _sat --mask-suffix _m"),
    ],
)
def test_a_common_ending_is_proposed_as_options_that_work(tmp_path, images, masks, options):
    """Case 10 of docs/trials.md: the advice to add or remove files did not help."""
    touch(tmp_path / "images", " ".join(f"{name}.jpg" for name in images.split()))
    touch(tmp_path / "masks", " ".join(f"{name}.png" for name in masks.split()))
    command = ("--images", tmp_path / "images", "--labels", tmp_path / "masks", "--shares", 1, 0, 0)
    with pytest.raises(MissingDataError, match="no mask of the same name") as caught:
        split(*command)
    match = re.search(r"if (\S+) and (\S+) belong together, give (.+), else add", str(caught.value))
    assert match is not None and match[3] == options
    assert match[1] in images.split() and match[2] in masks.split()
    assert len(split(*command, *shlex.split(match[3]))["train"]) == len(images.split())


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("1 2 3 4", "1_gt 2_gt 3_gt 5_gt"),
        ("1 2 3", "1 2_gt 3_gt"),
        ("1 2", "1_gt 2_gt 2"),
        ("x10", "x100_gt x101_gt x102_gt x10_gt"),
    ],
)
def test_an_ending_that_pairs_most_names_is_proposed(images, masks):
    proposal = propose_suffixes(images.split(), masks.split())
    assert proposal.endswith("belong together, give --mask-suffix _gt")


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("tile_1", "tile_2"),  # numbers tell images apart
        ("img1a", "img2a"),
        ("north", "south"),
        ("a b", "a b"),
        ("mat", "mask"),  # chance
        ("", "a"),
    ],
)
def test_no_ending_is_proposed_where_none_is_common(images, masks):
    assert propose_suffixes(images.split(), masks.split()) == ""


def test_many_names_are_compared_in_a_moment():
    images = [f"{number:05}_sat" for number in range(20_000)]
    masks = [f"{number:05}_mask" for number in range(20_000)]
    assert "--image-suffix _sat --mask-suffix _mask" in propose_suffixes(images, masks)


def test_an_ending_that_no_file_has_is_named(tmp_path):
    touch(tmp_path, "images/a.jpg masks/a.png")
    with pytest.raises(MissingDataError) as caught:
        find_pairs(folders_of(tmp_path, mask_suffix="_mask"))
    assert str(caught.value) == (
        f"no file of {tmp_path}/masks has a name that ends in '_mask' (first: a.png); check the "
        "suffix"
    )


@pytest.mark.parametrize(
    "files",
    [
        "train/images/a.png train/masks/a.png val/images/b.png val/labels/b.png",
        "img_dir/train/a.png ann_dir/train/a.png img_dir/val/b.png ann_dir/val/b.png",
        "images/train/a.png labels/train/a.png images/val/b.png labels/val/b.png",
        "train/img_dir/a.png train/ann_dir/a.png val/images/b.png val/labels/b.png",
    ],
)
def test_trees_have_their_splits_in_folders(tmp_path, files):
    """Case 10 of docs/trials.md: ``img_dir/train`` and ``ann_dir/train`` were refused."""
    touch(tmp_path, f"{files} notes/c.txt")
    assert ids(split("--tree", tmp_path)) == {"train": ["a"], "val": ["b"]}
    with pytest.raises(ConfigError, match="has its splits in folders; leave out lists and shares"):
        split("--tree", tmp_path, "--shares", 0.8, 0.1, 0.1)


def test_an_image_of_two_split_folders_is_refused(tmp_path):
    touch(tmp_path, "train/images/a.png train/masks/a.png val/images/a.png val/masks/a.png")
    with pytest.raises(DataError, match=r"images/a\.png and .*val/images/a\.png would"):
        split("--tree", tmp_path)


def test_a_tree_without_splits_takes_shares(tmp_path):
    touch(tmp_path, "one/img_dir/a.png one/ann_dir/a.png one/ann_dir/train.txt")
    assert ids(split("--tree", tmp_path / "one", "--shares", 1, 0, 0)) == {"train": ["a"]}
    touch(tmp_path, "two/images/train/a.png two/images/b.png")  # train is no split here
    touch(tmp_path, "two/masks/train/a.png two/masks/b.png")
    assert ids(split("--tree", tmp_path / "two", "--shares", 1, 0, 0)) == {
        "train": ["b", "train__a"]
    }


@pytest.mark.parametrize(
    "output",
    ["set/dataset.json set/images/a.tif set/labels/a.tif", ".set.partial/images/a.tif"],
)
def test_data_sets_in_a_tree_are_no_part_of_it(tmp_path, output):
    """A second set with other settings, or the same command after a kill."""
    touch(tmp_path, f"images/a.png labels/a.png {output}")
    assert ids(split("--tree", tmp_path, "--shares", 1, 0, 0)) == {"train": ["a"]}


@pytest.mark.parametrize(
    ("files", "error", "sentence"),
    [
        ("", MissingDataError, "is not a folder"),
        ("pictures/a.png", MissingDataError, r"neither SPLIT/images .* nor img_dir/SPLIT \(with"),
        ("train/images/a.png images/a.png", DataError, "has 'images' and train; move one of them"),
        ("img_dir/a.png images/a.png", DataError, "has 'images' and 'img_dir'; move one of them"),
        ("validation/images/a.png", DataError, "images in validation, which is not a split; ren"),
        ("img_dir/train/a.png img_dir/vali/a.png", DataError, "images in vali, which is not a sp"),
        ("images/a.png labels/a.png masks/a.png", DataError, "both 'labels' and 'masks'; give --i"),
        ("train/images/a.png", MissingDataError, "no folder of masks .*; only val and test may be"),
        ("img_dir/train/a.png ann_dir/val/a.png", MissingDataError, "img_dir/train has no folder"),
    ],
)
def test_trees_of_another_layout(tmp_path, files, error, sentence):
    touch(tmp_path / "tree", files)
    with pytest.raises(error, match=sentence):
        split("--tree", tmp_path / "tree", "--shares", 1, 0, 0)


def test_a_tree_without_masks_is_named(tmp_path):
    touch(tmp_path, "images/a.png")
    with pytest.raises(MissingDataError, match="no folder 'labels' or 'masks'; rename that of the"):
        flat_folders(tmp_path)


@pytest.mark.parametrize(
    ("files", "labelled"),
    [
        ("train/images/a.png train/masks/a.png test/images/b.png", {"train": 1, "test": 0}),
        ("img_dir/train/a.png ann_dir/train/a.png img_dir/test/b.png", {"train": 1, "test": 0}),
        ("test/images/b.png", {"test": 0}),
        ("img_dir/test/b.png", {"test": 0}),
    ],
)
def test_splits_without_a_folder_of_masks_are_without_labels(tmp_path, capsys, files, labelled):
    """Case 12 of docs/trials.md: images that are to be predicted could not be prepared."""
    touch(tmp_path, files)
    found = split("--tree", tmp_path)
    assert {name: len(sources[0].labels) for name, sources in found.items()} == labelled
    assert re.fullmatch(
        r".*test.* has no folder of masks: the split test is without labels\n",
        capsys.readouterr().out,
    )


def test_files_passed_over_are_counted_in_one_line_a_folder(flat, capsys):
    """Case 23 of docs/trials.md."""
    find_pairs(folders_of(flat))
    assert capsys.readouterr().out == ""
    touch(flat, "images/a.tfw images/far/b.txt images/x.xml masks/legend.pdf")
    find_pairs(folders_of(flat))
    assert capsys.readouterr().out.splitlines() == [
        f"2 files of {flat}/images are no images by their suffix (.txt, .xml) and were passed over",
        f"1 file of {flat}/masks is no image by its suffix (.pdf) and was passed over",
    ]


def test_labels_may_be_polygons_or_one_file(flat, tmp_path, capsys):
    touch(tmp_path, "labels/a.geojson labels/c.GeoJSON labels/far/b.png all.geojson one.png")
    sources = find_pairs(Folders(images=flat / "images", masks=tmp_path / "labels"))
    assert named(sources) == {
        "a": ("a.jpg", "a.geojson"),
        "c": ("c.png", "c.GeoJSON"),
        "far__b": ("b.tif", "b.png"),
    }
    sources = find_pairs(Folders(images=flat / "images", masks=tmp_path / "all.geojson"))
    assert {source.labels["full"].path for source in sources} == {tmp_path / "all.geojson"}
    with pytest.raises(ConfigError, match=r"one\.png is one mask for 3 images; give a folder"):
        find_pairs(Folders(images=flat / "images", masks=tmp_path / "one.png"))
    touch(tmp_path, "trees.gpkg")
    with pytest.raises(ConfigError, match=r"convert it: ogr2ogr trees\.geojson trees\.gpkg$"):
        find_pairs(Folders(images=flat / "images", masks=tmp_path / "trees.gpkg"))
    for labels in ("masks", "../one.png", "../all.geojson"):
        (source,) = find_pairs(Folders(images=flat / "images" / "a.jpg", masks=flat / labels))
        assert (source.id, source.image.path.name) == ("a", "a.jpg") and source.labels
    touch(tmp_path, "near/a.tif near/mask.png")
    near = Folders(images=tmp_path / "near", masks=tmp_path / "near" / "mask.png")
    assert named(find_pairs(near)) == {"a": ("a.tif", "mask.png")}
    touch(tmp_path, "both/a.tif both/a.geojson")  # the suffix tells them apart
    assert named(find_pairs(Folders(images=tmp_path / "both", masks=tmp_path / "both"))) == {
        "a": ("a.tif", "a.geojson")
    }
    assert capsys.readouterr().out == ""
