"""The records of a run: log files, trackers and the manifest."""
