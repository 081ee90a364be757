"""Causal tracing: corrupt the subject of a prompt, put one layer's state back, and see how much of the picture returns.

Three runs are compared (Basu et al. 2024, after Meng et al. 2022): the *clean* run of a prompt, the *corrupted* run in
which noise hides the subject from the text encoder, and *restored* runs, which are corrupted runs with the output of
one site taken from the clean run. What a site's restoration brings back of the score is its indirect effect.

The rooms: ``runs`` makes the runs (``corruption`` draws the noise, ``interventions`` are the hooks that copy rows of a
batch, ``lockstep`` sweeps), ``results`` keeps, files, judges and draws what was measured, ``scores`` measures pictures.
The places of a model that can be restored are named in ``families``. Nothing here knows ComfyUI.
"""
