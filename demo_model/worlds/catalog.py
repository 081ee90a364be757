"""The two worlds: Shapes, and Gallery, which has three times as many of everything that edits are judged on."""

from __future__ import annotations

from . import outlines, overlays
from .world import World

SHAPES = World(
    name="shapes",
    objects={
        "circle": outlines.circle,
        "square": outlines.square,
        "triangle": outlines.triangle,
        "star": outlines.star,
        "cross": outlines.cross,
        "ring": outlines.ring,
        "heart": outlines.heart,
        "diamond": outlines.diamond,
    },
    colors={
        "red": (222, 30, 36),
        "orange": (250, 140, 20),
        "yellow": (250, 226, 40),
        "green": (24, 158, 52),
        "blue": (30, 72, 226),
        "purple": (132, 36, 176),
        "white": (250, 250, 250),
        "black": (16, 16, 18),
    },
    backgrounds={
        "in the sky": ((150, 200, 240), (196, 226, 250)),
        "on grass": ((130, 176, 104), (98, 148, 84)),
        "on sand": ((228, 204, 156), (206, 176, 124)),
        "at night": ((30, 32, 74), (54, 50, 104)),
        "on stone": ((140, 138, 136), (112, 110, 110)),
        "on roses": ((240, 176, 190), (226, 150, 172)),
    },
    styles={
        "van gogh": overlays.van_gogh,
        "georges seurat": overlays.seurat,
        "piet mondrian": overlays.mondrian,
        "bridget riley": overlays.riley,
        "yayoi kusama": overlays.kusama,
        "katsushika hokusai": overlays.hokusai,
        "victor vasarely": overlays.vasarely,
    },
)
"""The world of Shapes. Its weights were trained on these names, in this order; see the model card."""

GALLERY = World(
    name="gallery",
    objects={
        **SHAPES.objects,
        "moon": outlines.moon,
        "arrow": outlines.arrow,
        "house": outlines.house,
        "tree": outlines.tree,
        "fish": outlines.fish,
        "cup": outlines.cup,
        "key": outlines.key,
        "bottle": outlines.bottle,
        "crown": outlines.crown,
        "anchor": outlines.anchor,
        "mushroom": outlines.mushroom,
        "cloud": outlines.cloud,
        "hourglass": outlines.hourglass,
        "butterfly": outlines.butterfly,
        "boat": outlines.boat,
        "ladder": outlines.ladder,
    },
    colors={
        **SHAPES.colors,
        "pink": (250, 130, 184),
        "brown": (122, 68, 28),
        "gray": (112, 112, 116),
        "cyan": (36, 214, 226),
    },
    backgrounds=SHAPES.backgrounds,
    styles={
        **SHAPES.styles,
        "mark rothko": overlays.rothko,
        "andy warhol": overlays.warhol,
        "rembrandt van rijn": overlays.rembrandt,
        "gustav klimt": overlays.klimt,
        "sol lewitt": overlays.lewitt,
        "wassily kandinsky": overlays.kandinsky,
        "paul klee": overlays.klee,
        "anni albers": overlays.albers,
        "maurits escher": overlays.escher,
        "edvard munch": overlays.munch,
        "hilma af klint": overlays.af_klint,
        "utagawa hiroshige": overlays.hiroshige,
        "frank stella": overlays.stella,
    },
    texture_on_objects=0.25,
)
"""The world of Shapes XL: enough neighbours of every concept to ask about those that nobody named."""

WORLDS = {world.name: world for world in (SHAPES, GALLERY)}
