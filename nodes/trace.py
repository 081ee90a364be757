"""Nodes that sweep: causal traces of the text encoder and of the image model."""

from __future__ import annotations

from ..families.text_stacks import SITE_KINDS, TEXT_KINDS
from ..families.transformer import IMAGE_KINDS
from ..tracing.results.examples import MOST_CELLS as MOST_PICTURES
from ..tracing.results.trace import PROBES
from .api import CausalTraceType, ImageScorerType, Node, io, schema
from .corrupt import EXAMPLE, encoder_input, extent_input, replaced_by_input
from .host.files import trace_path
from .host.tracing.causal_trace import DEFAULT_ROWS, TraceInputs, TraceSettings, trace_text, trace_unet
from .host.tracing.corrupted import EXTENTS, CorruptionSettings
from .host.tracing.encoders import ALL_ENCODERS
from .host.tracing.sampling import SamplerSettings, samplers

SCHEDULERS = ["normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform"]


def _sweep_inputs(kinds: tuple[str, ...], default_kind: str, severed: tuple[str, ...] = ()) -> list[io.Input]:
    """What both traces ask for.

    Args:
        severed: the kinds that can be held corrupted; () for all of ``kinds``.
    """
    return [
        *_painted_inputs(),
        *_site_inputs(kinds, default_kind),
        *_run_inputs(),
        *_sampler_inputs(),
        io.Combo.Input(
            "sever",
            options=["nothing", *(severed or kinds)],
            default="nothing",
            tooltip="Hold all later sites of this kind at their corrupted states, to see whether an effect "
            "runs through them.",
        ),
        io.Int.Input(
            "batch_size",
            default=DEFAULT_ROWS,
            min=1,
            max=256,
            tooltip="Pictures painted at once; halved by itself when memory runs out.",
        ),
        io.String.Input(
            "checkpoint",
            default="",
            optional=True,
            tooltip="Name of a file that keeps what is finished, so that a cancelled trace goes on.",
        ),
        ImageScorerType.Input(
            "scorer",
            optional=True,
            tooltip="What is measured. Without one: how far the latent is from the clean run's.",
        ),
        replaced_by_input(),
        extent_input(),
    ]


def _painted_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model that paints."),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
        io.Vae.Input("vae", tooltip="Decodes the pictures."),
        io.Conditioning.Input("negative", tooltip="The negative prompt, as for a KSampler."),
        io.Latent.Input("latent", tooltip="The size that is painted: an empty latent. Painting starts from any other."),
        io.String.Input(
            "prompts",
            multiline=True,
            default=EXAMPLE,
            placeholder="prompts: one on each line, the subject in brackets, e.g. a house by [van gogh]",
            tooltip="One prompt on each line, the subject in square brackets.",
        ),
    ]


def _site_inputs(kinds: tuple[str, ...], default_kind: str) -> list[io.Input]:
    return [
        io.Combo.Input(
            "kind", options=["all", *kinds], default=default_kind, tooltip="Which kind of site is restored."
        ),
        io.String.Input(
            "sites",
            default="*",
            tooltip="Names of the sites, * and ? allowed, divided by commas. With the kind all, *attn.h* are the heads "
            "of attentions.",
        ),
        io.Int.Input("window", default=1, min=1, max=64, tooltip="How many neighbouring sites are restored together."),
    ]


def _run_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "noise",
            default=3.0,
            min=0.01,
            max=100.0,
            step=0.1,
            tooltip="Standard deviation of the noise, as a multiple of that of the subject's embeddings.",
        ),
        io.Int.Input("draws", default=2, min=1, max=64, tooltip="How many draws of the noise."),
        io.Int.Input(
            "seed", default=0, min=0, max=2**53, tooltip="First seed of the initial latent, and seed of the noise."
        ),
        io.Int.Input("seeds", default=1, min=1, max=1000, tooltip="How many initial latents, one seed after another."),
        io.Int.Input(
            "controls",
            default=8,
            min=0,
            max=1000,
            tooltip="Null restorations for each prompt, seed and draw: random sites, put back from another "
            "corrupted run. Cells that do not differ from them are hatched; with fewer than six prompts, cells within "
            "their range.",
        ),
    ]


def _sampler_inputs() -> list[io.Input]:
    return [
        io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps."),
        io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.5, tooltip="Guidance."),
        io.Combo.Input(
            "sampler_name",
            options=samplers(),
            default="ddim",
            tooltip="Only samplers that draw no noise on the way can be traced.",
        ),
        io.Combo.Input(
            "scheduler", options=SCHEDULERS, default="normal", tooltip="The noise schedule, as in KSampler."
        ),
    ]


