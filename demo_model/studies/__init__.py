"""The demo, and what is measured on Shapes."""
