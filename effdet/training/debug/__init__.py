"""Tools for a training that fails: checks before the first step, NaN traces, debug dumps and the memory plan."""
