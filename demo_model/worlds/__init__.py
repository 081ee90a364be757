"""The procedural worlds that the miniatures are trained on: what is in them, how it is drawn, how it is told."""
