"""SAM's weights: official names, hashes and layouts; no real weights are run here."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.structure import sam as sam_weights
from models.structure.sam import Sam, load_sam
from models.weights import official_sam
from tests.models.structure.small_sam import LOOSE, picture, random_sam, small_sam
from utils.errors import DataError, MissingDataError

CPU = torch.device("cpu")


def test_a_missing_file_says_which_from_where_and_under_which_licence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentence = (
        r"the weights of SAM vit_b are not at weights/sam_vit_b_01ec64\.pth; get "
        r"sam_vit_b_01ec64\.pth from https://dl\.fbaipublicfiles\.com/segment_anything/"
        r"sam_vit_b_01ec64\.pth \(licence: Apache-2\.0"
    )
    with pytest.raises(MissingDataError, match=sentence):
        load_sam("vit_b", None, CPU)
    with pytest.raises(MissingDataError, match=r"weights of SAM vit_h are not at .*none\.pth"):
        load_sam("vit_h", str(tmp_path / "none.pth"), CPU)


def test_an_official_name_with_other_bytes_is_refused(tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.write_bytes(b"part of it")
    with pytest.raises(DataError, match=r"is damaged: its SHA-256 should begin with ec2df627"):
        load_sam("vit_b", str(path), CPU)


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"mine\.pth cannot be read as PyTorch weights"):
        load_sam("vit_b", str(path), CPU)
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="holds something other than named tensors"):
        load_sam("vit_b", str(path), CPU)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(DataError, match=r"does not hold weights of SAM vit_b: .*1 unexpected"):
        load_sam("vit_b", str(path), CPU)


def test_a_fitting_file_is_loaded(tmp_path, monkeypatch):
    """The tiny network stands in for vit_b, whose layout is pinned below."""
    path, network = tmp_path / "mine.pth", random_sam()
    torch.save(network.state_dict(), path)

    monkeypatch.setitem(sam_weights.sam_model_registry, "vit_b", small_sam)
    loaded, digest = load_sam("vit_b", str(path), CPU)
    assert len(digest) == 64 and not loaded.training
    ours = Sam(network=loaded, weights_sha256=digest, **LOOSE).generate(picture())
    theirs = Sam(network=network, weights_sha256=None, **LOOSE).generate(picture())
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("model_type", "num_tensors", "num_bytes"),
    [("vit_b", 314, 375_042_383), ("vit_l", 482, 1_249_524_607), ("vit_h", 594, 2_564_550_879)],
)
def test_layouts_fill_the_official_files(model_type, num_tensors, num_bytes):
    """The files' published sizes are four bytes a parameter and a little for the archive."""
    with torch.device("meta"):
        weights = sam_weights.sam_model_registry[model_type]().state_dict()
    assert len(weights) == num_tensors
    overhead = num_bytes - 4 * sum(tensor.numel() for tensor in weights.values())
    assert 0 < overhead < 400 * num_tensors


WEIGHTS = Path(__file__).resolve().parents[3] / "weights" / official_sam("vit_b").file


@pytest.mark.weights
@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"weights/{WEIGHTS.name} is not at hand")
def test_the_official_vit_b_finds_a_square():
    image = np.full((128, 128, 3), 90, np.uint8)
    image[40:90, 40:90] = (220, 40, 30)
    network, digest = load_sam("vit_b", str(WEIGHTS), CPU)
    ids = Sam(network=network, weights_sha256=digest, points_per_side=8).generate(image)
    square = ids[64, 64]
    assert square > 0 and abs(int((ids == square).sum()) - 2500) < 250


def small_file(path, dtype=torch.float32):
    """vit_b's full layout in a few kilobytes: every tensor is one number, repeated."""
    with torch.device("meta"):
        layout = sam_weights.sam_model_registry["vit_b"]().state_dict()
    weights = {
        name: torch.tensor(float(k), dtype=dtype).expand(tensor.shape)
        for k, (name, tensor) in enumerate(layout.items())
    }
    torch.save(weights, path)
    return weights


def test_load_gives_the_weights_of_a_vit_b_file_and_keeps_the_buffers(tmp_path):
    weights = small_file(tmp_path / "mine.pth")
    network, _ = load_sam("vit_b", str(tmp_path / "mine.pth"), CPU)
    loaded = network.state_dict()
    assert list(loaded) == list(weights)
    for name, tensor in weights.items():
        assert torch.equal(loaded[name], tensor), name
    assert network.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


def test_load_turns_half_precision_into_single(tmp_path):
    small_file(tmp_path / "half.pth", torch.float16)
    network, _ = load_sam("vit_b", str(tmp_path / "half.pth"), CPU)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone():
    before = torch.random.get_rng_state()
    first, digest = load_sam("vit_b", "random", CPU)
    assert torch.equal(torch.random.get_rng_state(), before) and digest == "random"
    second, _ = load_sam("vit_b", "random", CPU)
    theirs = second.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in first.state_dict().items())
    assert first.image_encoder.blocks[0].attn.rel_pos_h.std() > 0
