"""The paper's experiments on a model of one's own: traces of text encoder and image model, edits, and what they say.

Basu et al., *Localizing and Editing Knowledge in Text-to-Image Generative Models* (ICLR 2024, arXiv 2310.13730).
"""
