"""prepare.py check: every fault is found once and named in one line; a sound set has none."""

import json
import re
import shutil

import numpy as np
import pytest
from rasterio.crs import CRS

from datasets.preparation.check import check_tile_set, format_summary
from datasets.rasters import read_raster, write_raster
from datasets.structure_maps import (
    MapRecipe,
    map_path,
    store_folder,
    write_manifest,
    write_map,
)
from datasets.tile_set import FORMAT_VERSION, TileSet, open_tile_set, valid_path
from tests.conftest import make_config
from tests.datasets.broken import (
    RECIPES,
    SIZE_PX,
    edit_json,
    image_of,
    map_of,
    rewrite_list,
    rewrite_map,
    store,
    target_of,
    truncate,
    write_eroded,
)
from tests.datasets.fakes import picture, tile_at, write_tiles
from utils.files import read_rgb, sha256_of

AGAIN = "prepare the data set again"


def faults_of(toy: TileSet) -> list[str]:
    return texts_of(toy, "faults")


def texts_of(toy: TileSet, what: str) -> list[str]:
    """Sentences of all faults or warnings, with the files of the set read again."""
    summary, _ = check_tile_set(open_tile_set(toy.root))
    texts = [text for texts in summary[what].values() for text in texts]
    assert not any("\n" in text for text in texts)
    return [text.replace(f"{toy.root}/", "ROOT/").replace(str(toy.root), "ROOT") for text in texts]


def test_a_sound_set_has_no_fault_and_the_right_numbers(toy):
    summary, shown = check_tile_set(toy)
    assert summary["faults"] == summary["warnings"] == {} and shown == [*"abcd"]
    splits = summary["splits"]
    assert list(splits) == ["train", "val", "test"]
    assert splits["train"] == {
        "num_sources": 2,
        "num_tiles": 2,
        "num_pixels": 128,
        "class_pixels": [32 + 48, 32, 0],
        "ignored_pixels": 16,
        "no_data_pixels": 0,
        # Frequencies: ground 80/(64+48), roof 32/64; their median is 0.6071.
        "class_weights": (0.85, 1.214, 0.0),
    }
    assert splits["val"]["class_pixels"] == [32, 24, 8] and splits["val"]["ignored_pixels"] == 0
    assert splits["val"]["class_weights"] == (0.75, 1.0, 3.0)


@pytest.mark.parametrize("flat", ["ab", "abc"])
def test_maps_of_one_value_are_a_fault_if_they_are_more_than_half(toy, flat):
    for name in flat:
        rewrite_map(toy, "superpixels", name, np.full_like(map_of(name), 7))
    what, other = ("faults", "warnings")[:: 1 if flat == "abc" else -1]
    assert texts_of(toy, other) == []
    assert texts_of(toy, what) == [
        f"ROOT/modalities/superpixels: {len(flat)} of 4 maps have a single value (first: 'a'); "
        "look at them, or change the settings of the generator and run generate.py again"
    ]


def test_the_command_prints_what_it_writes(toy, run_prepare, tmp_path):
    code, out, err = run_prepare("check", "--data", toy.root)
    assert code == 0 and "error" not in err
    found = json.loads((toy.root / "check/check.json").read_text())
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert {"images 2 1 1", "tiles 2 1 1", "roof 25.0 % 37.5 % 37.5 %"} <= {*rows}
    assert "ignored 12.5 % 0.0 % 0.0 %" in rows
    sha256 = found["split"]["sha256"][:16]
    assert rows[0] == f"{toy.root}: 3 classes, channels rgb, split 'own', SHA-256 {sha256}..."
    assert "warning: no training pixel is of class 'water'" in rows
    assert "structure maps: depth (depth_anything), dsm (sensor), superpixels" in rows
    assert found["stores"] == {name: recipe.generator for name, recipe in RECIPES.items()}
    folder = toy.root / "check"
    assert rows[-1] == f"no fault found; see {folder}/check.json and {folder}/check.png"
    assert read_rgb(folder / "check.png").std() > 0
    (override,) = re.findall(r"'(optim\.class_weights=.*)'", out)
    config = make_config(toy.root, tmp_path, override)
    assert config.optim.class_weights == (0.85, 1.214, 0.0)


