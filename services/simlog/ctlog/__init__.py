"""ctlog."""
