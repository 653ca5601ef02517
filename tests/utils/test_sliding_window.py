import itertools

import pytest
import torch

from utils.sliding_window import predict_windows, window_weights
from utils.windows import window_starts


@pytest.mark.parametrize(
    ("length", "window", "overlap", "expected"),
    [
        (100, 100, 20, [0]),
        (7, 100, 20, [0]),
        (101, 100, 20, [0, 1]),
        (180, 100, 20, [0, 80]),
        (181, 100, 20, [0, 40, 81]),
        (10, 4, 0, [0, 3, 6]),
        (12, 4, 0, [0, 4, 8]),
    ],
)
def test_starts_by_hand(length, window, overlap, expected):
    starts = window_starts(length, window, overlap)
    assert starts == pytest.approx(expected, abs=1)
    assert starts[0] == 0 and starts[-1] == max(0, length - window)


@pytest.mark.parametrize("length", [1, 5, 63, 64, 65, 200, 511])
@pytest.mark.parametrize("overlap", [0, 1, 17, 63])
def test_windows_cover_everything_with_the_overlap_asked_for(length, overlap):
    starts = window_starts(length, 64, overlap)
    covered = {p for start in starts for p in range(start, min(start + 64, length))}
    assert covered == set(range(length))
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < step <= 64 - overlap for step in steps)


def test_weights_by_hand():
    weights = window_weights(1, 6, 2)
    torch.testing.assert_close(weights[0], torch.tensor([1, 2, 3, 3, 2, 1]) / 3 / 3)
    assert window_weights(9, 9, 4).min() > 0


@pytest.mark.parametrize("size", [(64, 64), (10, 200), (65, 64), (1, 130), (100, 90)])
def test_a_pointwise_network_gives_the_same_in_windows_as_at_once(size):
    logits = torch.randn(3, *size)

    def forward(windows):
        return torch.stack([logits[:, rows, columns] for rows, columns in windows])

    out = predict_windows(forward, size=size, window_px=64, overlap_px=16, batch_size=3)
    torch.testing.assert_close(out, logits)


def test_batches_hold_windows_of_one_size_and_no_more_than_asked():
    seen = []

    def forward(windows):
        seen.append(len(windows))
        return torch.ones(len(windows), 1, 8, 8)

    out = predict_windows(forward, size=(20, 20), window_px=8, overlap_px=2, batch_size=4)
    assert max(seen) <= 4 and sum(seen) == 9
    torch.testing.assert_close(out, torch.ones(1, 20, 20))
