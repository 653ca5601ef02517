"""The loaders: the same batches whatever the processes, whole tiles, errors, memory."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import Config, StructureConfig
from datasets.dataset import Batch
from datasets.loaders import absence_note, build_eval_loader, build_train_loader, check_structure
from datasets.structure_maps import map_path, store_folder
from datasets.tile_set import TileSet, open_tile_set
from tests.conftest import make_config, single_process
from tests.datasets.coordinates import draw_members, write_set
from utils.errors import ConfigError, DataError, run_command

SIZES = [(90, 120), (57, 203), (31, 77), (1, 1), (200, 9), (64, 64), (100, 100), (33, 150)]
EVERYTHING = (
    "structure.modalities=[superpixels,levels]",
    "structure.superpixels.store=ids",
    "structure.dropout=0.3",
    "structure.shuffle_ids=true",
    "data.rare_class_share=0.5",
    "data.scale_range=[0.5, 1.75]",
    "data.crop_size_px=48",
)


@pytest.fixture(scope="module")
def tile_set(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return write_set(tmp_path_factory.mktemp("loader") / "set", SIZES)


def config_of(tile_set: TileSet, *overrides: str) -> Config:
    return make_config(tile_set.root, tile_set.root.parent, *EVERYTHING, *overrides)


def epochs(config: Config, tile_set: TileSet, *positions: tuple[int, int]) -> list[Batch]:
    loader, batches = build_train_loader(config, tile_set, single_process())
    found = []
    try:
        for epoch, start in positions:
            batches.set_position(epoch, start)
            found += list(loader)
    finally:
        if loader._iterator is not None:  # left to the garbage collector, it costs seconds later
            loader._iterator._shutdown_workers()
    return found


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    names = ("image", "target", "color_factors", "present", "id_keys")
    return {name: getattr(batch, name) for name in names} | batch.maps


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert [batch.tile_ids for batch in ours] == [batch.tile_ids for batch in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name, tensor in tensors(one).items():
            assert torch.equal(tensor, tensors(other)[name]), name


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_the_same_for_any_number_of_processes_and_after_a_resume(tile_set, num_workers):
    straight = epochs(config_of(tile_set), tile_set, (0, 0), (1, 0))
    assert len(straight) == 8
    config = config_of(tile_set, f"data.num_workers={num_workers}")
    if num_workers:
        ours = epochs(config, tile_set, (0, 0), (1, 0))
        assert_equal(ours, straight)
        for batch in ours:  # as small as on disk, in memory that is shared, channels-last
            assert batch.image.dtype == batch.target.dtype == torch.uint8
            assert {levels.dtype for levels in batch.maps.values()} == {torch.uint16}
            assert all(tensors(batch)[name].is_shared() for name in ("image", "target", "ids"))
            assert batch.image.movedim(1, -1).is_contiguous()
    assert_equal(straight[3:], epochs(config, tile_set, (0, 3), (1, 0)))
    assert_equal(straight[6:], epochs(config, tile_set, (1, 2)))


def test_the_ranks_share_the_samples_of_a_batch(tile_set):
    config = config_of(tile_set)
    whole = epochs(config, tile_set, (0, 0))
    parts = []
    for rank in range(2):
        dist = replace(single_process(), rank=rank, world_size=2)
        parts.append(list(build_train_loader(config, tile_set, dist)[0]))
    for together, *each in zip(whole, *parts, strict=True):
        assert together.tile_ids == each[0].tile_ids + each[1].tile_ids
        for name, tensor in tensors(together).items():
            assert torch.equal(tensor, torch.cat([tensors(part)[name] for part in each])), name
    text = r"batch_size is 2, which 3 processes with optim\.accumulate=1 do not divide"
    with pytest.raises(ConfigError, match=text):
        build_train_loader(config, tile_set, replace(single_process(), world_size=3))


def test_whole_tiles_are_as_in_their_files_and_each_is_read_by_one_rank(tile_set):
    config, names = config_of(tile_set), tile_set.split("train")
    whole = build_eval_loader(config, tile_set, "train", single_process(), ["full"])
    assert whole.label_kinds == ("full",) and len(whole) == len(SIZES)
    for batch, name, size in zip(whole, names, SIZES, strict=True):
        members = draw_members(*size)
        np.testing.assert_array_equal(batch.image[0].movedim(0, -1), members["image"])
        np.testing.assert_array_equal(batch.target[0], members["target"])
        for store, levels in batch.maps.items():
            np.testing.assert_array_equal(levels[0], members[store])
        assert batch.tile_ids == (name,)
        assert batch.id_keys is None and (batch.color_factors == 1).all()
    parts = []
    for rank in range(2):
        dist = replace(single_process(), rank=rank, world_size=2)
        loader = build_eval_loader(config, tile_set, "train", dist, ["full"])
        tiles = [tile.id for image in loader.source_images for tile in image.tiles]
        assert tiles == [batch.tile_ids[0] for batch in loader]
        parts += tiles
    assert sorted(parts) == sorted(names)


def test_a_truncated_file_is_one_sentence(tile_set, capsys):
    path = map_path(store_folder(tile_set.root, "levels"), "t001")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    config = config_of(tile_set, "data.num_workers=2")
    try:
        with pytest.raises(SystemExit) as stopped:
            run_command(lambda: len(epochs(config, tile_set, (0, 0), (1, 0), (2, 0))) and None)
    finally:
        path.write_bytes(whole)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {path} is not whole: {len(whole) - 1000} bytes, its header says {len(whole)}; "
        "prepare or generate it again\n"
    )


def test_a_label_of_an_unknown_class_is_named_when_a_crop_shows_it(tile_set):
    other = replace(tile_set, classes=tile_set.classes[:40])
    with pytest.raises(DataError, match=r"t000\.tif holds class index 4\d, the data set has 40"):
        list(build_eval_loader(config_of(other), other, "train", single_process(), ["full"]))


def test_structure_is_checked_before_anything_is_built(data_root, tmp_path):
    tile_set = open_tile_set(data_root)

    def check(*overrides: str, trained_with=None):
        structure = make_config(data_root, tmp_path, *overrides).structure
        return check_structure(tile_set, structure, ["train", "val"], trained_with)

    assert check().keys() == {"superpixels"} and check("structure.control=off") == {}
    with pytest.raises(DataError, match=r"settings\.compactness: 5\.0 \| 10\.0"):
        check("structure.superpixels.compactness=5")
    with pytest.raises(DataError, match=r"weights_sha256: other \| None"):
        check(trained_with={"superpixels": {"weights_sha256": "other"}})


def test_the_note_is_for_what_training_never_went_without():
    absent = StructureConfig(modalities=("superpixels", "height"), absent=("height",))
    assert absence_note(absent, {"dropout": 0.0, "absent": []}) == (
        "note: height is absent, and the checkpoint was trained with structure.dropout=0, always "
        "with it"
    )
    assert absence_note(absent, {"dropout": 0.2, "absent": []}) is None
    assert absence_note(absent, {"dropout": 0.0, "absent": ["height"]}) is None
    assert absence_note(replace(absent, control="off"), {}) is None
    assert absence_note(replace(absent, absent=()), {}) is None


WORKERS = """
import os, signal, sys
import torch.multiprocessing as mp
from torch.utils.data import DataLoader
from datasets.loaders import end_workers_at_exit, leave_signals_to_the_main_process

options = {"num_workers": 2, "worker_init_fn": leave_signals_to_the_main_process}
end_workers_at_exit()
batches = iter(DataLoader(range(1000), persistent_workers=True, **options))
numbers = [int(next(batches)), int(next(batches))]  # both workers are there
for name in ("SIGTERM", "SIGINT"):
    for process in mp.active_children():
        os.kill(process.pid, getattr(signal, name))
numbers += [int(batch) for batch in batches]
print(sum(numbers), flush=True)
raise ArithmeticError("and the loader is still there")
"""


def test_workers_outlive_signals_and_end_with_the_program():
    done = subprocess.run(
        [sys.executable, "-c", WORKERS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == b"499500\n", done.stderr.decode()
    assert done.returncode == 1 and b"ArithmeticError: and the loader" in done.stderr
    assert b"killed by signal" not in done.stderr  # an error of PyTorch, which spared the others
