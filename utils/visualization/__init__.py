"""Charts, panels and colours."""
