"""ComfyUI's CLIP and MODEL objects, as the tracer sees them: cases to encode, a painter, and the restoring MODEL."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import torch

from ...prompts import PromptTokenizer, SubjectError, TokenizedPrompt, find_subject
from ...tracing.corruption import gaussian, replacement
from ...tracing.interventions import InterventionError, Patch, patching
from ...tracing.lockstep import Case, Restoration, encode_rows
from ...tracing.sites import Site, select, text_sites, unet_sites
from .text_encoder import only_encoder

WRAPPER = "DiffQuickFix_trace"
# Samplers whose result depends on the initial noise alone. Fresh noise at each step would differ between rows.
DETERMINISTIC = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m", "ipndm", "deis", "res_multistep", "ddim", "uni_pc",
                 "uni_pc_bh2")
POSITIVE = 0
PLACES = ("last subject token", "subject", "subject and later", "later tokens", "end of text", "padding", "all")


def samplers() -> list[str]:
    """The running ComfyUI's deterministic samplers."""
    return [name for name in DETERMINISTIC if name in comfy.samplers.KSampler.SAMPLERS]


@dataclass(frozen=True)
class CorruptedPrompt:
    """What the socket CORRUPTION carries: a prompt, where its subject stands, and the noise that hides it.

    Attributes:
        clip: the CLIP that encodes it.
        case: the prompt for the tracer.
        tokens: the 77 tokens that hold the subject.
        subject: the subject's token positions in them.
        pooled: the clean prompt's pooled output.
    """

    clip: comfy.sd.CLIP
    case: Case
    tokens: TokenizedPrompt
    subject: range
    pooled: torch.Tensor | None
    labels: tuple[str, ...]

    def encode(self, rows: Sequence[Restoration]) -> torch.Tensor:
        """Text states (rows, tokens, width)."""
        encoder = only_encoder(self.clip)[1]
        sites = {site.name: site for site in text_sites(encoder)}
        return encode_rows(self.case, first_layer(self.clip), sites, rows)

    def conditioning(self, restoration: Restoration) -> list[Any]:
        """Text states of one row as a CONDITIONING."""
        return [[self.encode([restoration]), {"pooled_output": self.pooled}]]

    def restored(self, layer: int, kind: str, place: str) -> list[Any]:
        """The corrupted prompt with one site put back at one place, as a CONDITIONING.

        Raises:
            SiteError: no such layer.
            SubjectError: the place is empty in this prompt.
        """
        (site,) = select(text_sites(only_encoder(self.clip)[1]), names=f"text.{layer}.{kind}")
        return self.conditioning(Restoration(0, (site.name,), self.positions(place)))

    def positions(self, place: str) -> tuple[int, ...] | None:
        """Token positions of one of :data:`PLACES`; None for all of them.

        Raises:
            SubjectError: the place is empty in this prompt.
        """
        found = places(self.tokens, self.subject)[place]
        if found == ():
            raise SubjectError(f"The prompt {self.tokens.text!r} has no token at the place {place!r}; choose another.")
        return found


def first_layer(clip: comfy.sd.CLIP) -> torch.nn.Module:
    """Layer 0 of a CLIP's text encoder."""
    return only_encoder(clip)[1].transformer.text_model.encoder.layers[0]


def places(tokens: TokenizedPrompt, subject: range) -> dict[str, tuple[int, ...] | None]:
    """The token positions of each of :data:`PLACES`; empty where a prompt has none."""
    eos, length = tokens.eos, len(tokens.ids)
    later = tuple(range(subject.stop, eos))
    return {
        "last subject token": (subject[-1],),
        "subject": tuple(subject),
        "subject and later": tuple(range(subject.start, length)),
        "later tokens": later,
        "end of text": (eos,) if eos < length else (),
        "padding": tuple(range(eos + 1, length)),
        "all": None,
    }


