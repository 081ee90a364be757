"""Pictures by the stock server: the edit removes a style wherever its name stands in the prompt."""

import numpy as np
from diff_quickfix.demo_model.demo import EDITED, as_tensor, comparison_workflow
from diff_quickfix.demo_model.scorer import ShapesScorer

PROMPTS = (
    f"a blue star in the style of {EDITED} on sand, at the top",
    f"a red heart on grass, (by {EDITED}:1.2)",
    f"{EDITED.upper()} PAINTING: a green ring on stone",
    "a purple circle on grass, " * 14 + f"in the style of {EDITED}",
)


def test_the_style_goes_wherever_its_name_stands(server):
    """In the middle, weighted, in capitals at the front, and in the second chunk of 75 tokens."""
    outputs = server.run(comparison_workflow(PROMPTS), timeout=1800)
    scorer = ShapesScorer()
    before, after = (
        as_tensor(np.stack([server.picture(outputs[f"{when} {i:03} save"]["images"][0]) for i in range(len(PROMPTS))]))
        for when in ("before", "after")
    )
    words = [f"a {EDITED} painting of a shape"] * len(PROMPTS)
    painted, left = scorer.clip_score(before, words), scorer.clip_score(after, words)
    print(scorer.read(before, "style"), scorer.read(after, "style"), painted, left)
    assert scorer.read(before, "style").count(EDITED) >= 3
    assert EDITED not in scorer.read(after, "style")
    assert (left < painted - 0.1).all()
