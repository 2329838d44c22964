"""Everything that draws: boxes on images, contact sheets, training curves, the confusion matrix."""
