"""Process groups: the only file that uses torch.distributed and its environment variables."""

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
    """Process group as seen by one rank. All ranks must call every method but ``wrap``."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Return True on the rank that writes files and to the console."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, on each of them."""
        if self.world_size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over all ranks, on each of them."""
        return self.sum(tensor) / self.world_size

    def gather(self, value: Any) -> list[Any]:
        """Return a picklable value of every rank, in rank order, on each of them."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.world_size > 1:
            dist.barrier()

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network to train with; its gradients are averaged over the ranks.

        On CUDA devices, batch norm is synchronised, so ``network`` has the same parameters in other
        modules afterwards.
        """
        if self.world_size == 1:
            return network
        if self.device.type == "cpu":
            return DistributedDataParallel(network)
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return DistributedDataParallel(network, device_ids=[self.device])

    def without_sync(self, ddp_network: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which backward passes add gradients on this rank only."""
        if isinstance(ddp_network, DistributedDataParallel):
            return ddp_network.no_sync()
        return nullcontext()


@contextmanager
def distributed_session(
    device: str = "auto", patience: timedelta | None = None, *, deterministic: bool = False
) -> Iterator[DistContext]:
    """Join the process group started by torchrun, or run as a single process.

    Args:
        device: as in ``choose_device``. NCCL is used on CUDA devices, gloo on the CPU.
        patience: timeout of a collective, for work that ranks do at their own pace. It then uses
            gloo on CUDA devices as well, where NCCL would keep the device of the waiting rank busy.
            None: torch's default (10 minutes with NCCL, 30 with gloo). A rank that dies ends the
            run at once either way: torchrun stops the others.
        deterministic: refuse operations whose result differs from run to run on CUDA devices.

    Raises:
        ConfigError: as ``choose_device``.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True)
    if world_size > 1:
        gloo = chosen.type == "cpu" or patience is not None
        dist.init_process_group("gloo" if gloo else "nccl", timeout=patience)
    try:
        yield DistContext(rank=rank, local_rank=local_rank, world_size=world_size, device=chosen)
        if world_size > 1:
            dist.barrier()  # gloo may wait for ever below for a rank that has left
    finally:
        if world_size > 1:
            dist.destroy_process_group()


def choose_device(device: str) -> torch.device:
    """Return the device of this process; under torchrun on CUDA, that of its local rank.

    Args:
        device: auto, cpu or cuda.

    Raises:
        ConfigError: cuda is asked for and not available, or more ranks than devices.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
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
