import pytest
import torch

from utils.evaluation.sliding_window import View, mean_logits, views


def test_views_of_a_recipe():
    assert views((1.0,), 1) == [View(scale=1.0, turn=0)]
    assert [view.turn for view in views((1.0,), 2)] == [0, 4]
    both = views((0.5, 2.0), 8)
    assert [view.scale for view in both] == [0.5] * 8 + [2.0] * 8
    assert [view.turn for view in both] == [*range(8)] * 2


def test_turns_by_hand():
    ids = torch.tensor([[[1, 2], [3, 4]]])
    turned = [View(scale=1.0, turn=turn).ids(ids)[0].flatten().tolist() for turn in range(8)]
    assert turned[0] == [1, 2, 3, 4]
    assert turned[1] == [2, 4, 1, 3]  # a quarter to the left
    assert turned[2] == [4, 3, 2, 1]
    assert turned[3] == [3, 1, 4, 2]
    assert turned[4] == [2, 1, 4, 3]  # mirrored left-right
    assert len({*map(tuple, turned)}) == 8


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("size", [(5, 5), (4, 7), (1, 6)])
def test_every_turn_is_the_same_for_all_members_and_undone_exactly(turn, size):
    view = View(scale=1.0, turn=turn)
    members = torch.randint(1, 60000, (2, *size)).int()
    as_photo = members.unsqueeze(1).float()
    assert torch.equal(view.photo(as_photo)[:, 0], view.ids(members).float())
    assert torch.equal(view.levels(members), view.ids(members))
    assert torch.equal(view.undo(view.photo(as_photo), size), as_photo)


def test_zooms_by_hand():
    double, half = View(scale=2.0, turn=0), View(scale=0.5, turn=0)
    ids = torch.tensor([[[7, 9]]])
    assert double.ids(ids).tolist() == [[[7, 7, 9, 9], [7, 7, 9, 9]]]
    assert double.levels(torch.tensor([[[100, 200]]]))[0, 0].tolist() == [100, 125, 175, 200]
    assert half.ids(torch.tensor([[[1, 2, 3, 4]]])).tolist() == [[[2, 4]]]
    photo = torch.tensor([[[[0.25, 0.25, 0.75, 0.75]] * 4]])
    # Averaged when it gets smaller: two pixels on either side weigh, nearer ones more.
    row = half.photo(photo)[0, 0, 0]
    assert row.shape == (2,) and 0.25 < row[0] < 0.4 and row.sum() == pytest.approx(1)


def test_levels_are_averaged_where_there_is_data():
    half = View(scale=0.5, turn=0)
    levels = torch.zeros(1, 8, 8, dtype=torch.int32)
    levels[:, :, :4] = 50000
    assert half.levels(levels)[0].tolist() == [[50000, 50000, 0, 0]] * 4
    assert half.levels(levels).dtype == levels.dtype


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("turn", [0, 3, 5])
@pytest.mark.parametrize("size", [(1, 9), (32, 47), (2, 2)])
def test_members_keep_one_size_and_constants_come_back(scale, turn, size):
    view = View(scale=scale, turn=turn)
    photo, ids = torch.full((2, 3, *size), 0.5), torch.full((2, *size), 7)
    seen = view.photo(photo)
    assert seen.shape[-2:] == view.ids(ids).shape[-2:] == view.levels(ids).shape[-2:]
    assert (view.ids(ids) == 7).all() and (view.levels(ids) == 7).all()
    torch.testing.assert_close(view.undo(seen, size), photo, atol=1e-6, rtol=0)


def test_the_mean_is_that_of_the_softmax():
    first, second = torch.randn(2, 1, 5, 3, 4)
    mean = mean_logits(iter([first, second, second]), 3)
    by_hand = (first.softmax(1) + 2 * second.softmax(1)) / 3
    torch.testing.assert_close(mean.softmax(1), by_hand)
    torch.testing.assert_close(mean.exp(), by_hand)
    assert mean_logits(iter([first]), 1) is first


def test_certain_predictions_stay_finite():
    sure = torch.tensor([1e4, 0.0]).view(1, 2, 1, 1)
    mean = mean_logits(iter([sure, sure.flip(1)]), 2)
    assert mean.flatten().tolist() == pytest.approx([-0.6931, -0.6931], abs=1e-4)
