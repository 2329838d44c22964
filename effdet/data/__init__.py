"""From files on disk to batches: annotation tables, images, augmentation, samples and their loader."""
