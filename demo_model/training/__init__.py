"""The training of Shapes."""
