"""Pictures by the stock server: the edit removes a style wherever its name stands in the prompt."""

import numpy as np
import pytest
from diff_quickfix.demo_model.studies.demo import EDITED, as_tensor, comparison_workflow

PROMPTS = (
    f"a red circle in the style of {EDITED} on grass, at night",
    f"a red heart on grass, (by {EDITED}:1.2)",
    f"{EDITED.upper()} PAINTING: a green ring on stone",
    "a red circle on grass, " * 14 + f"in the style of {EDITED}, at night",
)


@pytest.mark.newest
def test_the_style_goes_wherever_its_name_stands(server, scorer):
    """In the middle, weighted, in capitals at the front, and in the second chunk of 75 tokens."""
    outputs = server.run(comparison_workflow(PROMPTS, steps=10), timeout=1800)
    names = [f"{i:03}" for i in range(len(PROMPTS))]
    before, after = (
        as_tensor(np.stack([server.picture(outputs[f"{when} {name} save"]["images"][0]) for name in names]))
        for when in ("before", "after")
    )
    assert scorer.read(before, "style").count(EDITED) >= 3
    assert EDITED not in scorer.read(after, "style")
    words = [f"a {EDITED} painting of a shape"] * len(PROMPTS)
    assert (scorer.clip_score(after, words) < scorer.clip_score(before, words)).all()
