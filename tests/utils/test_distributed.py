"""How ranks meet: how long they wait for a slow one, and that a dead one ends the run."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from utils import distributed

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, signal, time
from datetime import timedelta
from utils.distributed import distributed_session

with distributed_session("cpu", timedelta(days=1)) as dist:
    dist.barrier()
    if dist.rank == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    dist.gather("waiting")
"""


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


def fail_on_rank(dist, rank):
    if dist.rank == rank:
        raise ArithmeticError(f"rank {rank} cannot count")
    dist.barrier()


def test_ranks_fixture_shows_an_error_and_serves_the_next_test(ranks):
    with pytest.raises(AssertionError, match="rank 1 cannot count"):
        ranks(fail_on_rank, 1)
    assert ranks(meet, [1, 1])[0][2] == (2, 1)


@pytest.mark.parametrize(
    ("device", "patience", "backend"),
    [
        ("cpu", None, "gloo"),
        ("cuda", None, "nccl"),
        ("cpu", timedelta(days=14), "gloo"),
        ("cuda", timedelta(days=14), "gloo"),
    ],
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


def test_a_dead_rank_ends_the_run_however_patient_the_others_are(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    start = time.monotonic()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(program)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode != 0 and time.monotonic() - start < 60
