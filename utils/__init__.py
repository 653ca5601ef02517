"""One named concern a file; nothing here knows models or data sets."""
