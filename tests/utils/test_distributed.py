"""Collectives of the ranks, and their backend and timeout."""

from datetime import timedelta

import pytest
import torch

from utils import distributed


def meet(dist, numbers):
    number = torch.tensor([numbers[dist.rank]])
    total, mean = dist.sum(number), dist.mean(number)
    dist.barrier()
    assert number.item() == numbers[dist.rank]
    return dist.rank, dist.is_main, (total.item(), mean.item()), dist.gather({"rank": dist.rank})


def test_context_sum_and_gather_are_over_all_ranks_in_their_order(ranks):
    everyone = [{"rank": 0}, {"rank": 1}]
    both = (7, 3.5)
    assert ranks(meet, [3, 4]) == [(0, True, both, everyone), (1, False, both, everyone)]


@pytest.mark.parametrize(
    ("device", "patience", "backend"),
    [("cpu", None, "gloo"), ("cuda", None, "nccl"), ("cuda", timedelta(days=14), "gloo")],
)
def test_patient_ranks_meet_by_gloo_and_wait_as_long_as_told(
    monkeypatch, device, patience, backend
):
    calls = []

    def init(backend, timeout):
        calls.append((backend, timeout))

    monkeypatch.setattr(distributed.dist, "init_process_group", init)
    monkeypatch.setattr(distributed.dist, "barrier", lambda: calls.append("together"))
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: calls.append("apart"))
    monkeypatch.setattr(distributed, "choose_device", lambda *_: torch.device(device))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with distributed.distributed_session(device, patience) as dist:
        assert dist.world_size == 2
    assert calls == [(backend, patience), "together", "apart"]
