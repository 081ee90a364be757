"""A trace as a value, its file, its statistics, and how it is drawn."""
