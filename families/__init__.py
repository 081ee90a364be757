"""What a model is: where text enters it, where its states can be restored, and what others call its weights.

One file a family or stack; a family is known by the shape of its module tree.
"""
