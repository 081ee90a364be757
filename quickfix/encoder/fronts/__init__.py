"""What image models make of their text states before their doors read them, computed from named weights."""
