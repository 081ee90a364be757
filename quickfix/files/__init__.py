"""Files of weights, edits and models."""
