"""Random changes of training images: pure functions of a sample, or of its image, and of a random generator.

With boxes: placement, rand_augment_boxes, mosaic. Of the image alone: photometric, rand_augment, crop, erasing. Whole
batches of labelled images are mixed in mix_batch.
"""
