"""Where windows of one size begin that cover an image."""


def window_starts(length_px: int, window_px: int, overlap_px: int) -> list[int]:
    """Starts of windows that cover ``0..length_px``, evenly spaced, the last one flush.

    Neighbours share at least ``overlap_px``. A length up to the window size gives one window.
    """
    if length_px <= window_px:
        return [0]
    num_steps = -(-(length_px - window_px) // (window_px - overlap_px))
    return [round(i * (length_px - window_px) / num_steps) for i in range(num_steps + 1)]
