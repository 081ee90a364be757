"""Side-by-side timings, each in one run on one machine."""
