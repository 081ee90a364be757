"""Traces on ComfyUI objects: prompts with a hidden subject, MODELs that restore, and the sweeps."""
