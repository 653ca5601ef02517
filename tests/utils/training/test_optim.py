import itertools

import pytest
import torch
from torch import nn

from configs.schema import OptimConfig
from models.layers import ChannelNorm, ScaledConv1x1
from utils.errors import ConfigError
from utils.training.optim import build_optimizer, learning_rate, set_learning_rate


def rate(step, warmup=4):
    return learning_rate(
        step, peak=1.0, num_steps=12, num_warmup_steps=warmup, schedule="poly", power=0.9
    )


def test_learning_rate_by_hand():
    assert [rate(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rate(8) == pytest.approx(0.5**0.9)
    assert rate(11) == pytest.approx(0.125**0.9)


def test_fault_44_no_jump_where_warm_up_ends_and_no_full_rate_in_the_first_step():
    rates = [rate(step) for step in range(12)]
    assert rates[0] < 0.25
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) <= 0.21


def test_no_warm_up_starts_at_the_peak():
    assert rate(0, warmup=0) == 1.0


def test_norms_biases_and_layer_scales_do_not_decay():
    net = nn.Sequential(ScaledConv1x1(3, 4), nn.BatchNorm2d(4), ChannelNorm(4))
    decay, no_decay = build_optimizer(net, OptimConfig(lr=0.1, weight_decay=0.5)).param_groups
    assert [id(p) for p in decay["params"]] == [id(net[0].weight)]
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.5, 0.0)
    assert len(no_decay["params"]) == 2 + 2 + 2
    assert id(net[0].gamma) in {id(p) for p in no_decay["params"]}


def test_the_rate_is_set_in_every_group():
    optimizer = build_optimizer(nn.Linear(2, 2), OptimConfig(lr=0.1, weight_decay=0.5))
    set_learning_rate(optimizer, 0.03)
    assert [group["lr"] for group in optimizer.param_groups] == [0.03, 0.03]
    assert isinstance(optimizer, torch.optim.AdamW)


def test_cosine_by_hand():
    rates = [
        learning_rate(s, peak=2.0, num_steps=12, num_warmup_steps=4, schedule="cosine", power=0.9)
        for s in (4, 6, 8, 12)
    ]
    assert rates == pytest.approx([2.0, 1 + 0.5**0.5, 1.0, 0.0])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.ModuleDict({"stem": nn.Linear(2, 2), "stem2": nn.Linear(2, 2)})
        self.head = nn.Linear(2, 2)


def test_parts_have_their_factor_and_the_longest_name_wins():
    net = Net()
    config = OptimConfig(
        lr=0.1, weight_decay=0.5, lr_factors={"body": 0.5, "body.stem": 0.1, "head": 2}
    )
    optimizer = build_optimizer(net, config)
    set_learning_rate(optimizer, 0.01)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert len(rates) == sum(len(g["params"]) for g in optimizer.param_groups) == 6
    assert (
        rates[id(net.body["stem"].weight)]
        == rates[id(net.body["stem"].bias)]
        == pytest.approx(1e-3)
    )
    assert rates[id(net.body["stem2"].bias)] == pytest.approx(5e-3)
    assert rates[id(net.head.weight)] == pytest.approx(0.02)


def test_a_factor_for_no_part_is_one_sentence():
    with pytest.raises(
        ConfigError,
        match=r"lr_factors names 'tail', which .* begin with body\.stem, body\.stem2, head\.",
    ):
        build_optimizer(Net(), OptimConfig(lr_factors={"tail": 2.0}))


def test_sgd_by_hand():
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(1.0)
    optimizer = build_optimizer(net, OptimConfig(optimizer="sgd", momentum=0.5, weight_decay=0.0))
    for expected in (0.9, 0.75):  # the second step goes 0.1 and half the first one
        set_learning_rate(optimizer, 0.1)
        optimizer.zero_grad()
        net(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        assert net.weight.item() == pytest.approx(expected)
