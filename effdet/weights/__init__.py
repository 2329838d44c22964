"""Trained weights: where they come from, how foreign names read, how our own files are written and loaded."""
