"""Detections to metrics."""
