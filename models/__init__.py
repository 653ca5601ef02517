"""The network: one file for each block of the figure."""
