"""Network blocks, one file per block of the figure, and what builds, loads and exports them."""
