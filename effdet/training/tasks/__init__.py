"""What the engine trains: one file for each task, and the table of them."""