def cut_prompt(
    prompt: str, parts: Sequence[Sequence[tuple[Any, ...]]], tokenizer: Any, end: int
) -> list[TokenizedPrompt]:
    """A prompt as ComfyUI cuts it, 77 tokens each; entries that are no word (embeddings) become -1.

    Args:
        parts: what ComfyUI's tokenizer gives: lists of (token id, weight).
        tokenizer: the transformers tokenizer that it wraps.
        end: the id of the token that ends a text.
    """
    chunks = []
    for part in parts:
        ids = tuple(int(entry[0]) if isinstance(entry[0], int) else -1 for entry in part)
        eos = ids.index(end) if end in ids else len(ids)
        pieces = tokenizer.convert_ids_to_tokens([max(i, 0) for i in ids[1:eos]])
        chunks.append(TokenizedPrompt(prompt, ids, eos, tuple(piece.endswith("</w>") for piece in pieces)))
    return chunks


def find_in_parts(
    chunks: Sequence[TokenizedPrompt], subject: str, reader: PromptTokenizer
) -> tuple[int, tuple[range, ...]]:
    """Which part of a prompt holds the subject, and where in it.

    Raises:
        SubjectError: none does, or several.
    """
    found: list[tuple[int, tuple[range, ...]]] = []
    trouble: SubjectError | None = None
    for number, chunk in enumerate(chunks):
        try:
            found.append((number, find_subject(chunk, subject, reader)))
        except SubjectError as error:
            trouble = error
    if not found:
        assert trouble is not None
        raise trouble
    if len(found) > 1:
        raise SubjectError(
            f"The subject {subject!r} occurs in {len(found)} of the {len(chunks)} parts of 77 tokens that ComfyUI cuts "
            "this prompt into; corrupting one would leave the others. Name it once, or shorten the prompt."
        )
    return found[0]


def _labels(clip: comfy.sd.CLIP, tokens: TokenizedPrompt) -> tuple[str, ...]:
    name, _ = only_encoder(clip)
    pieces = getattr(clip.tokenizer, name).tokenizer.convert_ids_to_tokens([max(i, 0) for i in tokens.body])
    return ("<start>", *(piece.removesuffix("</w>") for piece in pieces), "<end>")


def corrupt_prompt(
    clip: comfy.sd.CLIP,
    prompt: str,
    subject: str,
    *,
    multiple: float,
    draws: int,
    seed: int,
    replaced_by: str = "",
) -> CorruptedPrompt:
    """Find the subject among a prompt's tokens and draw the noise that hides it.

    Every occurrence is found, and the last one is corrupted together with all others in the same 77 tokens.

    Args:
        replaced_by: words whose embeddings take the subject's place, instead of noise.

    Raises:
        SubjectError: the subject is not in the prompt.
        UnsupportedEncoderError: not a CLIP with one text encoder.
        CorruptionError: the noise is empty, or the replacing words have more tokens than the subject.
    """
    name, encoder = only_encoder(clip)
    own = getattr(clip.tokenizer, name)
    reader = PromptTokenizer(own.tokenizer, pad_token=own.pad_token, context_length=encoder.max_length)
    tokens = clip.tokenize(prompt)
    (parts,) = tokens.values()
    chunks = cut_prompt(prompt, parts, own.tokenizer, encoder.special_tokens["end"])
    number, ranges = find_in_parts(chunks, subject, reader)
    positions = tuple(sorted(set(itertools.chain.from_iterable(ranges))))
    table = encoder.transformer.text_model.embeddings.token_embedding

    def embeddings(ids: Sequence[int]) -> torch.Tensor:
        return table(torch.tensor([list(ids)], device=table.weight.device), out_dtype=torch.float32)[0].cpu()

    # Loaded first: patched embeddings are the ones that the encoder will see.
    comfy.model_management.load_models_gpu([clip.patcher])
    own_rows = embeddings([chunks[number].ids[i] for i in positions])
    if replaced_by.strip():
        corruption = replacement(own_rows, positions, embeddings(reader.word_ids(replaced_by)))
    else:
        # One more than is traced: the control's donor.
        corruption = gaussian(own_rows, positions, multiple=multiple, draws=draws + 1, seed=seed)
    case = Case(
        prompt, subject, corruption, _encode(clip, tokens), chunks=len(chunks), chunk=number
    )
    pooled = clip.encode_from_tokens(tokens, return_pooled=True)[1]
    return CorruptedPrompt(clip, case, chunks[number], ranges[-1], pooled, _labels(clip, chunks[number]))


