"""Everyday prompts: what an edit should leave alone.

``PRESERVED`` is the guarded preset's small preserve set; ``EVERYDAY`` is the list that every report measures damage on.
They share no prompt but the empty one, the negative prompt that nearly every picture is made with.
"""

from __future__ import annotations

PRESERVED = (
    "",
    "a dog",
    "a photo of a woman",
    "an oil painting",
    "a red car on a street",
    "a house by the sea",
    "a bowl of fruit on a table, still life",
    "a blurry, low quality picture with text",
)

EVERYDAY = (
    "",
    "a photo of a cat sleeping on a sofa",
    "portrait of an old man with a beard, soft light",
    "a bowl of ramen with an egg, top view",
    "a mountain lake at sunrise",
    "two children playing football in a park",
    "a watercolor of a small fishing village",
    "a black and white photograph of a jazz band",
    "a steam train crossing a stone bridge",
    "a castle on a hill, fantasy art, highly detailed",
    "a robot reading a newspaper",
    "a glass of water on a wooden table",
    "an astronaut riding a horse",
    "a busy market street in the rain at night",
    "a macro shot of a bee on a yellow flower",
    "a pencil sketch of a sailing ship",
    "a teddy bear in a spaceship, cartoon",
    "a bride and a groom dancing under trees",
    "an empty road through the desert",
    "a snow covered forest, morning fog",
    "a cup of coffee and a croissant",
    "a woman in a green dress walking a dog",
    "a poster of a retro diner, flat colors",
    "a lighthouse in a storm, dramatic sky",
    "a library with tall shelves and warm lamps",
    "a blue bicycle leaning against a brick wall",
    "a painting of sunflowers in a vase",
    "an eagle flying over a canyon",
    "a chef cutting vegetables in a kitchen",
    "a futuristic city with flying cars, neon lights",
    "a sculpture of a running horse, marble",
    "a white rabbit in a field of grass",
    "a violin on a chair beside a window",
    "a group of friends around a campfire",
    "a slice of chocolate cake on a plate, studio photo",
    "a knight in armor standing in the rain",
    "a harbor full of colorful boats",
    "a pixel art dungeon with a treasure chest",
    "a close-up of a human hand holding a key",
    "a basketball player jumping, motion blur",
    "worst quality, low quality, deformed, watermark",
    "a cozy cabin interior, fireplace, isometric 3d render",
)
