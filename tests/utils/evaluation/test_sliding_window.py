import itertools

import pytest
import torch

from benchmarks.bench import Bench
from utils.boxes import window_starts
from utils.evaluation.sliding_window import predict_strips, window_shares

SIZES = [(64, 64), (10, 200), (65, 64), (1, 130), (130, 1), (1, 1), (100, 90), (300, 65)]


def join(forward, size, **settings):
    """Logits of the whole image, and the rows of the strips."""
    strips = [*predict_strips(forward, size=size, **settings)]
    return torch.cat([logits for _, logits in strips], 1), [rows for rows, _ in strips]


def pointwise(logits):
    """A network that says of a pixel what it says of it in any window."""
    return lambda windows: torch.stack([logits[:, rows, columns] for rows, columns in windows])


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


def test_shares_by_hand():
    # Windows of 6 px at 0 and 4; falling over 2 px, each weighs 1 2 3 3 2 1 thirds.
    shares = window_shares(10, 6, 2)
    assert shares[0].tolist() == pytest.approx([1, 1, 1, 1, 2 / 3, 1 / 3])
    assert shares[4].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])


@pytest.mark.parametrize("length", [1, 5, 63, 64, 65, 200, 511])
@pytest.mark.parametrize("overlap", [0, 1, 17, 63])
def test_shares_sum_to_one_and_are_one_where_a_window_is_alone(length, overlap):
    total, number = torch.zeros(length), torch.zeros(length)
    shares = window_shares(length, 64, overlap)
    for start, share in shares.items():
        assert share.min() > 0
        total[start : start + len(share)] += share
        number[start : start + len(share)] += 1
    torch.testing.assert_close(total, torch.ones(length), atol=5e-7, rtol=0)
    for start, share in shares.items():
        alone = number[start : start + len(share)] == 1
        assert (share[alone] == 1).all()


def test_shares_fall_without_a_step():
    for share in window_shares(500, 64, 16).values():
        assert share.diff().abs().max() < 2 / 17


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_pointwise_network_gives_the_same_in_windows_as_at_once(size, batch_size):
    logits = torch.randn(3, *size)
    settings = {"window_px": 64, "overlap_px": 16, "batch_size": batch_size}
    out, rows = join(pointwise(logits), size, **settings)
    # The shares of four windows sum to one up to rounding.
    torch.testing.assert_close(out, logits, atol=1e-6, rtol=1e-6)
    assert [span.start for span in rows] == [0, *(span.stop for span in rows[:-1])]
    assert rows[-1].stop == size[0] and all(span.stop > span.start for span in rows)
    constant = torch.full((3, *size), 5.0)
    out, _ = join(pointwise(constant), size, **settings)
    torch.testing.assert_close(out, constant, atol=0, rtol=1e-6)


@pytest.mark.parametrize(("size", "overlap"), [((64, 64), 16), ((40, 7), 16), ((128, 192), 0)])
def test_windows_that_do_not_overlap_change_no_bit(size, overlap):
    logits = torch.randn(3, *size)
    out, _ = join(pointwise(logits), size, window_px=64, overlap_px=overlap, batch_size=2)
    assert torch.equal(out, logits)


def test_a_translation_invariant_network_sees_no_windows():
    """A convolution, given the margin it reads: windows equal the image at once.

    Integers, so that the only rounding is that of the shares, and the classes are the same.
    """
    torch.manual_seed(0)
    image = torch.randint(-8, 9, (1, 2, 150, 201)).float()
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    kernel = torch.randint(-4, 5, (4, 2, 5, 5)).float()
    whole = torch.nn.functional.conv2d(padded, kernel)[0]

    def forward(windows):
        parts = [
            padded[..., r.start : r.stop + 4, c.start : c.stop + 4].contiguous() for r, c in windows
        ]
        return torch.nn.functional.conv2d(torch.cat(parts), kernel)

    out, _ = join(forward, (150, 201), window_px=64, overlap_px=16, batch_size=3)
    torch.testing.assert_close(out, whole, atol=1e-4, rtol=1e-6)
    assert torch.equal(out.round(), whole)


def test_batches_hold_windows_of_one_size_and_no_more_than_asked():
    seen = []

    def forward(windows):
        seen.append(len(windows))
        return torch.ones(len(windows), 1, 8, 8)

    join(forward, (20, 20), window_px=8, overlap_px=2, batch_size=4)
    assert seen == [4, 4, 1]


def test_the_mean_is_that_of_all_windows_weighed_by_hand():
    """Four windows that say 0, 1, 2 and 3 wherever they are, in a batch across rows."""

    def forward(windows):
        first = [2 * (rows.start > 0) + (columns.start > 0) for rows, columns in windows]
        return torch.tensor(first).float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)

    out, _ = join(forward, (6, 6), window_px=4, overlap_px=1, batch_size=3)
    weight = torch.tensor([0.5, 1, 1, 0.5])
    total, sums = torch.zeros(6, 6), torch.zeros(6, 6)
    for number, (top, left) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        part = (slice(top, top + 4), slice(left, left + 4))
        total[part] += number * weight.outer(weight)
        sums[part] += weight.outer(weight)
    torch.testing.assert_close(out[0], total / sums)


def test_memory_is_that_of_strips_not_of_the_image():
    size, num_classes = (4096, 256), 6

    def predict():
        def forward(windows):
            return torch.ones(len(windows), num_classes, 64, 64)

        settings = {"window_px": 64, "overlap_px": 16, "batch_size": 4}
        for _, logits in predict_strips(forward, size=size, **settings):
            assert logits.shape[0] == num_classes

    whole_mib = num_classes * size[0] * size[1] * 4 / 2**20
    strip_mib = whole_mib * 64 / size[0]
    assert Bench("cpu", quick=True).peak_mib(predict) < 6 * strip_mib < whole_mib / 10


@pytest.mark.parametrize("size", [(300, 65), (130, 1), (64, 64), (1, 130)])
@pytest.mark.parametrize("overlap", [0, 16, 50])
def test_parts_of_the_rows_equal_the_whole_bit_for_bit(size, overlap):
    """Parts that windows straddle, computed apart: as ranks share one image."""
    weight, seen = torch.randn(3, 64, 65), []

    def forward(windows):
        seen.extend(windows)
        parts = []
        for rows, columns in windows:  # what a window says depends on the window
            shape = (3, rows.stop - rows.start, columns.stop - columns.start)
            parts.append(weight[:, : shape[1], : shape[2]] * (rows.start + columns.start + 1))
        return torch.stack(parts)

    settings = {"window_px": 64, "overlap_px": overlap, "batch_size": 2}
    whole, _ = join(forward, size, **settings)
    num_windows = len(seen)
    bounds = sorted({0, size[0] // 3, size[0] // 2, size[0]})
    parts, covered = [], []
    for begin, end in itertools.pairwise(bounds):
        seen.clear()
        logits, rows = join(forward, size, part=slice(begin, end), **settings)
        assert len(seen) <= num_windows
        assert all(w[0].start < end and w[0].stop > begin for w in seen)
        parts.append(logits)
        covered += [row for span in rows for row in range(span.start, span.stop)]
    assert covered == [*range(size[0])]
    assert torch.equal(torch.cat(parts, 1), whole)
