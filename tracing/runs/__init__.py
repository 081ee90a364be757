"""Runs of a trace: corruption, interventions, the lockstep sweep, and gradients in its place."""
