"""Scores of a run; a larger score is nearer to what the prompt asks for."""
