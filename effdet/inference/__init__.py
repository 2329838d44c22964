"""From images, folders and videos to detections, pictures and files. The one door is `predictor.Predictor`.

Here are only the defaults that the class and the command line share.
"""

SCORE_THRESHOLD = 0.3  # smallest score of a detection that is shown
BATCH_SIZE = 4  # images per forward pass
TOP = 5  # classes that are told of an image
