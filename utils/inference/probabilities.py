"""Class probabilities in steps of 1/255."""

import numpy as np
import torch
from torch import Tensor

SCALE = 1 / 255  # probability of one step


def probabilities_of(logits: Tensor) -> np.ndarray:
    """Return softmax probabilities in steps of 1/255, each rounded.

    The class with the largest logit (the first one of a tie) has the strictly largest value: it
    gets one step more where another class would have as many. So the largest band is the predicted
    class, and the sum differs from 255 by half a step a class at most, and that one.

    Args:
        logits: ``(C, H, W)``.

    Returns:
        ``(C, H, W)`` uint8.
    """
    best = logits.max(0)
    powers = (logits - best.values).exp_()
    steps = (255 / powers.sum(0) * powers).round_().to(torch.uint8)
    winner = best.indices.unsqueeze(0)
    top = steps.gather(0, winner)
    is_tie = (steps == top).sum(0, keepdim=True) > 1
    return steps.scatter_(0, winner, top + is_tie).cpu().numpy()
