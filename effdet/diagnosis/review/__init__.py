"""Wrong labels of a data set, by the detections of models that have not seen these labels."""
