import torch
from torch import nn

from utils.training.state import Ema


def test_average_by_hand():
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(0.0)
    ema = Ema(net, decay=0.5)
    for step, value in ((1, 1.0), (100, 2.0)):
        net.weight.data.fill_(value)
        ema.update(net, step)
    first = 1 - 2 / 11  # early on the decay is (1 + step) / (10 + step)
    assert torch.allclose(ema.average["weight"], torch.tensor(0.5 * first + 0.5 * 2.0))


def test_applied_inside_the_block_only_and_also_after_an_error():
    net = nn.BatchNorm1d(2)
    ema = Ema(net, decay=0.5)
    net.weight.data.fill_(7.0)
    net.num_batches_tracked.fill_(3)
    try:
        with ema.applied_to(net):
            assert net.weight.tolist() == [1.0, 1.0]
            assert net.num_batches_tracked == 0
            raise RuntimeError
    except RuntimeError:
        pass
    assert net.weight.tolist() == [7.0, 7.0]
    assert net.num_batches_tracked == 3
