"""Tables and pages of evaluation, comparison, attribution and inference."""
