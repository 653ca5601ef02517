"""The loaders: the same batches whatever the processes, whole tiles, errors, memory."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from configs.schema import Config
from datasets.dataset import Batch, prepare_inputs
from datasets.encodings import StructureEncoder, shuffle_ids
from datasets.loaders import build_eval_loader, build_train_loader
from datasets.rasters import write_raster
from datasets.structure_maps import map_path, store_folder
from datasets.tile_set import TileSet
from tests.conftest import make_config, single_process
from tests.datasets.coordinates import draw_members, write_set
from utils.errors import run_command

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


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    assert batch.id_keys is not None
    return {
        "image": batch.image,
        "target": batch.target,
        "color_factors": batch.color_factors,
        "present": batch.present,
        "id_keys": batch.id_keys,
        **batch.maps,
    }


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert [batch.tile_ids for batch in ours] == [batch.tile_ids for batch in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name, tensor in tensors(one).items():
            assert torch.equal(tensor, tensors(other)[name]), name


def epochs(config: Config, tile_set: TileSet, *positions: tuple[int, int]) -> list[Batch]:
    loader, batches = build_train_loader(config, tile_set, single_process())
    found = []
    for epoch, start in positions:
        batches.set_position(epoch, start)
        found += list(loader)
    return found


@pytest.mark.parametrize("num_workers", [1, 3])
def test_batches_are_the_same_for_any_number_of_processes(tile_set, num_workers):
    workers = config_of(tile_set, f"data.num_workers={num_workers}")
    ours = epochs(workers, tile_set, (0, 0), (1, 0))
    assert len(ours) == 8
    assert_equal(ours, epochs(config_of(tile_set), tile_set, (0, 0), (1, 0)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_epoch_goes_on_with_the_same_batches(tile_set, num_workers):
    config = config_of(tile_set, f"data.num_workers={num_workers}")
    straight = epochs(config, tile_set, (0, 0), (1, 0))
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


def test_batches_are_as_small_as_on_disk_and_in_memory_that_is_shared(tile_set):
    config = config_of(tile_set, "data.num_workers=1")
    for batch in epochs(config, tile_set, (0, 0)):
        assert batch.image.dtype == batch.target.dtype == torch.uint8
        assert {levels.dtype for levels in batch.maps.values()} == {torch.uint16}
        assert all(tensors(batch)[name].is_shared() for name in ("image", "target", "ids"))
        # Channels-last from the file to the network: nobody reorders the bytes.
        assert batch.image.movedim(1, -1).is_contiguous()


@pytest.mark.parametrize("build", ["train", "eval"])
def test_processes_live_on_from_epoch_to_epoch(tile_set, build):
    config = config_of(tile_set, "data.num_workers=2")
    loader: DataLoader[Batch]
    if build == "train":
        loader, _ = build_train_loader(config, tile_set, single_process())
    else:
        loader = build_eval_loader(config, tile_set, "train", single_process(), ["full"]).batches
    pids = []
    for _ in range(2):
        assert len(list(loader)) == (4 if build == "train" else len(SIZES))
        assert loader._iterator is not None
        pids.append([worker.pid for worker in loader._iterator._workers])
    assert pids[0] == pids[1] and len(set(pids[0])) == 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_whole_tiles_of_any_size_are_as_in_their_files(tile_set, num_workers):
    config = config_of(tile_set, f"data.num_workers={num_workers}")
    loader = build_eval_loader(config, tile_set, "train", single_process(), ["full"])
    for batch, size in zip(loader, SIZES, strict=True):
        members = draw_members(*size)
        np.testing.assert_array_equal(batch.image[0].movedim(0, -1), members["image"])
        np.testing.assert_array_equal(batch.target[0], members["target"])
        np.testing.assert_array_equal(batch.maps["ids"][0], members["ids"])
        np.testing.assert_array_equal(batch.maps["levels"][0], members["levels"])
        assert batch.id_keys is None and (batch.color_factors == 1).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_truncated_file_is_one_sentence(tile_set, capsys, num_workers):
    path = map_path(store_folder(tile_set.root, "levels"), "t001")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    config = config_of(tile_set, f"data.num_workers={num_workers}")
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


def test_a_label_of_an_unknown_class_is_named_when_a_crop_shows_it(data_root, tmp_path):
    tile_set = write_set(tmp_path / "set", [(40, 40)])
    other = replace(tile_set, classes=tile_set.classes[:40])
    config = config_of(tile_set, "data.rare_class_share=0")
    with pytest.raises(Exception, match=r"t000\.tif holds class index 4\d, the data set has 40"):
        list(build_eval_loader(config, other, "train", single_process(), ["full"]))


def test_ids_are_shuffled_on_the_device_for_segments_only(tile_set):
    config = config_of(
        tile_set,
        "structure.superpixels.encodings=[mean_color,color_by_id]",
        "structure.dropout=0",
    )
    batch = epochs(config, tile_set, (0, 0))[0]
    assert batch.id_keys is not None
    encoder = StructureEncoder(config.structure)
    _, shuffled, _ = prepare_inputs(batch, encoder)
    _, plain, _ = prepare_inputs(replace(batch, id_keys=None), encoder)
    torch.testing.assert_close(shuffled[:, :3], plain[:, :3])
    assert torch.equal(shuffled[:, 6:], plain[:, 6:])  # the levels
    ids = shuffle_ids(batch.maps["ids"], batch.id_keys)
    again = {**batch.maps, "ids": ids}
    _, expected, _ = prepare_inputs(replace(batch, id_keys=None, maps=again), encoder)
    assert torch.equal(shuffled, expected)
    assert (shuffled[:, 3:6] != plain[:, 3:6]).float().mean() > 0.5


def test_no_ids_are_shuffled_unless_asked_for(tile_set):
    config = config_of(tile_set, "structure.shuffle_ids=false")
    loader, _ = build_train_loader(config, tile_set, single_process())
    assert next(iter(loader)).id_keys is None


def test_the_eroded_labels_have_a_folder_of_their_own(tile_set: TileSet, tmp_path: Path):
    tile_id = tile_set.split("train")[0]
    path = tile_set.target_path(tile_id, "eroded")
    assert path == tile_set.root / "labels_eroded" / f"{tile_id}.tif"
    eroded = np.full((90, 120), 255, np.uint8)
    write_raster(path, eroded)
    np.testing.assert_array_equal(tile_set.read_target(tile_id, "eroded"), eroded)
    assert (tile_set.read_target(tile_id) != 255).all()


WORKERS = """
import os, signal, sys
import torch.multiprocessing as mp
from torch.utils.data import DataLoader
from datasets.loaders import end_workers_at_exit, leave_signals_to_the_main_process

options = {"num_workers": 2, "worker_init_fn": leave_signals_to_the_main_process}
end_workers_at_exit()
batches = iter(DataLoader(range(1000), persistent_workers=True, **options))
numbers = [int(next(batches)), int(next(batches))]  # both workers are there
for process in mp.active_children():
    os.kill(process.pid, getattr(signal, sys.argv[1]))
numbers += [int(batch) for batch in batches]
print(sum(numbers), flush=True)
raise ArithmeticError("and the loader is still there")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_workers_outlive_a_signal_and_end_with_the_program(name):
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, name],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == b"499500\n", done.stderr.decode()
    assert done.returncode == 1 and b"ArithmeticError: and the loader" in done.stderr
