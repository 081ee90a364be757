"""Built-in prompts: what an edit must leave alone, and what its side effects are measured on.

The two lists share no prompt, so that the report never grades an edit on what it was told to keep.
"""

from __future__ import annotations

# Kept in place by the guarded preset. The empty prompt is the usual negative prompt: it goes through the edited encoder too.
PRESERVED = (
    "",
    "a painting",
    "a photo of a person",
    "a picture of a house",
    "a red circle",
    "a blue square",
    "a green triangle",
    "a yellow star",
    "a purple heart",
    "an orange diamond",
    "a white ring",
    "a black cross",
    "two cars on the street",
    "three birds in the sky",
    "a dog on grass",
    "a city at night",
    "a bowl on the table",
    "an image of a tree",
)

# Measured by the report.
EVERYDAY = (
    "",
    "a cat on a sofa",
    "a photo of a woman with a red umbrella",
    "an old wooden house by a lake",
    "a bowl of fruit on a kitchen table",
    "a street in the rain at night",
    "a yellow taxi in new york",
    "portrait of a man with a beard",
    "two dogs running on the beach",
    "a mountain landscape at sunrise",
    "a blue bicycle against a brick wall",
    "a plate of pasta with basil",
    "a watercolor of a sailing boat",
    "a pencil drawing of a horse",
    "a castle on a hill, highly detailed, 4k",
    "three children playing football",
    "a green field under a cloudy sky",
    "a close-up of a flower",
    "an astronaut riding a horse on the moon",
    "a glass of water on a white background",
    "a train crossing a bridge",
    "a small robot in a garden",
    "a cup of coffee next to a laptop",
    "a picture of the eiffel tower",
)
