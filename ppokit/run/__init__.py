"""What a run keeps on the disk, and the signals that end it."""
