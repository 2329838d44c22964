"""Why a model does not detect: anchors against the data, the doctor, and the review of labels."""
