"""Our mask generator against the package's own, on fixed random weights."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from segment_anything.utils.transforms import ResizeLongestSide

from benchmarks.lively_sam import enliven
from configs.schema import SamConfig
from models.structure import sam
from models.structure.sam import Sam, load_sam
from models.structure.sam_encoder import encode
from models.structure.sam_masks import paint
from models.structure.segments import canonical
from models.weights import official_sam
from tests.models.literal_paint import paint_literally
from tests.models.structure.small_sam import LOOSE, find_masks, picture, random_sam, small_sam
from utils.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    return random_sam()


def everything(network, **settings):
    return Sam(SamConfig(**settings), network)


def at_full_size(masks, crops, size):
    """Logits of every mask at the image's size, ``(K, H, W)``; far below 0 outside its crop."""
    whole = np.full((len(masks), *size), -1e9, np.float32)
    for index, number in enumerate(masks.crop):
        crop = crops[number]
        whole[index][crop.box.slices] = crop.logits(masks.coarse[index : index + 1])[0]
    return whole


def assert_equals_the_package(network, image, **settings):
    generator = everything(network, **settings)
    package = SamAutomaticMaskGenerator(network, **settings)
    records = package.generate(image)
    with torch.no_grad():
        masks, crops = generator._find([image])[0]
    size = image.shape[:2]
    assert len(masks) == len(records) and 30 <= len(records) <= 300
    boxes = np.array([record["bbox"] for record in records])
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_allclose(masks.boxes, boxes, atol=1e-4)
    np.testing.assert_allclose(masks.iou, [r["predicted_iou"] for r in records], atol=1e-4)
    corners = [(crops[number].box.left_px, crops[number].box.top_px) for number in masks.crop]
    assert corners == [tuple(record["crop_box"][:2]) for record in records]
    logits = at_full_size(masks, crops, size)
    theirs = np.stack([record["segmentation"] for record in records])
    doubtful = np.abs(logits) < 1e-3
    np.testing.assert_array_equal(theirs[~doubtful], logits[~doubtful] > 0)
    # A score of pixel counts is right to the pixels that lie on a threshold.
    near = [np.abs(logits - sign * package.stability_score_offset) < 1e-3 for sign in (1, -1)]
    union = np.maximum((logits > -package.stability_score_offset).sum((1, 2)), 1)
    doubt = (near[0] | near[1]).sum((1, 2)) / union
    error = np.abs(masks.stability.numpy() - [r["stability_score"] for r in records])
    assert (np.nan_to_num(error) <= 1e-4 + doubt).all() and (doubt == 0).mean() > 0.5
    painted = paint_literally(np.where(doubtful, logits > 0, theirs), size)
    np.testing.assert_array_equal(canonical(paint(masks, crops, size).numpy()), canonical(painted))
    assert painted.max() > 3  # more than a few masks are to be seen


NEARLY_ALL = {**LOOSE, "stability_score_thresh": 0.1, "box_nms_thresh": 0.99}
NEARLY_ALL["crop_nms_thresh"] = 0.95


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((48, 64), {**NEARLY_ALL, "points_per_side": 10}),
        ((100, 37), {**NEARLY_ALL, "points_per_side": 14, "crop_n_layers": 1}),
        (
            (120, 150),
            {
                **NEARLY_ALL,
                "points_per_side": 12,
                "points_per_batch": 7,
                "pred_iou_thresh": 0.05,
                "stability_score_offset": 3.0,
                "crop_n_layers": 2,
                "crop_overlap_ratio": 0.5,
                "crop_n_points_downscale_factor": 2,
            },
        ),
    ],
)
def test_masks_and_map_are_those_of_the_package(network, shape, settings):
    assert_equals_the_package(network, picture(*shape), **settings)


@pytest.mark.slow
def test_masks_of_vit_b_are_those_of_the_package():
    """The official architecture, with few points: the package needs a second for four of them."""
    image = np.kron(picture(12, 16), np.ones((30, 30, 1), np.uint8))  # 360 x 480
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = sam_model_registry["vit_b"]()
    pixels = torch.from_numpy(ResizeLongestSide(1024).apply_image(image)).permute(2, 0, 1)
    enliven(network, network.preprocess(pixels.unsqueeze(0)))
    settings = {**LOOSE, "points_per_side": 6, "stability_score_thresh": 0.0}
    settings["box_nms_thresh"] = 0.99
    torch.set_num_threads(2)
    try:
        assert_equals_the_package(network, image, **settings)
    finally:
        torch.set_num_threads(1)


def test_no_mask_in_any_crop_is_an_empty_map(network):
    for crop_n_layers in (0, 1):
        strict = {**LOOSE, "pred_iou_thresh": 1e9, "crop_n_layers": crop_n_layers}
        ids = everything(network, **strict).generate(picture(40, 56))
        np.testing.assert_array_equal(ids, np.zeros((40, 56)))


