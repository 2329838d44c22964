"""Everything that draws: boxes on images, contact sheets, training curves, the confusion matrix, HTML pages.

It draws plain values (arrays, names, log records) and imports none of the containers, so that any module may draw.
"""
