"""From images, folders and videos to detections, pictures and files. Start at `predictor.Predictor`.

Here are only the defaults that the class and the command line have in common.
"""

SCORE_THRESHOLD = 0.3  # lowest confidence of a detection that is shown
BATCH_SIZE = 4  # images per forward pass
TOP = 5  # most probable classes per image
