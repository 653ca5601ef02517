"""Published data sets: names of their files, splits and known faults."""
