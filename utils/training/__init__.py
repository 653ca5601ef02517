"""Training state, checkpoints, optimisation, logging."""
