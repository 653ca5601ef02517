"""Validation, checkpoint and early-stopping intervals of a run, as functions of the epoch."""

from dataclasses import dataclass

from configs.schema import Config


@dataclass(frozen=True)
class ValidationSchedule:
    """Intervals of a recipe. Epochs are counted when they are completed, from 1."""

    config: Config

    def num_validations_after(self, epoch: int) -> int:
        """Return the number of validations after that of an epoch, without early stopping."""
        num_epochs = self.config.optim.num_epochs
        return sum(self.is_validated(later) for later in range(epoch + 1, num_epochs + 1))

    def is_validated(self, epoch: int) -> bool:
        """Return True if the network is validated after an epoch; always after the last one."""
        is_last = epoch == self.config.optim.num_epochs
        return is_last or epoch % self.config.eval.every_epochs == 0

    def kept_copies(self, epoch: int) -> list[str]:
        """Return the name of the checkpoint to keep permanently after an epoch, if any."""
        every = self.config.run.keep_every_epochs
        return [f"epoch_{epoch:04d}.pth"] if every and epoch % every == 0 else []

    def is_over(self, epoch: int, num_stale: int) -> bool:
        """Return True if the run ends after an epoch.

        Args:
            epoch: epochs completed.
            num_stale: validations since the best one.
        """
        patience = self.config.eval.patience
        return epoch >= self.config.optim.num_epochs or 0 < patience <= num_stale
