"""Closed forms: sums, the solve, its spectrum over lambda, and the null space of what is held."""
