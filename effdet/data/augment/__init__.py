"""Random changes of training images and their boxes: pure functions of a sample and a random generator."""
