"""Random number state of a process: set, read and put back."""

import torch
from torch import Tensor


def seed_torch(seed: int, rank: int = 0) -> None:
    """Seed torch on every device. Samples carry seeds of their own and do not depend on this."""
    torch.manual_seed(seed * 1_000_003 + rank)


def random_state() -> dict[str, Tensor]:
    """State of torch's generators, as plain tensors."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Put back what ``random_state`` gave."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
