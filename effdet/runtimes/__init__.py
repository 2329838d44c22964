"""What runs a model: from images at the input size to detections or logits, in any runtime. Start at `opening.py`.

Resizing images, data sets and files of results are not here.
"""
