"""SAM with small random weights, against the package itself; no real weights are run here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from segment_anything.modeling import (
    Sam as SamNetwork,
)

from configs.schema import SamConfig
from models.generators import sam
from models.generators.segment_map import canonical
from utils.errors import DataError, MissingDataError

CPU = torch.device("cpu")
LOOSE = {
    "points_per_side": 4,
    "pred_iou_thresh": -10.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 0.95,
}


def small_sam():
    """A SAM of 64 px."""
    return SamNetwork(
        ImageEncoderViT(
            img_size=64,
            patch_size=16,
            embed_dim=32,
            depth=1,
            num_heads=2,
            out_chans=32,
            use_rel_pos=True,
            window_size=0,
        ),
        PromptEncoder(
            embed_dim=32, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=4
        ),
        MaskDecoder(
            transformer_dim=32,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=32, num_heads=2),
            iou_head_hidden_dim=16,
        ),
    )


@pytest.fixture(scope="module")
def network():
    """Random weights that give masks of many shapes."""
    torch.manual_seed(3)
    network = small_sam().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def picture(height=48, width=64):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_same_image_gives_the_same_map(network):
    generator = sam.Sam(network=network, weights_sha256=None, **LOOSE)
    assert np.array_equal(generator.generate(picture()), generator.generate(picture()))


def test_crops_work_too(network):
    generator = sam.Sam(network=network, weights_sha256=None, **LOOSE, crop_n_layers=1)
    assert generator.generate(picture(64, 64)).max() > 0


def test_a_missing_file_says_which_from_where_and_under_which_licence(tmp_path):
    sentence = (
        r"structure\.sam\.checkpoint is not set: SAM vit_b needs its weights; download "
        r"https://dl\.fbaipublicfiles\.com/segment_anything/sam_vit_b_01ec64\.pth \(Apache-2\.0\)"
    )
    with pytest.raises(MissingDataError, match=sentence):
        sam.load_sam("vit_b", None, CPU)
    with pytest.raises(MissingDataError, match=r"no file .*none\.pth: SAM vit_h needs"):
        sam.load_sam("vit_h", tmp_path / "none.pth", CPU)


def test_an_official_name_with_other_bytes_is_refused(tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.write_bytes(b"part of it")
    with pytest.raises(DataError, match=r"is not the official file of this name, or only part"):
        sam.load_sam("vit_b", path, CPU)


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"mine\.pth cannot be read as PyTorch weights"):
        sam.load_sam("vit_b", path, CPU)
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="holds something else than named tensors"):
        sam.load_sam("vit_b", path, CPU)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(DataError, match=r"does not hold SAM vit_b weights: .*1 unexpected"):
        sam.load_sam("vit_b", path, CPU)


def test_weights_of_another_size_are_recognised(tmp_path, monkeypatch):
    with torch.device("meta"):
        weights = sam.sam_model_registry["vit_l"]().state_dict()
    monkeypatch.setattr(sam, "_read_weights", lambda path: weights)
    (tmp_path / "mine.pth").touch()
    with pytest.raises(DataError, match=r"holds SAM vit_l weights and the recipe says vit_b: set"):
        sam.load_sam("vit_b", tmp_path / "mine.pth", CPU)


def test_a_fitting_file_is_loaded(tmp_path, monkeypatch, network):
    """The tiny network stands in for vit_b, whose layout is pinned below."""
    path = tmp_path / "mine.pth"
    torch.save(network.state_dict(), path)

    monkeypatch.setitem(sam.sam_model_registry, "vit_b", small_sam)
    loaded, digest = sam.load_sam("vit_b", path, CPU)
    assert len(digest) == 64 and not loaded.training
    ours = sam.Sam(network=loaded, weights_sha256=digest, **LOOSE).generate(picture())
    theirs = sam.Sam(network=network, weights_sha256=None, **LOOSE).generate(picture())
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("model_type", "num_tensors", "num_bytes"),
    [("vit_b", 314, 375_042_383), ("vit_l", 482, 1_249_524_607), ("vit_h", 594, 2_564_550_879)],
)
def test_layouts_fill_the_official_files(model_type, num_tensors, num_bytes):
    """The files' published sizes are four bytes a parameter and a little for the archive."""
    with torch.device("meta"):
        weights = sam.sam_model_registry[model_type]().state_dict()
    assert len(weights) == num_tensors
    overhead = num_bytes - 4 * sum(tensor.numel() for tensor in weights.values())
    assert 0 < overhead < 400 * num_tensors


