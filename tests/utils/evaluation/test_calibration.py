"""Calibration error against its definition, one pixel at a time."""

import warnings

import numpy as np
import pytest

from utils.evaluation import calibration as module
from utils.evaluation.calibration import NUM_BINS, calibration, calibration_counts


def logits_of(confidence):
    """Two classes, the first of which has these probabilities (above 1/2)."""
    confidence = np.asarray(confidence, float)
    return np.stack([np.log(confidence), np.log1p(-confidence)]).astype(np.float32)


def test_error_worked_out_by_hand():
    # Two pixels in the bin (9/15, 10/15], one right; two in (13/15, 14/15], both right.
    confidence = np.array([[0.62, 0.66, 0.9, 0.92]])
    target = np.array([[0, 1, 0, 0]], np.uint8)
    result = calibration(calibration_counts(logits_of(confidence), target, target * 0))
    assert result.error == pytest.approx(0.5 * abs(0.64 - 0.5) + 0.5 * abs(0.91 - 1), abs=1e-6)
    assert result.confidence == pytest.approx(confidence.mean(), abs=1e-6)
    assert result.accuracy == 0.75
    assert [i for i, n in enumerate(result.bin_pixels) if n] == [9, 13]
    assert result.bin_accuracy[9] == 0.5 and np.isnan(result.bin_accuracy[0])


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
    result = calibration(calibration_counts(logits, target, prediction))
    assert result.error == pytest.approx(error, abs=1e-6)
    assert result.accuracy == right.mean()
    assert sum(result.bin_pixels) == right.size


def test_a_sure_pixel_is_in_the_last_bin():
    sure = np.array([0.0, -1000.0], np.float32).reshape(2, 1, 1)
    one = np.zeros((1, 1), np.uint8)
    assert calibration_counts(sure, one, one)[NUM_BINS - 1].tolist() == [1, 1, 2**24]


def test_order_of_the_sums_does_not_matter():
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((3, 40, 40)).astype(np.float32)
    target = rng.integers(3, size=(40, 40)).astype(np.uint8)
    prediction = logits.argmax(0).astype(np.uint8)
    whole = calibration_counts(logits, target, prediction)
    halves = [slice(20, None), slice(None, 20)]
    parts = [calibration_counts(logits[:, h], target[h], prediction[h]) for h in halves]
    np.testing.assert_array_equal(whole, sum(parts))


def test_nothing_counted_is_nan_without_a_warning():
    target = np.full((4, 4), 255, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counts = calibration_counts(np.zeros((2, 4, 4), np.float32), target, target * 0)
        result = calibration(counts)
    assert not counts.any()
    assert np.isnan([result.error, result.confidence, result.accuracy]).all()


def test_logits_that_are_not_finite_have_no_confidence():
    logits = np.array([np.nan, 0.0], np.float32).reshape(2, 1, 1)
    one = np.zeros((1, 1), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counts = calibration_counts(logits, one, one)
    assert counts[0].tolist() == [1, 1, 0] and not counts[1:].any()
