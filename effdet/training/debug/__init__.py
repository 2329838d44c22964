"""What helps when a training goes wrong: checks before the first step, NaN traces and dumps, the memory plan."""
