"""Metrics, protocols, sliding-window prediction, comparison, attribution."""