def test_faults_are_counted_and_the_exit_code_says_so(toy, run_prepare, tmp_path):
    for name in "abcd":
        toy.target_path(name).unlink()
    truncate(toy.image_path("a"))
    code, out, err = run_prepare("check", "--data", toy.root, "--output", tmp_path / "out")
    path = tmp_path / "out/check.json"
    assert code == 2 and not (toy.root / "check").exists()
    assert err.splitlines()[-1] == f"error: {toy.root} has 5 faults; all are listed in {path}"
    assert "fault: missing files (4)" in out and "\n  and 1 more, see check.json" in out
    assert "fault: unreadable files (1)" in out
    assert sum(map(len, json.loads(path.read_text())["faults"].values())) == 5


@pytest.mark.parametrize(
    "harm",
    [
        lambda toy: (toy.root / "tiles.csv").write_text(
            "id,source,top_px,left_px,height_px,width_px\na,a,zero,0,8,8\n"
        ),
        lambda toy: (toy.root / "dataset.json").write_text(
            f'{{"format_version": {FORMAT_VERSION}}}'
        ),
        lambda toy: (toy.root / "sources.json").write_text("[]"),
        lambda toy: edit_source(toy, "a", transform=[1, 0, 0]),
        lambda toy: edit_source(toy, "a", transform=[1, 2, 0, 2, 4, 0]),  # a line
    ],
)
def test_a_set_that_cannot_be_opened_gets_one_sentence(toy, run_prepare, harm):
    harm(toy)
    code, _, err = run_prepare("check", "--data", toy.root)
    files = "dataset.json, sources.json, tiles.csv or a list in splits"
    assert code == 2 and err.startswith(f"error: {toy.root}: {files} is damaged (")
    assert err.endswith(f"); {AGAIN}\n") and err.count("\n") == 1


def test_a_line_that_names_a_thousand_tiles_is_cut(toy):
    summary, _ = check_tile_set(toy)
    summary["faults"] = {"kind": ["x" * 9000, "short"]}
    *_, line, last = format_summary(summary).splitlines()
    assert line == f"  {'x' * 600}... (in full in check.json)" and last == "  short"


def test_a_split_with_hidden_labels(toy, run_prepare):
    path, table = toy.root / "dataset.json", toy.root / "histogram.csv"
    split = json.loads(path.read_text())["split"]
    edit_json(path, split={**split, "unlabelled": ["test"]})
    assert faults_of(toy) == [
        f"ROOT/histogram.csv lists 'd'; {AGAIN}",
        f"no list names ROOT/labels/d.tif; delete it or {AGAIN}",
    ]
    toy.target_path("d").unlink()
    table.write_text(table.read_text()[: table.read_text().index("\nd,")])
    code, out, _ = run_prepare("check", "--data", toy.root)
    assert code == 0 and re.search(r"^ground .* hidden$", out, re.MULTILINE)
    found = json.loads((toy.root / "check/check.json").read_text())
    assert found["splits"]["test"]["class_weights"] is None


def edit_tiles(toy, name, change):
    """Change the tiles in the manifest of a store."""
    path = store(toy, name) / "manifest.json"
    edit_json(path, tiles=change(json.loads(path.read_text())["tiles"]))


def a_map(toy, name, tile_id):
    return map_path(store(toy, name), tile_id)


def test_every_damage_is_one_fault(toy, recwarn):
    rewrite_list(toy, "val", "c\nc\n")
    with (toy.root / "tiles.csv").open("a") as table:
        table.write("d,d,0,0,8,8\n")
    write_raster(toy.target_path("a"), np.where(np.eye(8), 7, 254).astype("u1"))
    a_map(toy, "dsm", "a").unlink()
    shutil.copy(a_map(toy, "depth", "a"), a_map(toy, "superpixels", "a"))
    toy.image_path("b").unlink()
    rewrite_map(toy, "superpixels", "c", map_of("c")[:, :-1])
    truncate(toy.image_path("d"))
    *found, last = faults_of(toy)
    assert found == [
        "ROOT/tiles.csv names 'd' 2 times; delete the others",
        "ROOT/splits/val.txt names 'c' 2 times; delete the others",
        "ROOT/labels/a.tif holds 7 (8 pixels), 254 (56 pixels); the classes are 0..2, 255 = "
        f"ignore; correct the masks and {AGAIN}",
        "ROOT/modalities/dsm: 'a' has no map; run prepare.py sensor again",
        "ROOT/modalities/superpixels/a.tif was made from another image or with other settings than "
        "its manifest records; delete it and run generate.py again",
        f"ROOT/images/b.tif does not exist; {AGAIN}",
        "ROOT/modalities/superpixels/c.tif is 8 x 7, tiles.csv says 8 x 8 (height x width); run "
        "generate.py again",
    ]
    assert last.startswith("ROOT/images/d.tif is not whole")
    assert not recwarn.list  # Pillow's, of damaged headers


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            lambda toy: (toy.root / "histogram.csv").write_text("id,0,1\na,1,2\n"),
            "ROOT/histogram.csv has the columns id, 0, 1, not ",
        ),
        (
            lambda toy: write_raster(toy.target_path("c"), target_of("a")),
            f"ROOT/histogram.csv differs from the pixel counts of the label of 'c'; {AGAIN}",
        ),
        (
            lambda toy: edit_tiles(toy, "superpixels", lambda tiles: None),
            "the structure maps ROOT/modalities/superpixels are missing or not finished; make the",
        ),
        (
            lambda toy: edit_tiles(toy, "dsm", list),
            "ROOT/modalities/dsm/manifest.json is not a valid manifest (",
        ),
        (
            lambda toy: edit_tiles(toy, "dsm", lambda tiles: {**tiles, "e": "0"}),
            "ROOT/modalities/dsm/manifest.json names 'e', which is not a tile; delete the folder a",
        ),
    ],
)
def test_a_damaged_table_or_manifest_is_one_fault(toy, harm, sentence):
    harm(toy)
    (found,) = faults_of(toy)
    assert found.startswith(sentence)


