"""Anchors against the boxes of a data set: how many reach an IoU of 0.5, and which would fit better."""
