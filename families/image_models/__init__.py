"""Families of image models, one file a stack: where text enters each, and what tells it from the others."""