WEIGHTS = Path(__file__).resolve().parents[3] / "weights" / sam.RELEASES["vit_b"].file


@pytest.mark.weights
@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"weights/{WEIGHTS.name} is not at hand")
def test_the_official_vit_b_finds_a_square():
    image = np.full((128, 128, 3), 90, np.uint8)
    image[40:90, 40:90] = (220, 40, 30)
    network, digest = sam.load_sam("vit_b", WEIGHTS, CPU)
    ids = sam.Sam(network=network, weights_sha256=digest, points_per_side=8).generate(image)
    square = ids[64, 64]
    assert square > 0 and abs(int((ids == square).sum()) - 2500) < 250


@pytest.mark.parametrize("shape", [(40, 56), (56, 40), (64, 64), (9, 100)])
def test_the_sam_map_equals_a_pixel_by_pixel_painting(shape, network):
    image = picture(*shape)
    records = SamAutomaticMaskGenerator(network, **LOOSE).generate(image)
    masks = [record["segmentation"] for record in records]
    keys = [(mask.sum(), (~mask).ravel().tolist()) for mask in masks]
    expected = np.zeros(shape, dtype=int)
    for pixel in np.ndindex(shape):
        over = [k for k in range(len(masks)) if masks[k][pixel]]
        expected[pixel] = 1 + min(over, key=keys.__getitem__) if over else 0
    ids = sam.Sam(network=network, weights_sha256=None, **LOOSE).generate(image)
    np.testing.assert_array_equal(ids, canonical(expected))


@pytest.mark.parametrize("crop_n_layers", [0, 1])
def test_no_mask_in_any_crop_is_an_empty_map(crop_n_layers, network):
    strict = {**LOOSE, "pred_iou_thresh": 1e9, "crop_n_layers": crop_n_layers}
    ids = sam.Sam(network=network, weights_sha256=None, **strict).generate(picture(40, 56))
    np.testing.assert_array_equal(ids, np.zeros((40, 56)))


def small_file(path, dtype=torch.float32):
    """vit_b's full layout in a few kilobytes: every tensor is one number, repeated."""
    with torch.device("meta"):
        layout = sam.sam_model_registry["vit_b"]().state_dict()
    weights = {
        name: torch.tensor(float(k), dtype=dtype).expand(tensor.shape)
        for k, (name, tensor) in enumerate(layout.items())
    }
    torch.save(weights, path)
    return weights


def test_load_gives_the_weights_of_a_vit_b_file_and_keeps_the_buffers(tmp_path):
    weights = small_file(tmp_path / "mine.pth")
    network, _ = sam.load_sam("vit_b", tmp_path / "mine.pth", CPU)
    loaded = network.state_dict()
    assert list(loaded) == list(weights)
    for name, tensor in weights.items():
        assert torch.equal(loaded[name], tensor), name
    assert network.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


def test_load_turns_half_precision_into_single(tmp_path):
    small_file(tmp_path / "half.pth", torch.float16)
    network, _ = sam.load_sam("vit_b", tmp_path / "half.pth", CPU)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


def test_the_defaults_are_those_of_the_recipe_and_of_the_package(network):
    ours = vars(sam.Sam(network=network, weights_sha256=None)._generator)
    packages = vars(SamAutomaticMaskGenerator(network))
    names = packages.keys() - {"predictor", "point_grids"}
    assert {name: ours[name] for name in names} == {name: packages[name] for name in names}
    for name in names - {"min_mask_region_area", "output_mode"}:
        assert ours[name] == getattr(SamConfig(), name), name
