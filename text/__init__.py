"""Prompts as text encoders read them: tokens, subjects, places, captions, and CLIP's vocabulary."""
