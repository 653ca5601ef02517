"""Calibration error against its definition, one pixel at a time."""

import warnings

import numpy as np
import pytest

from utils.evaluation import calibration as module
from utils.evaluation.calibration import NUM_BINS, calibration, calibration_counts


@pytest.mark.parametrize("strip_px", [1, 50, 10**6])
def test_equals_the_definition_on_random_logits(monkeypatch, strip_px):
    monkeypatch.setattr(module, "_STRIP_PX", strip_px)
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((5, 30, 41))).astype(np.float32)
    target = rng.integers(5, size=(30, 41)).astype(np.uint8)
    target[rng.random(target.shape) < 0.2] = 255
    prediction = logits.argmax(0).astype(np.uint8)
    exact = np.exp(logits.astype(float))
    confidence = (exact / exact.sum(0)).max(0)[target != 255]
    right = (prediction == target)[target != 255]
    counts = calibration_counts(logits, target, prediction)
    result, error = calibration(counts), 0.0
    for i in range(NUM_BINS):
        chosen = (confidence > i / NUM_BINS) & (confidence <= (i + 1) / NUM_BINS)
        if chosen.any():
            means = confidence[chosen].mean(), right[chosen].mean()
            error += chosen.mean() * abs(means[0] - means[1])
            assert (result.bin_confidence[i], result.bin_accuracy[i]) == pytest.approx(means)
        assert result.bin_pixels[i] == chosen.sum()
    assert result.error == pytest.approx(error, abs=1e-6)
    assert result.confidence == pytest.approx(confidence.mean(), abs=1e-6)
    assert result.accuracy == right.mean()
    empty = [i for i, n in enumerate(result.bin_pixels) if n == 0]
    assert empty and np.isnan([result.bin_accuracy[i] for i in empty]).all()
    # Sums do not depend on their order.
    parts = slice(20, None), slice(None, 20)
    again = (calibration_counts(logits[:, p], target[p], prediction[p]) for p in parts)
    np.testing.assert_array_equal(counts, sum(again))


@pytest.mark.parametrize(
    ("logits", "label", "bin_number", "expected"),
    [
        ([0.0, -1000.0], 0, NUM_BINS - 1, [1, 1, 2**24]),  # certain
        ([np.nan, 0.0], 0, 0, [1, 1, 0]),
        ([0.0, 0.0], 255, 0, [0, 0, 0]),
    ],
)
def test_extreme_pixels_are_counted_without_a_warning(logits, label, bin_number, expected):
    target = np.full((1, 1), label, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = np.array(logits, np.float32).reshape(2, 1, 1)
        counts = calibration_counts(given, target, target * 0)
        result = calibration(counts)
    assert counts[bin_number].tolist() == expected and counts.sum() == sum(expected)
    if label == 255:
        assert np.isnan([result.error, result.confidence, result.accuracy]).all()
