"""Calibration error against its definition, one pixel at a time."""

import warnings

import numpy as np
import pytest

from utils.evaluation import calibration as module
from utils.evaluation.calibration import NUM_BINS, calibration, calibration_counts


def test_error_worked_out_by_hand():
    # Two pixels in the bin (9/15, 10/15], one right; two in (13/15, 14/15], both right.
    confidence = np.array([[0.62, 0.66, 0.9, 0.92]])  # of the first of two classes
    logits = np.stack([np.log(confidence), np.log1p(-confidence)]).astype(np.float32)
    target = np.array([[0, 1, 0, 0]], np.uint8)
    result = calibration(calibration_counts(logits, target, target * 0))
    assert result.error == pytest.approx(0.5 * abs(0.64 - 0.5) + 0.5 * abs(0.91 - 1), abs=1e-6)
    assert result.confidence == pytest.approx(confidence.mean(), abs=1e-6)
    assert result.accuracy == 0.75
    assert [i for i, n in enumerate(result.bin_pixels) if n] == [9, 13]
    assert result.bin_accuracy[9] == 0.5 and np.isnan(result.bin_accuracy[0])
    assert result.bin_confidence[9] == pytest.approx(0.64, abs=1e-6)


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
    error = 0.0
    for i in range(NUM_BINS):
        chosen = (confidence > i / NUM_BINS) & (confidence <= (i + 1) / NUM_BINS)
        if chosen.any():
            error += chosen.mean() * abs(confidence[chosen].mean() - right[chosen].mean())
    counts = calibration_counts(logits, target, prediction)
    result = calibration(counts)
    assert result.error == pytest.approx(error, abs=1e-6)
    assert result.accuracy == right.mean()
    assert sum(result.bin_pixels) == right.size
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