def _encode(clip: comfy.sd.CLIP, tokens: dict[str, Any]) -> Callable[[int], torch.Tensor]:
    def encode(rows: int) -> torch.Tensor:
        # ComfyUI encodes the parts of a long prompt side by side and joins them: equal parts are equal rows.
        joined = clip.encode_from_tokens({key: list(parts) * rows for key, parts in tokens.items()})
        return joined.reshape(rows, joined.shape[1] // rows, joined.shape[2])

    return encode


# --- marked prompts --------------------------------------------------------------------------------------------------

_MARKED = re.compile(r"\[([^\[\]]+)\]")


def parse_prompts(text: str) -> list[tuple[str, str]]:
    """Lines of prompts with the subject in square brackets, as (prompt, subject).

    Raises:
        SubjectError: no lines, or a line without exactly one marked subject.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise SubjectError("No prompt given. Write one a line with the subject in brackets: a house by [van gogh]")
    result = []
    for line in lines:
        marked = _MARKED.findall(line)
        if len(marked) != 1:
            raise SubjectError(
                f"Found {len(marked)} subjects in brackets in the line {line!r}; expected exactly one, such as: "
                "a house by [van gogh]"
            )
        result.append((_MARKED.sub(r"\1", line), marked[0].strip()))
    return result


# --- painting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SamplerSettings:
    """The settings of a KSampler."""

    steps: int
    cfg: float
    sampler: str
    scheduler: str


def make_painter(
    model: comfy.model_patcher.ModelPatcher,
    negative: list[Any],
    latent: dict[str, Any],
    settings: SamplerSettings,
    *,
    branch: str = "cond",
) -> Callable[[torch.Tensor, int, Sequence[Patch]], torch.Tensor]:
    """A painter (see ``tracing.lockstep``) that runs ComfyUI's own sampler on a MODEL.

    Args:
        latent: one latent; its size is what is painted.
        branch: "cond" or "both" halves of the guidance.

    Raises:
        ValueError: the latent holds more than one picture, or the sampler draws noise at every step.
    """
    shape = latent["samples"].shape
    if shape[0] != 1:
        raise ValueError(
            f"Tracing paints from one initial latent; got a batch of {shape[0]}. Set batch_size to 1 and trace several "
            "seeds instead."
        )
    if settings.sampler not in samplers():
        raise ValueError(
            f"The sampler {settings.sampler!r} draws new noise at every step, so clean and restored runs could not be "
            f"compared. Choose one of {', '.join(samplers())}."
        )
    empty = comfy.sample.fix_empty_latent_channels(model, latent["samples"])

    def paint(states: torch.Tensor, seed: int, patches: Sequence[Patch]) -> torch.Tensor:
        rows = len(states)
        noise = comfy.sample.prepare_noise(empty, seed).repeat(rows, 1, 1, 1)
        patched = with_patches(model, _fixed(patches, rows), branch=branch) if patches else model
        return comfy.sample.sample(
            patched, noise, settings.steps, settings.cfg, settings.sampler, settings.scheduler,
            [[states, {}]], negative, empty.repeat(rows, 1, 1, 1), disable_pbar=True, seed=seed,
            callback=lambda *_: comfy.model_management.throw_exception_if_processing_interrupted(),
        )  # fmt: skip

    return paint


def _options_of(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    for value in (kwargs.get("transformer_options"), *args):
        if isinstance(value, dict) and "cond_or_uncond" in value:
            return value
    raise InterventionError("ComfyUI ran the UNet without telling which rows are the prompt's (cond_or_uncond).")


def step_of(options: dict[str, Any]) -> int:
    """Which sampling step is running: the last whose sigma is not below the one that the UNet is given."""
    sigmas, now = options["sample_sigmas"], options["sigmas"].flatten()[0]
    return max(0, int((sigmas.to(now) >= now * (1 - 1e-5)).sum()) - 1)


def _fixed(patches: Sequence[Patch], rows: int) -> Callable[[int], Sequence[Patch]]:
    def patches_of(size: int) -> Sequence[Patch]:
        if size != rows:
            raise InterventionError(
                f"The UNet was given {size} rows a conditioning; expected {rows}. Another node changes the batch."
            )
        return patches

    return patches_of


def with_patches(
    model: comfy.model_patcher.ModelPatcher,
    patches_of: Callable[[int], Sequence[Patch]],
    *,
    branch: str = "cond",
) -> comfy.model_patcher.ModelPatcher:
    """A clone of a MODEL whose UNet carries out patches; hooks live only as long as one forward pass.

    Args:
        patches_of: the patches, given how many rows a conditioning has in the pass that runs.

    Raises:
        InterventionError: the model is compiled or spread over GPUs; while sampling: a site did not run.
    """
    if "multigpu_clones" in model.model_options or hasattr(model.model.diffusion_model, "_orig_mod"):
        raise InterventionError(
            "The MODEL is compiled or spread over GPUs; the tracer's hooks would not run. Trace the plain model."
        )

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = _options_of(args, kwargs)
        parts = options["cond_or_uncond"]
        size = len(args[0]) // len(parts)
        chosen = [i for i, part in enumerate(parts) if branch == "both" or part == POSITIVE]
        sites: dict[str, Site] = {site.name: site for site in unet_sites(executor.class_obj)}
        step = step_of(options)
        with patching(
            sites, patches_of(size), index=lambda row: [part * size + row for part in chosen], step=lambda: step
        ):
            return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, WRAPPER, wrapper)
    return clone


def restore_in_unet(
    model: comfy.model_patcher.ModelPatcher,
    corrupted: CorruptedPrompt,
    sites: Sequence[str],
    *,
    steps: range | None = None,
    branch: str = "cond",
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL that any stock sampler paints the restored run with, given the corrupted CONDITIONING as positive.

    The clean run rides along as the second half of the batch and is taken off the result.

    Raises:
        InterventionError: see :func:`with_patches`; while sampling: the positive conditioning is not the corrupted one.
    """
    clean = corrupted.encode([Restoration(None)])

    def patches_of(size: int) -> list[Patch]:
        half = size // 2
        return [Patch(site, row, half + row, None, steps) for site in sites for row in range(half)]

    def outer(executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any) -> Any:
        guider, rows = executor.class_obj, len(noise)
        guider.conds = {**guider.conds, "positive": _with_clean(guider.conds.get("positive"), clean, rows)}
        mask, callback, *rest = (*args, None, None)[: max(2, len(args))]
        if mask is not None and len(mask) == rows and rows > 1:
            mask = torch.cat([mask, mask])

        def seen(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
            callback(step, x0[:rows], x[:rows], total)

        both = (torch.cat([noise, noise]), torch.cat([latent, latent]), sampler, sigmas, mask, callback and seen)
        if kwargs.get("latent_shapes"):
            kwargs["latent_shapes"] = [(2 * rows, *shape[1:]) for shape in kwargs["latent_shapes"]]
        return executor(*both, *rest, **kwargs)[:rows]

    restored = with_patches(model, patches_of, branch=branch)
    restored.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, WRAPPER, outer)
    return restored


def _with_clean(positive: list[dict[str, Any]] | None, clean: torch.Tensor, rows: int) -> list[dict[str, Any]]:
    if positive is None or len(positive) != 1 or positive[0].get("cross_attn") is None:
        raise InterventionError(
            f"The sampler has {len(positive or ())} positive conditionings; expected the one from Corrupt Prompt. "
            "Connect it directly, uncombined."
        )
    corrupted = positive[0]["cross_attn"]
    if corrupted.shape[1:] != clean.shape[1:] or rows % len(corrupted):
        raise InterventionError(
            f"The positive conditioning has shape {tuple(corrupted.shape)}, the clean run of the CORRUPTION "
            f"{tuple(clean.shape)}. Connect the corrupted CONDITIONING of the same Corrupt Prompt node to the sampler."
        )
    states = torch.cat([corrupted.repeat(rows // len(corrupted), 1, 1), clean.to(corrupted).repeat(rows, 1, 1)])
    return [{**positive[0], "cross_attn": states}]