def test_an_image_that_changed_makes_its_maps_stale(toy):
    write_raster(toy.image_path("a"), image_of("x"))
    assert faults_of(toy) == [
        f"ROOT/images/a.tif changed after its map in ROOT/modalities/{name} was made; run "
        f"{'prepare.py sensor' if name == 'dsm' else 'generate.py'} again"
        for name in sorted(RECIPES)
    ]


def test_a_manifest_and_a_histogram_of_other_tiles(toy):
    edit_tiles(toy, "dsm", lambda tiles: {name: tiles[name] for name in "bcd"})
    path = toy.root / "histogram.csv"
    path.write_text(path.read_text().replace("\nd,", "\ne,"))
    assert faults_of(toy) == [
        "ROOT/modalities/dsm: 'a' has no map in its manifest; run prepare.py sensor again",
        f"ROOT/histogram.csv lacks 'd'; {AGAIN}",
        f"ROOT/histogram.csv lists 'e'; {AGAIN}",
        f"no list names ROOT/modalities/dsm/a.tif; delete it or {AGAIN}",
    ]


def test_eroded_labels_are_examined_like_the_others(toy):
    toy = write_eroded(toy)
    summary, _ = check_tile_set(toy)
    assert summary["faults"] == {}
    assert summary["splits"]["train"]["class_pixels"] == [80, 32, 0]
    path = toy.target_path("c", "eroded")
    write_raster(path, np.full((SIZE_PX, SIZE_PX), 3, np.uint8))
    (found,) = faults_of(toy)
    assert found.startswith("ROOT/labels_eroded/c.tif holds 3 (64 pixels); the classes are 0..2")
    path.unlink()
    assert faults_of(toy) == [f"ROOT/labels_eroded/c.tif does not exist; {AGAIN}"]
    edit_json(toy.root / "dataset.json", labels=["full"])
    assert [text.split(";")[0] for text in faults_of(toy)] == [
        f"no list names ROOT/labels_eroded/{name}.tif" for name in "abd"
    ]


@pytest.mark.parametrize(
    ("pair", "what", "sentence"),
    [
        ("ad", "faults", "'a' (train), 'd' (test) have the same pixels; remove the image from all"),
        ("ab", "warnings", "'a' (train), 'b' (train) have the same pixels and count more than ot"),
    ],
)
def test_tiles_with_the_same_pixels(toy, pair, what, sentence):
    shutil.rmtree(toy.root / "modalities")
    write_raster(toy.image_path(pair[1]), image_of(pair[0]))
    assert texts_of(toy, "warnings" if what == "faults" else "faults") == []
    (found,) = texts_of(toy, what)
    assert found.startswith(sentence)
    for name in pair:  # tiles of one colour do not count
        write_raster(toy.image_path(name), np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8))
    assert texts_of(toy, what) == []


def test_tiles_without_a_split_and_splits_without_tiles(toy):
    rewrite_list(toy, "train", "a\n")
    rewrite_list(toy, "test", "")
    assert texts_of(toy, "warnings") == [
        "ROOT has no tile in test; train.py and eval.py cannot use it",
        "'b' is in no split; add it to a list in ROOT/splits if it is to be used",
        "'d' is in no split; add it to a list in ROOT/splits if it is to be used",
    ]


