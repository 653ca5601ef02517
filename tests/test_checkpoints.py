"""The checkpoints that are shipped: small, described, and worth their score."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infer import load_predictor
from utils.files import sha256_of

ROOT = Path(__file__).parents[1]
VAL = ROOT.parent / "shared" / "data" / "dubai-aerial" / "val"
COLORS = ((60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41))


@pytest.mark.parametrize("path", sorted((ROOT / "checkpoints").glob("*.pth")), ids=lambda p: p.stem)
def test_a_checkpoint_is_small_described_and_free_of_paths_of_a_machine(path: Path):
    assert path.stat().st_size <= 9e6
    card = (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")
    assert f"## {path.name}" in card and sha256_of(path) in card
    content = path.read_bytes()
    assert b"/tmp" not in content and b"/home" not in content and str(ROOT).encode() not in content


def test_the_checkpoint_without_vits_needs_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no weights/, no data/
    predict = load_predictor(ROOT / "checkpoints" / "dubai-small.pth", device="cpu")
    sea = np.full((96, 128, 3), (10, 60, 50), np.uint8)  # dark green, as the water of the set
    labels = predict(sea)
    assert labels.shape == (96, 128) and (labels == 4).mean() > 0.9


@pytest.mark.skipif(not VAL.is_dir(), reason="../shared/data is not at hand")
def test_the_checkpoint_scores_on_validation_images_as_eval_does():
    predict = load_predictor(ROOT / "checkpoints" / "dubai-small.pth", device="cpu")
    correct = total = 0
    for image in sorted((VAL / "images").glob("tile[12]_*.jpg")):
        mask = np.asarray(Image.open(VAL / "masks" / f"{image.stem}.png").convert("RGB"))
        labels = predict(np.asarray(Image.open(image).convert("RGB")))
        for index, color in enumerate(COLORS):
            pixels = (mask == color).all(-1)
            correct += (labels[pixels] == index).sum()
            total += pixels.sum()
    assert correct / total == pytest.approx(0.780, abs=0.005)  # as eval.py, these four images
