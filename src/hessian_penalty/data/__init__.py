"""Pictures on disk, rendered or imported, with ground truth where it exists."""
