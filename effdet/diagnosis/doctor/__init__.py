"""Why AP is near zero: one change after the other is tried, and the first that raises AP is named."""
