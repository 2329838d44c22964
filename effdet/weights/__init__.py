"""Trained weights: public ones, names in other systems' files, loading with a report, model cards, our own files."""
