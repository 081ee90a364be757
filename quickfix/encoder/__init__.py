"""The CLIP text tower as a pure function of its weights."""
