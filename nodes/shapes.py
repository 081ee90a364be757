"""Nodes of the demo model."""

from __future__ import annotations

from .api import Node, io
from .host import shapes


class LoadShapesDemo(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffQuickFix_LoadShapesDemo",
            display_name="Load Shapes Demo",
            category="Diff-QuickFix/demo",
            description=(
                "Shapes, a Stable Diffusion in miniature that comes with this pack: it knows eight shapes, eight "
                "colors, six backgrounds and seven styles under artists' names. Paint at 128 x 128."
            ),
            inputs=[
                io.Combo.Input(
                    "variant",
                    options=list(shapes.VARIANTS),
                    default=next(iter(shapes.VARIANTS)),
                    optional=True,
                    tooltip=(
                        "Shapes is built like Stable Diffusion 1.5. Shapes XL is built like SDXL, with two text "
                        "encoders, and knows 24 things, 12 colors and 20 styles; its weights are no part of the "
                        "pack's upload. Shapes DiT is built like Flux.1, with T5, and knows the same; its weights are "
                        "no part of the upload either."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The image model, for any sampler."),
                io.Clip.Output(display_name="clip", tooltip="The text encoder, or both of them."),
                io.Vae.Output(display_name="vae", tooltip="The autoencoder: 128 x 128 pixels, 16 channels of 16 x 16."),
            ],
        )

    @classmethod
    def execute(cls, variant: str = "Shapes") -> io.NodeOutput:
        chosen = shapes.VARIANTS[variant]
        return io.NodeOutput(
            shapes.load_model(architecture=chosen),
            shapes.load_clip(architecture=chosen),
            shapes.load_vae(chosen),
        )
