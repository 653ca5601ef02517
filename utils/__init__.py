"""Helpers of all layers: configuration, errors, files, ranks, threads."""
