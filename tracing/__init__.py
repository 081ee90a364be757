"""Causal tracing: corrupt the subject of a prompt, put one layer's state back, and see how much of the picture returns.

Three runs are compared (Basu et al. 2024, after Meng et al. 2022): the *clean* run of a prompt, the *corrupted* run in
which noise hides the subject from the text encoder, and *restored* runs, which are corrupted runs with the output of
one site taken from the clean run. What a site's restoration brings back of the score is its indirect effect.

The rooms: ``sites`` names the places of a model, ``corruption`` draws the noise, ``interventions`` are the hooks that
copy rows of a batch, ``lockstep`` runs the sweep, ``result`` keeps and files what was measured, ``statistics`` judges
it, ``heatmap`` draws it. Nothing here knows ComfyUI.
"""
