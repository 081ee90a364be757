"""Everyday prompts: what an edit should leave alone.

``PRESERVED`` is the guarded preset's preserve set: plain things, colors, counts, places, grounds, and well-known
styles (a style that is being edited is left out by itself). ``EVERYDAY`` is the list that every report measures
damage on. They share no prompt but the empty one, the negative prompt that nearly every picture is made with.
``PRESERVE_SETS`` are sets to choose by name; none of them holds a prompt that reports are measured on, the empty one
aside.
"""

from __future__ import annotations

_PLAIN = ("a painting", "a photo of a person", "a painting in the style of a painter")
_GROUNDS = (
    "a red circle",
    "a blue square on the left",
    "a green triangle at night",
    "a yellow star in the sky",
    "a purple heart on stone",
    "an orange diamond on sand",
    "a white ring on grass",
    "a black cross at the top",
    "two red squares",
    "three blue circles on roses",
)
_SCENES = ("a picture of a house by the sea", "an image of a dog")
_STYLES = (
    "a painting by claude monet",
    "a painting by pablo picasso",
    "a painting by rembrandt",
    "a painting by leonardo da vinci",
    "a painting by gustav klimt",
    "a painting by salvador dali",
    "a painting by andy warhol",
    "a painting by van gogh",
    "a painting by georges seurat",
    "a painting by piet mondrian",
    "a painting by bridget riley",
    "a painting by yayoi kusama",
    "a painting by katsushika hokusai",
    "a painting by victor vasarely",
)

PRESERVED = ("", *_PLAIN, *_GROUNDS, *_SCENES, *_STYLES)

PRESERVE_SETS: dict[str, tuple[str, ...]] = {
    "empty prompt": ("",),
    "everyday captions": (
        *_PLAIN,
        *_SCENES,
        "a photo of a cat",
        "a portrait of a woman",
        "a portrait of a man",
        "a child on a swing",
        "a street in a city",
        "a landscape with a river",
        "a forest in autumn",
        "a car on a road",
        "a cup of tea on a table",
        "a plate of food",
        "a vase of flowers",
        "a bird on a branch",
        "a boat on a lake",
        "a room with a window",
        "a drawing of a tree",
        "a digital illustration of a dragon",
    ),
    "colors, counts, places": (
        *_GROUNDS,
        "one brown horse on the right",
        "four grey birds on a roof",
        "five pink flowers at the bottom",
        "a gold ring in the center",
    ),
    "common styles": (
        *_STYLES,
        "a painting by michelangelo",
        "a painting by raphael",
        "a painting by caravaggio",
        "a painting by johannes vermeer",
        "a painting by william turner",
        "a painting by paul cezanne",
        "a painting by paul gauguin",
        "a painting by henri matisse",
        "a painting by edvard munch",
        "a painting by wassily kandinsky",
        "a painting by frida kahlo",
        "a painting by edward hopper",
        "a painting by jackson pollock",
        "a painting by roy lichtenstein",
        "an impressionist painting",
        "a watercolor",
        "a comic book panel",
        "a pixel art game",
    ),
}

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

# Short ones of EVERYDAY, run through all layers.
FINAL_CAPTIONS = (
    "",
    "a mountain lake at sunrise",
    "an astronaut riding a horse",
)
