"""Features of a frozen ViT as a modality: made, trained on, scored, inferred with, and refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.structure_fits import read_fit, spread_windows
from datasets.structure_generation import Shard
from datasets.structure_maps import FIT, map_path, read_manifest, read_map, store_folder
from datasets.tile_set import open_tile_set
from eval import attribute
from generate import generate_store
from models.structure.features import Features
from tests.conftest import evaluate, make_config, single_process, train_briefly
from tests.datasets.fakes import contents, inodes, kill_while, picture, write_cut_set
from utils.boxes import Box
from utils.distributed import DistContext
from utils.errors import DataError, MissingDataError
from utils.inference.inputs import find_inputs
from utils.inference.maps import choose_maps
from utils.inference.segment import load_segmenter
from utils.training.checkpoint import load_checkpoint

FEATURES = ("structure.modalities=[features]", "structure.features.name=test_vit")
FEATURES += ("structure.features.checkpoint=random", "structure.features.num_components=5")
FEATURES += ("structure.features.window_px=64", "structure.features.window_overlap_px=16")
BRIEF = ("optim.num_epochs=1", "optim.warmup_epochs=0")
NO_VIT = ("model.rgb_vit.name=none", "model.structure_vit.name=none")


def generate(
    dist: DistContext, root: Path, overrides: tuple[str, ...] = (), shard: Shard | None = None
) -> dict[str, bytes]:
    """Make the store of a data set; its files."""
    config = make_config(root, root.parent, *FEATURES, *overrides)
    generate_store(config, "features", open_tile_set(root), dist, shard)
    return contents(store_folder(root, "features"))


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory):
    """A copy of the data set with features, and a network trained on them without any ViT."""
    work = tmp_path_factory.mktemp("features")
    root = shutil.copytree(data_root, work / "scenes")
    generate(single_process(), root)
    config = make_config(root, work, *FEATURES, *BRIEF, *NO_VIT)
    return root, config, load_checkpoint(train_briefly(config))


@pytest.fixture
def root(tmp_path) -> Path:
    """Twelve tiles of a training image that overlap, without maps."""
    return write_cut_set(tmp_path / "cut", {"p": picture(120, 200)}, 64, 16).root


def test_stored_cells_are_trained_on_without_a_vit_and_ablated(trained, tmp_path):
    root, _, checkpoint = trained
    folder = store_folder(root, "features")
    assert json.loads((folder / "manifest.json").read_text())["kind"] == "cells"
    assert (folder / "contact_sheet.png").is_file() and checkpoint.identity.frozen == {}
    fit = checkpoint.identity.fitted["features"]
    assert all(torch.equal(fit[key], value) for key, value in read_fit(folder).items())
    plain = evaluate(checkpoint.path, tmp_path / "plain")
    report = evaluate(checkpoint.path, tmp_path / "ablated", command=attribute)
    assert report["unchanged"]["confusion"] == plain["confusion"]
    found = {each["ablation"]: each for each in report["ablations"]}
    assert found["constant"]["unmeasured"] == "same as zeroed"
    assert found["superpixels"]["unmeasured"] == "holds cells"
    assert found["zeroed"]["confusion"] != plain["confusion"]
    moved = shutil.copytree(root, tmp_path / "moved")  # each tile has the map of the next one
    tiles = open_tile_set(root).split("val")
    for tile, other in zip(tiles, (*tiles[1:], tiles[0]), strict=True):
        shutil.copy(map_path(folder, other), map_path(store_folder(moved, "features"), tile))
    shifted = evaluate(checkpoint.path, tmp_path / "shifted", f"data.root={moved}")
    assert shifted["confusion"] == found["shuffled"]["confusion"] != plain["confusion"]


def test_an_image_is_inferred_as_its_tile_with_stored_maps_is(trained, tmp_path, monkeypatch):
    root, config, checkpoint = trained
    tile_set, dist = open_tile_set(root), single_process()
    tile_id = tile_set.split("val")[0]
    image = tile_set.read_image(tile_id)
    maps = choose_maps(checkpoint, config, dist, keep=tmp_path / "kept")
    stored = choose_maps(checkpoint, config, dist, data_split=(root, "val"))
    assert (maps.kind, stored.kind) == ("generated", "stored")
    (tile,) = (each for each in find_inputs(root, tmp_path, "val") if each.tile_id == tile_id)
    whole, part = Box(0, 0, 96, 96), Box(16, 8, 40, 64)
    expected = np.array(read_map(map_path(store_folder(root, "features"), tile_id), "cells"))
    for source in (maps, stored):
        assert np.array_equal(source.of_chunk(tile, whole, image)["features"], expected)
    cut = stored.of_chunk(tile, part, image[part.slices])["features"]
    assert np.array_equal(cut, expected[:, 2:7, 1:9])
    monkeypatch.setattr(Features, "generate_batch", None)  # the kept map is read
    assert np.array_equal(maps.of_chunk(tile, whole, image)["features"], expected)
    monkeypatch.undo()
    segmenter = load_segmenter(checkpoint, config, dist.device)
    batch = torch.from_numpy(image).movedim(-1, 0)[None]
    cells = {"features": torch.from_numpy(expected)[None]}
    predicted = segmenter._predictor(batch, cells).numpy()
    assert np.array_equal(segmenter(image), predicted) and len(np.unique(predicted)) > 1
    view = replace(config.eval, scales=(0.75,), turns=2)
    turned = replace(segmenter._predictor, config=view)(batch, cells)
    assert 0.3 < (turned.numpy() == predicted).mean() < 1


def test_inference_says_what_it_lacks(trained):
    _, own, checkpoint = trained
    of_file = replace(own.structure.features, checkpoint="none.pth")
    config = replace(own, structure=replace(own.structure, features=of_file))
    device = single_process().device
    with pytest.raises(
        MissingDataError, match=r"the weights of test_vit are not at none\.pth; get"
    ):
        load_segmenter(checkpoint, config, device)
    without = replace(checkpoint, identity=replace(checkpoint.identity, fitted={}))
    with pytest.raises(
        DataError, match=r"best\.pth holds no fit of test_vit with 5 components; it"
    ):
        load_segmenter(without, own, device)
    fit = checkpoint.identity.fitted["features"]
    other = {"features": {**fit, "mean": fit["mean"] + 1}}
    wrong = replace(checkpoint, identity=replace(checkpoint.identity, fitted=other))
    with pytest.raises(DataError, match=r"other structure maps than these .*weights_sha256: "):
        load_segmenter(wrong, own, device)


def test_shards_ranks_and_resumed_runs_share_one_fit_and_end_with_the_same_files(
    root, ranks, monkeypatch
):
    plain, dist = generate(single_process(), root), single_process()
    store = store_folder(root, "features")
    shutil.rmtree(store)
    for index in (2, 1):
        generate(dist, root, shard=Shard(index=index, count=2))
    monkeypatch.setattr(Features, "fit", None)  # it is made once
    assert generate(dist, root) == plain
    map_path(store, next(iter(read_manifest(store)[1]))).unlink()
    kept = inodes(store)
    assert generate(dist, root) == plain and kept.items() < inodes(store).items()
    shutil.rmtree(store)
    assert ranks(generate, root)[0] == plain


@pytest.mark.parametrize("num_maps", [0, 4])
def test_a_killed_run_is_resumed(root, num_maps):
    plain, store = generate(single_process(), root), store_folder(root, "features")
    shutil.rmtree(store)
    kill_while(generate, single_process(), root, folder=store, num_maps=num_maps, delay_s=0.01)
    kept = inodes(store)
    assert generate(single_process(), root) == plain and kept.items() <= inodes(store).items()


def test_a_fit_of_other_images_or_settings_is_refused(root):
    dist, tiles = single_process(), open_tile_set(root)
    before = generate(dist, root)
    with pytest.raises(DataError, match=r"settings\.num_components: 6 \| 5\. Change the recipe"):
        generate(dist, root, ("structure.features.num_components=6",))
    first, second, *_ = tiles.tiles
    shutil.copy(tiles.image_path(second), tiles.image_path(first))
    text = r"fit\.npz was made from other training images, settings or weights than these; delete"
    with pytest.raises(DataError, match=text):
        generate(dist, root)
    assert contents(store_folder(root, "features")) == before
    (store_folder(root, "features") / FIT).write_bytes(b"PK")
    with pytest.raises(
        DataError, match=r"fit\.npz cannot be read .*; delete .* generate\.py again"
    ):
        generate(dist, root)


def test_windows_of_the_fit_are_spread_over_the_tiles_and_over_each_of_them(tmp_path, data_root):
    tiles = write_cut_set(tmp_path / "wide", {"p": picture(200, 640)}, 200, 0)
    windows = spread_windows(tiles, "train", 50)
    names = [tile_id for tile_id, _ in windows]
    assert len(windows) == 64 and names == sorted(names)
    assert {names.count(name) for name in tiles.tiles} == {16}
    for name in tiles.tiles:
        boxes = [box for tile_id, box in windows if tile_id == name]
        tile = tiles.tiles[name]
        for length, firsts in (
            (tile.height_px, [box.top_px for box in boxes]),
            (tile.width_px, [box.left_px for box in boxes]),
        ):
            edges = np.linspace(0, length - 50 + 1, 5)
            assert (np.histogram(firsts, edges)[0] >= 2).all()  # 4 if they were perfect
            assert 0 <= min(firsts) and max(firsts) <= length - 50
    whole = spread_windows(open_tile_set(data_root), "train", 512)
    assert [box for _, box in whole] == [Box(0, 0, 96, 96)] * 7