def test_files_that_belong_to_no_tile(toy):
    unknown = ["images/e.tif", "modalities/notes.txt", "modalities/depth/e.tif"]
    left = ["../.toy.partial/x", "images/.a.0.partial", "modalities/dsm/.parts/x"]
    for place in (*unknown, *left):
        (toy.root / place).parent.mkdir(exist_ok=True)
        (toy.root / place).touch()
    assert faults_of(toy) == [
        f"no list names ROOT/{name}; delete it or {AGAIN}" for name in unknown
    ]
    found = texts_of(toy, "warnings")
    for name, text in zip((".toy.partial", ".a.0.partial", ".parts"), found, strict=True):
        assert f"{name} was left by a killed run, or belongs to a running one; if none" in text


def edit_source(toy, name, **changes):
    path = toy.root / "sources.json"
    sources = json.loads(path.read_text())
    edit_json(path, **{name: {**sources[name], **changes}})


@pytest.mark.parametrize("change", [{"box": [1, 0, 7, 8]}, {"size": [8, 7]}])
def test_a_tile_that_is_not_within_its_source(toy, change):
    edit_source(toy, "a", **change)
    text = "ROOT/sources.json: the tile 'a' is not within its source 'a'"
    assert faults_of(toy) == [f"{text}; {AGAIN}"]


def write_parts(root, parts):
    """A set of a whole image in train, and of another one below each other in val, all placed."""
    members = [
        (split, tile_at(name, image.shape[:2], source, top), image, np.zeros_like(image[..., 0]))
        for name, split, source, top, image in parts
    ]
    toy = write_tiles(root / "toy", members)
    crs = CRS.from_epsg(32633).to_wkt()
    for source in {part[2] for part in parts}:
        edit_source(toy, source, crs=crs, transform=[0.5, 0, 400_000, 0, -0.5, 5_700_000])
    return toy


WHOLE, OTHER = picture(64, 96), picture(64, 96, seed=1)
SAME_IMAGE = "'a' (train), 'b' (val) are the same image; remove it from all splits but one"


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ([("b", 0, WHOLE)], SAME_IMAGE),
        ([("b1", 0, WHOLE[:32]), ("b2", 32, WHOLE[32:])], SAME_IMAGE),
        (
            [("b1", 0, WHOLE), ("b2", 64, OTHER)],
            "'a' (train), 'b1' (val) have the same pixels; remove the image from all splits but "
            "one",
        ),
        (
            [("b", 0, WHOLE[:40])],
            "'a' (train) and 'b' (val) share 40 x 96 pixels; keep the crops of a picture in one "
            f"split (--group-by) and {AGAIN}",
        ),
    ],
)
def test_pixels_in_two_splits_are_one_fault(tmp_path, parts, fault):
    """A copy of an image, whole or cut otherwise, of a tile, and of a part of a tile."""
    copies = [(name, "val", "b", top, image) for name, top, image in parts]
    toy = write_parts(tmp_path, [("a", "train", "a", 0, WHOLE), *copies])
    assert faults_of(toy) == [fault]
    assert not any("ground" in text for text in texts_of(toy, "warnings"))


def test_tiles_of_two_splits_that_overlap_in_their_image(tmp_path):
    image, target = picture(64, 160, seed=2), np.zeros((64, 96), np.uint8)
    tiles = {"left": ("train", 0), "right": ("val", 64)}
    members = [
        (split, tile_at(name, (64, 96), left=left), image[:, left : left + 96], target)
        for name, (split, left) in tiles.items()
    ]
    toy = write_tiles(tmp_path / "toy", members)
    for name, (_, left) in tiles.items():
        edit_source(toy, name, image="scene", size=[64, 160], box=[0, left, 64, 96])
    assert faults_of(toy) == [
        f"'left' (train) and 'right' (val) share 64 x 32 pixels of the image 'scene'; {AGAIN}"
    ]


def test_two_dates_of_a_place_in_two_splits(toy):
    crs = CRS.from_epsg(32633).to_wkt()
    for name, east in zip("abcd", (0, 900, 3, 7), strict=True):
        edit_source(toy, name, crs=crs, transform=[0.5, 0, 400_000 + east, 0, -0.5, 5_700_000])
    assert faults_of(toy) == []
    start, end = texts_of(toy, "warnings")[0].split("; ")
    assert start == "'a' (train) and 'c' (val) show the same ground, 8 x 2 pixels of 'a'"
    assert end.startswith("scores are of a place that was trained on")
    assert len(texts_of(toy, "warnings")) == 1  # c and d touch


