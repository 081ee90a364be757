"""The procedural worlds: Shapes is what it was, and in Gallery no two things look or read alike."""

import dataclasses
from itertools import combinations

import numpy as np
import original_scenes
import pytest
from diff_quickfix.demo_model.worlds.captions import caption, plural
from diff_quickfix.demo_model.worlds.catalog import GALLERY, SHAPES, WORLDS
from diff_quickfix.demo_model.worlds.painting import paint
from diff_quickfix.demo_model.worlds.world import PLAIN, Scene, held_out, sample_scenes
from diff_quickfix.text.vocabulary import clip_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)
PLAIN_SCENE = Scene("circle", "red", "on grass")


@given(seed=SEEDS)
@settings(max_examples=40)
def test_shapes_is_the_world_that_its_weights_were_trained_on(seed):
    """Oracle: the code that painted and told the training set, as it was then."""
    (old,) = original_scenes.sample_scenes(np.random.default_rng(seed), 1)
    (new,) = sample_scenes(SHAPES, np.random.default_rng(seed), 1)
    assert vars(new) == vars(old)
    assert held_out(new) == original_scenes.held_out(old)
    for share in (0.0, 0.5):
        wanted = original_scenes.caption(old, np.random.default_rng(seed), omit=share, omit_style=share)
        assert caption(new, np.random.default_rng(seed), omit=share, omit_style=share) == wanted
    wanted = original_scenes.paint(old, 128, np.random.default_rng(seed))
    assert np.array_equal(paint(SHAPES, new, 128, np.random.default_rng(seed)), wanted)


def test_shapes_names_what_it_named():
    assert SHAPES.values == {
        "object": original_scenes.OBJECTS,
        "color": tuple(original_scenes.COLORS),
        "background": tuple(original_scenes.BACKGROUNDS),
        "style": (*original_scenes.STYLES, original_scenes.PLAIN),
    }


def test_gallery_is_large_enough_to_leave_neighbours_unnamed():
    assert len(GALLERY.objects) >= 24 and len(GALLERY.styles) >= 20 and len(GALLERY.colors) >= 12
    for name in ("objects", "colors", "backgrounds", "styles"):
        assert getattr(GALLERY, name).items() >= getattr(SHAPES, name).items()


def seen(attribute, value, seed):
    """A picture of one value, all else the same, at a size that is enough to tell them apart."""
    scene = dataclasses.replace(PLAIN_SCENE, **{attribute: value})
    return paint(GALLERY, scene, 64, np.random.default_rng(seed)).astype(float)


@pytest.mark.parametrize("attribute", ["object", "color", "background", "style"])
def test_no_two_values_look_alike(attribute):
    """Two values differ by more than two seeds of one value do, where the seed leaves the look alone; at least as much
    as one step of 8 in 256 over a tenth of all pixels."""
    pictures = {value: seen(attribute, value, 5) for value in GALLERY.values[attribute]}
    for one, other in combinations(pictures, 2):
        far = np.abs(pictures[one] - pictures[other]).max(-1)
        assert (far > 8).mean() > (0.1 if attribute in ("background", "style") else 0.015), (one, other)


@pytest.mark.parametrize("style", GALLERY.styles)
def test_a_style_changes_the_whole_picture_and_leaves_the_thing(style):
    """In every ninth of the picture; the object keeps three quarters of its own color."""
    for seed in range(3):
        plain, styled = (seen("style", name, seed) for name in (PLAIN, style))
        far = np.abs(plain - styled).max(-1)
        ninths = [part for row in np.array_split(far, 3) for part in np.array_split(row, 3, axis=1)]
        assert min(part.max() for part in ninths) > 16
        # A circle of this radius lies within the object, wherever it drifts to.
        y, x = np.mgrid[:64, :64] / 64 - 0.5
        middle = np.hypot(x, y) < 0.15
        kept = np.abs(styled[middle] - plain[middle]).max()
        assert kept <= GALLERY.texture_on_objects * 255 + 1


@pytest.mark.parametrize("name", GALLERY.objects)
def test_an_outline_is_a_distance(name):
    """Its sign separates inside from outside, it stays on the canvas, and near the edge it grows like a distance."""
    axis = np.linspace(-1.6, 1.6, 161)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    field = GALLERY.objects[name](x, y)
    inside = field < 0
    assert 0.1 < inside.mean() * 3.2**2 / np.pi < 1.1, "of the unit disc's area"
    assert not inside[np.hypot(x, y) > 1.35].any()
    slope = np.hypot(*np.gradient(field, axis[1] - axis[0]))[np.abs(field) < 0.04]
    assert 0.6 < np.median(slope) < 1.5


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_words_are_cut_into_known_tokens(world):
    """Artists' names into several, so that an edit meets a name of many tokens; no two names into the same."""
    tokenizer = clip_tokenizer()
    unknown = tokenizer.convert_tokens_to_ids(tokenizer.unk_token)
    names = [name for values in world.values.values() for name in values]
    tokens = {name: tuple(tokenizer(name)["input_ids"][1:-1]) for name in [*names, *map(plural, world.objects)]}
    assert all(found and unknown not in found for found in tokens.values())
    assert len({tokens[name] for name in names}) == len(names)
    assert all(len(tokens[style]) >= 2 for style in world.styles)


@given(seed=SEEDS)
@settings(max_examples=30)
def test_scenes_captions_and_pictures_are_functions_of_scene_and_generator(seed):
    (scene,) = sample_scenes(GALLERY, np.random.default_rng(seed), 1, unseen=True)
    assert held_out(scene)
    first, again = (
        (caption(scene, rng), paint(GALLERY, scene, 32, rng))
        for rng in (np.random.default_rng(seed), np.random.default_rng(seed))
    )
    assert first[0] == again[0] and np.array_equal(first[1], again[1])
    text, said = caption(scene)
    style = scene.style in text
    assert {"object", "color", "background"} <= said
    noun = scene.object if scene.count == 1 else plural(scene.object)
    assert noun in text and scene.color in text and scene.background in text and style == (scene.style != PLAIN)


def test_fifteen_percent_of_all_combinations_are_held_out():
    rng = np.random.default_rng(0)
    every = [Scene(*(str(rng.choice(values)) for values in GALLERY.values.values())) for _ in range(4000)]
    assert 0.13 < np.mean([held_out(scene) for scene in every]) < 0.17
