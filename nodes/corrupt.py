"""Nodes that corrupt a prompt, and restore one state in the text encoder or the image model."""

from __future__ import annotations

from ..families.heads import with_heads
from ..families.sites import select
from ..families.text_stacks import ENCODER_NAMES, SITE_KINDS
from ..families.transformer import image_sites
from ..text.subjects import EARLIER, PLACES
from ..tracing.runs.cases import Restoration
from .api import CorruptionType, Node, io, schema
from .host.tracing.corrupted import EXTENTS, CorruptionSettings, corrupt_prompt
from .host.tracing.encoders import ALL_ENCODERS
from .host.tracing.restored_model import restore_in_unet
from .host.tracing.steps import MOST_STEPS

EXAMPLE = "a red circle on grass, in the style of [van gogh]"


def replaced_by_input() -> io.Input:
    return io.String.Input(
        "replaced_by", default="", optional=True, tooltip="Words that take the subject's place instead of noise."
    )


def extent_input() -> io.Input:
    return io.Combo.Input(
        "corrupt",
        options=list(EXTENTS),
        default=EXTENTS[0],
        optional=True,
        tooltip="What is hidden: the subject's tokens, or every token of the prompt, as a control.",
    )


def encoder_input(
    tooltip: str = "In which text encoder the subject is hidden: all, or one, to see whether the model listens to it.",
) -> io.Input:
    return io.Combo.Input(
        "encoder", options=[ALL_ENCODERS, *ENCODER_NAMES], default=ALL_ENCODERS, optional=True, tooltip=tooltip
    )


class CorruptPrompt(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_CorruptPrompt",
            display_name="Corrupt Prompt",
            category="Diff-QuickFix/trace",
            search_aliases=["causal tracing", "noise", "counterfactual", "token", "interpret"],
            description=(
                "Hides the subject of a prompt from the text encoder: Gaussian noise on its token embeddings, or other "
                "words in its place. Paint both conditionings from the same seed to see what the subject does."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default=EXAMPLE.replace("[", "").replace("]", ""),
                    placeholder="prompt: as you would paint it, e.g. a house by van gogh",
                    tooltip="The prompt, as you would paint it.",
                ),
                io.String.Input(
                    "subject", default="van gogh", tooltip="The words of the prompt to hide, as they stand in it."
                ),
                io.Float.Input(
                    "noise",
                    default=3.0,
                    min=0.01,
                    max=100.0,
                    step=0.1,
                    tooltip="Standard deviation of the noise, as a multiple of that of the subject's "
                    "embeddings. 3 is usual; the paper publishes none.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**53, control_after_generate=True, tooltip="Seed of the noise."
                ),
                replaced_by_input(),
                extent_input(),
                encoder_input(),
            ],
            outputs=[
                io.Conditioning.Output(
                    id="corrupted",
                    display_name="corrupted",
                    tooltip="The prompt with its subject hidden; positive of a sampler.",
                ),
                io.Conditioning.Output(id="clean", display_name="clean", tooltip="The prompt as it is."),
                CorruptionType.Output(
                    id="corruption",
                    display_name="corruption",
                    tooltip="For Restore Layer State: the same prompt and the same noise.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip,
        prompt: str,
        subject: str,
        noise: float,
        seed: int,
        replaced_by: str = "",
        corrupt: str = EXTENTS[0],
        encoder: str = ALL_ENCODERS,
    ) -> io.NodeOutput:
        settings = CorruptionSettings(noise, 1, seed, replaced_by, corrupt, encoder)
        corrupted = corrupt_prompt(clip, prompt, subject, settings)
        return io.NodeOutput(
            corrupted.conditioning(Restoration(0)), corrupted.conditioning(Restoration(None)), corrupted
        )


class RestoreTextState(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_RestoreTextState",
            display_name="Restore Layer State (Text Encoder)",
            category="Diff-QuickFix/trace",
            description=(
                "Encodes the corrupted prompt with one layer's output put back from the clean run. What comes back in "
                "the picture is what that layer carries."
            ),
            inputs=[
                CorruptionType.Input("corruption", tooltip="From Corrupt Prompt."),
                io.Int.Input("layer", default=0, min=0, max=63, tooltip="The text encoder's layer, counted from 0."),
                io.Combo.Input(
                    "kind",
                    options=list(SITE_KINDS),
                    default="self_attn",
                    tooltip="What is put back: the layer's self-attention output, its MLP output, the whole hidden "
                    "state after it; the state that is handed to the image model from before the layer (tap); or the "
                    "pooled vector, which has no layer.",
                ),
                io.Combo.Input(
                    "tokens",
                    options=[*PLACES, EARLIER],
                    default="subject and later",
                    tooltip="At which tokens. Later ones read the subject; earlier ones do so in T5 only.",
                ),
                encoder_input("In which text encoder it is put back; all: in each that has the layer."),
            ],
            outputs=[
                io.Conditioning.Output(
                    id="restored", display_name="restored", tooltip="The restored text states; positive of a sampler."
                )
            ],
        )

    @classmethod
    def execute(cls, corruption, layer: int, kind: str, tokens: str, encoder: str = ALL_ENCODERS) -> io.NodeOutput:
        return io.NodeOutput(corruption.restored(layer, kind, tokens, encoder))


class RestoreUNetState(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_RestoreUNetState",
            display_name="Restore Layer State (Image Model)",
            category="Diff-QuickFix/trace",
            description=(
                "A MODEL that paints the restored run: while it samples the corrupted conditioning, the outputs of the "
                "chosen sites are taken from the clean run, which rides along in the same batch. For any sampler that "
                "draws no noise on the way."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A UNet or an image transformer. LoRA and ControlNet keep working."),
                CorruptionType.Input(
                    "corruption", tooltip="From Corrupt Prompt; its corrupted output is the sampler's positive."
                ),
                io.String.Input(
                    "sites",
                    default="unet.middle.*.self_attn",
                    tooltip="Names of the sites, * and ? allowed, several divided by commas: "
                    "unet.down.1.a0.cross_attn, unet.up.*.resnet, dit.double.*.attn, dit.single.3.text_block. "
                    "ComfyUI's numbers, unet.input.4.1.*, are understood too.",
                ),
                io.Int.Input("start_step", default=0, min=0, max=MOST_STEPS, tooltip="First step that is restored."),
                io.Int.Input(
                    "end_step", default=MOST_STEPS, min=0, max=MOST_STEPS, tooltip="First step that no longer is."
                ),
                io.Combo.Input(
                    "branch",
                    options=["cond", "both"],
                    default="cond",
                    tooltip="Which half of the guidance is restored: the prompt's, or both.",
                ),
                io.Sigmas.Input(
                    "schedule",
                    optional=True,
                    tooltip="The whole schedule, as of a Basic Scheduler; needed to count steps when the sampler runs "
                    "a part of it: KSampler (Advanced) from a later step, split sigmas, denoise below 1.",
                ),
            ],
            outputs=[io.Model.Output(id="restoring_model", display_name="model", tooltip="For a sampler.")],
        )

    @classmethod
    def execute(
        cls, model, corruption, sites: str, start_step: int, end_step: int, branch: str, schedule=None
    ) -> io.NodeOutput:
        every = with_heads(image_sites(model.model.diffusion_model), sites)
        chosen = [site.name for site in select(every, names=sites)]
        steps = range(start_step, end_step)
        return io.NodeOutput(restore_in_unet(model, corruption, chosen, steps=steps, branch=branch, schedule=schedule))
