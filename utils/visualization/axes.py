"""Values along an axis of a chart: where they lie, where the ticks are, and what these say."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A range of values laid along a range of pixels."""

    low: float
    high: float
    step: float  # between ticks
    start_px: float  # where ``low`` is
    end_px: float  # where ``high`` is

    @property
    def middle_px(self) -> float:
        """Pixel coordinate of the middle."""
        return (self.start_px + self.end_px) / 2

    def at(self, value: float) -> float:
        """Pixel coordinate of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start_px + share * (self.end_px - self.start_px)

    def ticks(self) -> list[float]:
        """The multiples of the step within the range."""
        # The small tolerance keeps ticks that rounding put just outside the range.
        first = math.ceil(self.low / self.step - 1e-6)
        last = math.floor(self.high / self.step + 1e-6)
        return [index * self.step for index in range(first, last + 1)]

    def label(self, value: float) -> str:
        """Text of a tick: as short as can be, and unlike its neighbours'."""
        if value == 0:
            return "0"
        largest = max(abs(self.low), abs(self.high))
        if self.step < 1e-4 or largest >= 1e6:
            digits = max(0, _power_of_ten(abs(value)) - _power_of_ten(self.step))
            mantissa, exponent = f"{value:.{digits}e}".split("e")
            return f"{mantissa}e{int(exponent)}"
        decimals = max(0, -_power_of_ten(self.step))
        return f"{value:,.{decimals}f}"


def _power_of_ten(value: float) -> int:
    """Power of the leading digit: 0 for 2.5, -2 for 0.01."""
    return math.floor(math.log10(value) + 1e-9)


def tick_step(low: float, high: float, max_steps: int) -> float:
    """The smallest 1, 2 or 5 times a power of ten that needs at most ``max_steps`` steps."""
    rough = (high - low) / max_steps
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
