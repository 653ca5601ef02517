import pytest
import torch
from torch import nn

from configs.schema import OptimConfig
from models.layers import ChannelNorm, ScaledConv1x1
from utils.errors import ConfigError
from utils.training.optim import build_optimizer, learning_rate, set_learning_rate


def rate(step, warmup_epochs=2, schedule="poly"):
    config = OptimConfig(
        lr=2.0, num_epochs=6, warmup_epochs=warmup_epochs, schedule=schedule, poly_power=0.9
    )
    return learning_rate(step, config, steps_per_epoch=2)


def test_learning_rate_by_hand():
    """Without a jump where the warm-up ends and a full rate in the first step (fault 44)."""
    assert [rate(step) for step in range(5)] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert [rate(8), rate(11)] == pytest.approx([2 * 0.5**0.9, 2 * 0.125**0.9])
    assert rate(0, warmup_epochs=0) == 2.0
    cosine = [rate(step, schedule="cosine") for step in (4, 6, 8, 12)]
    assert cosine == pytest.approx([2.0, 1 + 0.5**0.5, 1.0, 0.0])


def test_norms_biases_and_layer_scales_do_not_decay():
    net = nn.Sequential(ScaledConv1x1(3, 4), nn.BatchNorm2d(4), ChannelNorm(4))
    optimizer = build_optimizer(net, OptimConfig(lr=0.1, weight_decay=0.5))
    assert isinstance(optimizer, torch.optim.AdamW)
    decay, no_decay = optimizer.param_groups
    assert [id(p) for p in decay["params"]] == [id(net[0].weight)]
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.5, 0.0)
    assert len(no_decay["params"]) == 2 + 2 + 2
    assert id(net[0].gamma) in {id(p) for p in no_decay["params"]}


def test_sgd_by_hand():
    """At a rate of 0.1, w goes 0.1 (1 + 0.2 w), and in the second step half the first one too."""
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(1.0)
    optimizer = build_optimizer(net, OptimConfig(optimizer="sgd", momentum=0.5, weight_decay=0.2))
    for expected in (0.88, 0.7024):
        set_learning_rate(optimizer, 0.1)
        net.weight.grad = torch.ones(1, 1)
        optimizer.step()
        assert net.weight.item() == pytest.approx(expected)


def network():
    body = nn.ModuleDict({"stem": nn.Linear(2, 2), "stem2": nn.Linear(2, 2)})
    return nn.ModuleDict({"body": body, "head": nn.Linear(2, 2)})


def test_parts_have_their_factor_and_the_longest_name_wins():
    net = network()
    factors = {"body": 0.5, "body.stem": 0.1, "head": 2}
    optimizer = build_optimizer(net, OptimConfig(lr=0.1, weight_decay=0.5, lr_factors=factors))
    set_learning_rate(optimizer, 0.01)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert len(rates) == sum(len(g["params"]) for g in optimizer.param_groups) == 6
    stem = net["body"]["stem"]
    assert rates[id(stem.weight)] == rates[id(stem.bias)] == pytest.approx(1e-3)
    assert rates[id(net["body"]["stem2"].bias)] == pytest.approx(5e-3)
    assert rates[id(net["head"].weight)] == pytest.approx(0.02)


def test_a_factor_for_no_part_is_one_sentence():
    message = r"lr_factors names 'tail', which .* begin with body\.stem, body\.stem2, head\."
    with pytest.raises(ConfigError, match=message):
        build_optimizer(network(), OptimConfig(lr_factors={"tail": 2.0}))
