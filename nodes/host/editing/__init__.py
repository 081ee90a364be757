"""MODEL, CLIP and CONDITIONING, as the editing nodes read and patch them."""
