import torch

from configs.schema import EvalConfig
from datasets.build import build_eval_loader
from datasets.tiles import open_tile_set
from utils.evaluation import Predictor, evaluate
from utils.precision import Precision


class ByBrightness(torch.nn.Module):
    """Class 0 where the image is dark, class 1 where it is bright; structure is not used."""

    def forward(self, image, structure):
        brightness = image.mean(1, keepdim=True)
        return torch.cat([0.5 - brightness, brightness - 0.5, *[-brightness - 9] * 4], 1)


def predictor(window_px=40):
    cpu = torch.device("cpu")
    config = EvalConfig(window_px=window_px, overlap_px=8, batch_size=3)
    return Predictor(
        ByBrightness(), lambda image, maps, other: image, Precision("fp32", cpu), config, cpu
    )


def test_predicts_whole_images_in_windows():
    image = torch.randint(0, 256, (1, 3, 97, 50), dtype=torch.uint8)
    logits = predictor()(image, {})
    expected = ByBrightness()(image / 255, None)[0]
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-5)


def test_confusion_counts_every_valid_pixel_once(config, data_root, dist):
    tile_set = open_tile_set(data_root)
    loader = build_eval_loader(config, tile_set, "val", dist)
    seen = []
    confusion = evaluate(predictor(), loader, 6, dist, lambda *given: seen.append(given))
    targets = [tile_set.read_target(tile_id) for tile_id in tile_set.split("val")]
    assert confusion.dtype == torch.int64
    assert confusion.sum() == sum((target != 255).sum() for target in targets)
    batch, prediction, _ = seen[0]
    assert prediction.shape == batch.target.shape[1:]
    wrong = sum(((b.target[0] != p) & (b.target[0] != 255)).sum() for b, p, _ in seen)
    assert confusion.sum() - confusion.diagonal().sum() == wrong
    own = [counts.sum() for _, _, counts in seen]
    assert own == [(target != 255).sum() for target in targets]
