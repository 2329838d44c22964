"""From images, folders and videos to detections, pictures and files. Start at `predictor.Predictor`.

Here are only the defaults that the class and the command line have in common.
"""

from typing import Literal

ThresholdChoice = float | Literal["auto", "class"]  # of confidence: a number, the stored one, or one for each class
SCORE_THRESHOLD = 0.3  # confidence threshold for models that have none from an evaluation
BATCH_SIZE = 4  # images per forward pass
TOP = 5  # most probable classes per image
