"""Sweeps: traces of many prompts and seeds in one folder, by any number of workers that may be killed at any time.

``plan`` says what is traced and what identifies it, ``store`` is the folder with one trace file a shard, ``tracers``
opens the model, ``run`` drives workers (``tasks``, ``workers``, ``ray_workers``), ``status`` tells how far it is,
``scores`` joins and judges what is there, ``tables`` and ``report`` hand it on. docs/sweeps.md tells how to use it,
docs/trace-file.md what the files hold.
"""
