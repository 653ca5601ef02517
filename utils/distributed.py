"""One process or many: the only file that knows torch.distributed and its environment variables."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DistContext:
    """This process among its peers. Every method but ``wrap`` must be called by all ranks."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks on the console."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over all ranks, on each of them."""
        if self.world_size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """A picklable value of every rank, in rank order, on each of them."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network to train with: its gradients are averaged over the ranks.

        On CUDA devices batch norm then takes its statistics from the batches of all ranks, so
        ``network`` has the same parameters in other modules afterwards.
        """
        if self.world_size == 1:
            return network
        if self.device.type == "cpu":
            return DistributedDataParallel(network)
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return DistributedDataParallel(network, device_ids=[self.device])

    def without_sync(self, ddp_network: nn.Module) -> AbstractContextManager[None]:
        """Inside the block, backward passes add gradients on this rank only."""
        if isinstance(ddp_network, DistributedDataParallel):
            return ddp_network.no_sync()
        return nullcontext()


@contextmanager
def distributed_session(
    device: str = "auto", patience: timedelta | None = None, *, deterministic: bool = False
) -> Iterator[DistContext]:
    """Join the processes that torchrun started, or be the only one.

    Args:
        device: auto, cpu or cuda. NCCL is used on CUDA devices, gloo on the CPU.
        patience: how long a rank waits for another one, for work that ranks do at their own pace.
            They then meet by gloo on CUDA devices as well, where NCCL would keep the device of the
            waiting rank busy. None: what torch waits (10 minutes with NCCL, 30 with gloo). A rank
            that dies ends the run at once either way: torchrun stops the others.
        deterministic: refuse operations whose result differs from run to run on CUDA devices.

    Raises:
        ConfigError: cuda is asked for and there is none.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _choose_device(device, local_rank)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True)
    if world_size > 1:
        gloo = chosen.type == "cpu" or patience is not None
        dist.init_process_group("gloo" if gloo else "nccl", timeout=patience)
    try:
        yield DistContext(rank=rank, local_rank=local_rank, world_size=world_size, device=chosen)
        if world_size > 1:
            dist.barrier()  # gloo may wait for ever below for a rank that is gone already
    finally:
        if world_size > 1:
            dist.destroy_process_group()


def _choose_device(device: str, local_rank: int) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("run.device is cuda, and torch finds no CUDA device; take auto or cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"{local_rank + 1} or more processes on a machine with {torch.cuda.device_count()} "
            "CUDA devices; lower torchrun's --nproc_per_node"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