def test_thresholds_of_zero_keep_all_masks_as_the_package_does(network):
    """0 means off, even for empty masks, whose stability is 0/0."""
    settings = {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    settings["box_nms_thresh"] = 1.0
    ours = find_masks(everything(network, **settings), picture())
    records = SamAutomaticMaskGenerator(network, **settings).generate(picture())
    assert len(ours) == len(records) == 3 * 4 * 4
    assert (ours.areas == 0).any()


def test_a_batch_gives_what_single_images_give(network):
    generator, alone = (everything(network, **LOOSE, crop_n_layers=1) for _ in range(2))
    generator._encoder_batch = 3  # as on a CUDA device
    images = [picture(48, 64), picture(30, 90)]
    for image, ids in zip(images, generator.generate_batch(images), strict=True):
        np.testing.assert_array_equal(ids, alone.generate(image))


def test_out_of_memory_halves_the_prompts_and_the_pictures_until_one(network, monkeypatch):
    usual = everything(network, **LOOSE).generate(picture())
    generator = everything(network, **LOOSE, points_per_batch=64)
    generator._encoder_batch = 4
    decode, tried, encoded, capacity = generator._decoder.decode, [], [], 16

    def small_device(embedding, points, thresh, count):
        tried.append(count)
        if count > capacity:
            raise torch.OutOfMemoryError("no memory")
        return decode(embedding, points, thresh, count)

    def small_encoder(encoder, pictures):
        encoded.append(len(pictures))
        if len(pictures) > 1:
            raise torch.OutOfMemoryError("no memory")
        return encode(encoder, pictures)

    monkeypatch.setattr(generator._decoder, "decode", small_device)
    monkeypatch.setattr("models.structure.sam.encode", small_encoder)
    for ids in generator.generate_batch([picture()] * 4):
        np.testing.assert_array_equal(ids, usual)
    assert tried == [64, 32, 16, 16, 16, 16] and encoded == [4, 2, 1, 1, 1, 1]
    capacity = 0
    with pytest.raises(DataError, match=r"^SAM does not fit .* with one image and one prompt at a"):
        generator.generate(picture())


def test_the_defaults_of_the_recipe_are_those_of_the_package():
    packages = inspect.signature(SamAutomaticMaskGenerator).parameters
    settings = {name: value for name, value in vars(SamConfig()).items() if name in packages}
    assert settings == {name: packages[name].default for name in settings} and len(settings) == 10


@pytest.mark.parametrize(
    ("encoder", "size"),
    [
        ({}, (64, 64)),
        ({"window_size": 4, "use_rel_pos": False}, (64, 64)),
        ({"window_size": 5, "global_attn_indexes": (), "qkv_bias": False}, (64, 64)),
        # More tokens than the table of relative positions was made for: it is interpolated.
        ({"window_size": 0, "use_abs_pos": False}, (96, 80)),
    ],
    ids=str,
)
def test_the_encoder_is_the_packages(encoder, size):
    network = random_sam(**encoder)
    pictures = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = network.image_encoder(pictures)
    torch.testing.assert_close(encode(network.image_encoder, pictures), expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.5


def test_bf16_changes_the_maps_little(network):
    image = picture(64, 64)
    exact = find_masks(everything(network, **LOOSE), image)
    rough = find_masks(Sam(SamConfig(**LOOSE), network, dtype=torch.bfloat16), image)
    assert rough.coarse.dtype == torch.float32
    assert not torch.equal(rough.iou, exact.iou[: len(rough.iou)])  # it was bf16
    wide, found = exact.boxes.float(), rough.boxes.float()
    nearest = torch.cdist(wide, found).amin(1)
    assert (nearest <= 2).float().mean() > 0.8


def test_files_are_loaded_as_single_precision(tmp_path, monkeypatch):
    """The tiny network stands in for vit_b."""
    monkeypatch.setitem(sam.sam_model_registry, "vit_b", small_sam)
    path, expected = tmp_path / "mine.pth", random_sam().half().state_dict()
    torch.save(expected, path)
    loaded, digest = load_sam(SamConfig(model_type="vit_b", checkpoint=str(path)), CPU)
    assert len(digest) == 64 and not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert list(loaded.state_dict()) == list(expected)
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[name].float()), name
    assert loaded.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone(monkeypatch):
    monkeypatch.setitem(sam.sam_model_registry, "vit_b", small_sam)
    before = torch.random.get_rng_state()
    config = SamConfig(model_type="vit_b", checkpoint="random")
    first, digest = load_sam(config, CPU)
    assert torch.equal(torch.random.get_rng_state(), before) and digest == "random"
    theirs = load_sam(config, CPU)[0].state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in first.state_dict().items())
    assert first.image_encoder.blocks[0].attn.rel_pos_h.std() > 0


WEIGHTS = Path(__file__).resolve().parents[3] / "weights" / official_sam("vit_b").file


@pytest.mark.weights
@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"weights/{WEIGHTS.name} is not at hand")
def test_the_official_vit_b_finds_a_square():
    image = np.full((128, 128, 3), 90, np.uint8)
    image[40:90, 40:90] = (220, 40, 30)
    config = SamConfig(model_type="vit_b", checkpoint=str(WEIGHTS), points_per_side=8)
    ids = Sam(config, *load_sam(config, CPU)).generate(image)
    square = ids[64, 64]
    assert square > 0 and abs(int((ids == square).sum()) - 2500) < 250
