"""What a run writes about itself: log files, trackers, the manifest."""