def _pictures() -> io.Input:
    return io.Int.Input(
        "pictures",
        default=1,
        min=1,
        max=MOST_PICTURES,
        optional=True,
        tooltip="How many of the strongest cells get a restored picture among the examples, for Causal Heatmap to "
        "show when they are pinned.",
    )


def _sweep_outputs() -> list[io.Output]:
    return [
        CausalTraceType.Output(id="trace", display_name="trace", tooltip="Every score, for the heat map."),
        io.Image.Output(
            id="examples",
            display_name="examples",
            tooltip="Clean, corrupted, then restored at the cells with the largest effects, in that order.",
        ),
    ]


def _sweep_settings(values: dict) -> TraceSettings:
    return TraceSettings(
        prompts=values["prompts"],
        kinds=None if values["kind"] == "all" else (values["kind"],),
        sites=values["sites"],
        window=values["window"],
        corruption=CorruptionSettings(
            values["noise"],
            values["draws"],
            values["seed"],
            values.get("replaced_by", ""),
            values.get("corrupt", EXTENTS[0]),
            values.get("encoder", ALL_ENCODERS),
        ),
        seed=values["seed"],
        seeds=values["seeds"],
        controls=values["controls"],
        sampler=SamplerSettings(values["steps"], values["cfg"], values["sampler_name"], values["scheduler"]),
        sever=None if values["sever"] == "nothing" else values["sever"],
        rows=values["batch_size"],
        pictures=values.get("pictures", 1),
        probe=values.get("probe", PROBES[0]),
    )


def _checkpoint(values: dict):
    name = values.get("checkpoint") or ""
    return trace_path(name) if name.strip() else None


class CausalTraceText(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_CausalTraceText",
            display_name="Causal Trace (Text Encoder)",
            category="Diff-QuickFix/trace",
            search_aliases=["causal tracing", "locate knowledge", "ROME", "interpret", "interpretability"],
            description=(
                "Which layer and which token of the text encoders carry the subject? Restores every layer at every "
                "token in turn, paints, and measures how much of the picture comes back. For CLIP, T5 and language "
                "models."
            ),
            inputs=[
                *_sweep_inputs(SITE_KINDS, "all", TEXT_KINDS),
                io.Combo.Input(
                    "columns",
                    options=["tokens", "places"],
                    default="tokens",
                    tooltip="tokens: each token of one prompt. places: last subject token, later tokens, "
                    "padding and so on, which several prompts share.",
                ),
                _pictures(),
                encoder_input(),
            ],
            outputs=_sweep_outputs(),
        )

    @classmethod
    def execute(cls, model, clip, vae, negative, latent, columns: str, scorer=None, **values) -> io.NodeOutput:
        done, examples = trace_text(
            TraceInputs(model, clip, vae, negative, latent, scorer),
            _sweep_settings(values),
            columns=columns,
            checkpoint=_checkpoint(values),
        )
        return io.NodeOutput(done.trace, examples)


class CausalTraceUNet(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_CausalTraceUNet",
            display_name="Causal Trace (Image Model)",
            category="Diff-QuickFix/trace",
            search_aliases=["causal tracing", "locate knowledge", "interpret", "interpretability"],
            description=(
                "Which layer of the image model, UNet or transformer, and at which steps, carries the subject? "
                "Restores every site in turn from the clean run, which rides along in the same batch, and measures how "
                "much of the picture comes back."
            ),
            inputs=[
                *_sweep_inputs(IMAGE_KINDS, "cross_attn"),
                io.Int.Input(
                    "step_windows",
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="1: restore at all steps. More: divide the steps into that many windows.",
                ),
                io.Combo.Input(
                    "branch",
                    options=["cond", "both"],
                    default="cond",
                    tooltip="Which half of the guidance is restored: the prompt's, or both.",
                ),
                _pictures(),
                io.Combo.Input(
                    "probe",
                    options=list(PROBES),
                    default=PROBES[0],
                    optional=True,
                    tooltip="restore: corrupted runs are given the clean state. other text (LocoGen): clean runs "
                    "read the text with replaced_by, in the cross-attentions of one window at a time; an effect is "
                    "what that takes away. It has no controls.",
                ),
            ],
            outputs=_sweep_outputs(),
        )

    @classmethod
    def execute(
        cls, model, clip, vae, negative, latent, step_windows: int, branch: str, scorer=None, **values
    ) -> io.NodeOutput:
        done, examples = trace_unet(
            TraceInputs(model, clip, vae, negative, latent, scorer),
            _sweep_settings(values),
            step_windows=step_windows,
            branch=branch,
            checkpoint=_checkpoint(values),
        )
        return io.NodeOutput(done.trace, examples)