def without_data(toy, name, num_rows):
    """The first rows of a tile hold no data: in its mask, its label and its maps."""
    valid = np.ones((SIZE_PX, SIZE_PX), np.uint8)
    valid[:num_rows] = 0
    write_raster(valid_path(toy.root, name), valid)
    write_raster(toy.target_path(name), np.where(valid, target_of(name), 255).astype("u1"))
    for each in RECIPES:
        rewrite_map(toy, each, name, map_of(name) * valid)


def test_pixels_without_data_are_counted(toy, run_prepare):
    without_data(toy, "b", 2)  # whose label is ignored there
    assert faults_of(toy) == []
    _, out, _ = run_prepare("check", "--data", toy.root)
    assert "no data 12.5 % 0.0 % 0.0 %" in [" ".join(line.split()) for line in out.splitlines()]


def rewrite_valid(toy, change):
    path = valid_path(toy.root, "b")
    write_raster(path, change(read_raster(path, "8-bit")).astype(np.uint8))


def test_maps_of_cells_are_compared_with_their_grid_and_with_the_cells_that_hold_data(toy):
    settings = {"cell_px": 4, "num_components": 3}
    recipe = MapRecipe(generator="features", settings=settings, weights_sha256="f")
    folder = store_folder(toy.root, "features")
    sources = {tile_id: sha256_of(toy.image_path(tile_id)) for tile_id in toy.tiles}
    whole = np.arange(1, 13, dtype=np.uint8).reshape(3, 2, 2)

    def write(tile_id, cells):
        write_map(folder, tile_id, cells, sources[tile_id], recipe)

    for tile_id in sources:
        write(tile_id, whole)
    write_manifest(folder, recipe, sources)
    fit = folder / "fit.npz"
    np.savez(fit, inputs="i", mean=np.zeros(3))
    assert faults_of(toy) == []
    content = fit.read_bytes()
    for harm in (fit.unlink, lambda: fit.write_bytes(content[:-9])):
        harm()
        (found,) = faults_of(toy)
        assert found.startswith("ROOT/modalities/features/fit.npz cannot be read")
        assert found.endswith("delete ROOT/modalities/features and run generate.py again")
        fit.write_bytes(content)
    without_data(toy, "b", 3)
    where = "ROOT/modalities/features/b.tif"
    (found,) = faults_of(toy)
    assert found.startswith(f"{where} covers 2 cells where the image holds no data; delete it and")
    write("b", whole[:, :1])
    found = faults_of(toy)
    text = f"{where} holds (3, 1, 2) components, rows and columns of cells, its tile has (3, 2, 2);"
    assert found == [f"{text} delete it and run generate.py again"]
    truncate(map_path(folder, "b"))
    assert faults_of(toy)[0].startswith(f"{where} is not whole")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            lambda toy: write_raster(toy.target_path("b"), target_of("b") * 0),
            "ROOT/labels/b.tif has 16 labelled pixels where the image holds no data; " + AGAIN,
        ),
        (
            lambda toy: rewrite_map(toy, "dsm", "b", map_of("b")),
            "ROOT/modalities/dsm/b.tif covers 16 pixels where the image holds no data; delete it "
            "and run prepare.py sensor again",
        ),
        (
            lambda toy: rewrite_valid(toy, lambda valid: valid[:, :7]),
            f"ROOT/valid/b.tif is 8 x 7, tiles.csv says 8 x 8 (height x width); {AGAIN}",
        ),
        (
            lambda toy: rewrite_valid(toy, lambda valid: valid * 255),
            "ROOT/valid/b.tif holds 0, 255; it must hold 0 (no data) and may hold 1 (data), nothing"
            f" else; {AGAIN}",
        ),
        (
            lambda toy: rewrite_valid(toy, np.ones_like),
            "ROOT/valid/b.tif holds 1; it must hold 0 (no data) and may hold 1 (data), nothing "
            f"else; {AGAIN}",
        ),
        (
            lambda toy: valid_path(toy.root, "b").rename(valid_path(toy.root, "x")),
            f"no list names ROOT/valid/x.tif; delete it or {AGAIN}",
        ),
        (
            lambda toy: truncate(valid_path(toy.root, "b")),
            "ROOT/valid/b.tif is not whole: ",
        ),
    ],
)
def test_masks_that_do_not_fit_labels_and_maps(toy, harm, sentence):
    without_data(toy, "b", 2)
    harm(toy)
    (found,) = faults_of(toy)
    assert found.startswith(sentence)
