"""Why a model does not detect: anchors against the data, the doctor, and the review of labels.

Each is a package, and a verb of the command line.
"""
