"""The pack's two HTTP routes: the tokens of a prompt, for the subject picker on "Corrupt Prompt", and what is noticed
about the names that are typed into nodes that edit.

They read no file but CLIP's vocabulary and the embeddings that a prompt names, keep nothing, and answer JSON to JSON
of limited size. Other sites' pages cannot ask: a browser sends JSON across origins only after a preflight, which
ComfyUI does not grant.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from ...quickfix.concepts.typed import ABSENT, SOURCE, TARGET, TOO_LONG, Note, bare, notes_on, plain
from ...text.captions import PUBLISHED_TEMPLATES, expand
from ...text.prompts import PromptError, PromptTokenizer
from ...text.subjects import SubjectError
from .prompt_parts import PromptPart, cut_prompt, find_in_parts, names_subject, tokenize_naming

TOKENS = "/diff_quickfix/tokens"
NAMES = "/diff_quickfix/names"
LONGEST_PROMPT, LONGEST_SUBJECT, MOST_PROMPTS = 4000, 500, 24
_LARGEST_BODY = 64 * 1024


@functools.cache
def _tokenizer() -> Any:
    """ComfyUI's tokenizer of Stable Diffusion 1.x; 2.x has the same vocabulary. Read when first asked for."""
    import folder_paths
    from comfy.sd1_clip import SDTokenizer

    return SDTokenizer(embedding_directory=folder_paths.get_folder_paths("embeddings"))


def prompt_tokens(prompt: str, subject: str) -> dict[str, Any]:
    """A prompt as "Corrupt Prompt" will read it.

    Returns:
        ``words``: for each word its ``text``, its ``tokens`` (texts), their ``count``, its ``part`` (of 77 tokens),
        whether it is of the ``subject``, and whether it is ``choosable`` as one. An embedding is a word of one token
        that cannot be chosen; its ``count`` is that of its vectors. ``problem``: why the subject cannot be found, or
        "".
    """
    own = _tokenizer()
    try:
        given, names = tokenize_naming(own, prompt)
    except PromptError as error:
        return {"words": [], "problem": str(error)}
    parts = cut_prompt(prompt, given, names, own, None)
    marked: dict[int, set[int]] = {}
    problem = ""
    try:
        number, ranges = find_in_parts(parts, subject, PromptTokenizer(own.tokenizer, pad_token=own.pad_token))
        marked[number] = set(itertools.chain.from_iterable(ranges))
    except SubjectError as error:
        problem = str(error)
    words = []
    for number, part in enumerate(parts):
        words += _words(part, own.tokenizer, number, marked.get(number, set()))
    return {"words": words, "problem": problem}


def _words(part: PromptPart, tokenizer: Any, number: int, marked: set[int]) -> list[dict[str, Any]]:
    ids, ends = part.tokens.body, part.tokens.words
    words: list[dict[str, Any]] = []
    start = 0
    for stop, ends_here in enumerate(ends, 1):
        if ends_here or stop == len(ids):
            shown = list(part.labels[start + 1 : stop + 1])
            embedding = ids[start] < 0
            # Which transformers release takes the end-of-word mark away differs.
            text = shown[0] if embedding else tokenizer.decode(ids[start:stop]).replace("</w>", " ").strip()
            words.append(
                {
                    "text": text,
                    "tokens": shown[:1] if embedding else shown,
                    "count": len(shown),
                    "part": number,
                    "subject": bool(marked.intersection(range(start + 1, stop + 1))),
                    "choosable": not embedding,
                }
            )
            start = stop
    return words


def name_notes(
    source: str, target: str | None, kind: str, listed: bool, prompts: Sequence[str], *, clip: bool = True
) -> list[dict[str, Any]]:
    """What is noticed about the names of one concept (see :func:`notes_on` for the first four), tokens and all.

    Args:
        prompts: those that the CLIP encodes; none where they are not known.
        clip: whether a CLIP reads them. Another encoder (T5, a language model) has other tokens and more room: a name
            is looked for letter by letter then, and nothing is said of its length.
    """
    notes = list(notes_on(source, target, kind, listed=listed))
    if not clip:
        name = plain(source)
        if name and prompts and not notes and not any(_spelled(prompt, name) for prompt in prompts):
            notes.append(Note(SOURCE, ABSENT, {"count": str(len(prompts))}))
        return [note._asdict() for note in notes]
    own = _tokenizer()
    reader = PromptTokenizer(own.tokenizer, pad_token=own.pad_token)
    room = reader.context_length - 2
    for field, name in ((SOURCE, plain(source)), (TARGET, plain(target or ""))):
        if not name or any(note.field == field for note in notes):
            continue
        count = max(map(len, reader.word_ids_all(expand(PUBLISHED_TEMPLATES, name))))
        if count > room:
            notes.append(Note(field, TOO_LONG, {"count": str(count), "room": str(room)}))
        elif field == SOURCE and prompts and not any(_named(prompt, name, reader) for prompt in prompts):
            notes.append(Note(field, ABSENT, {"count": str(len(prompts))}))
    return [note._asdict() for note in notes]


def _spelled(prompt: str, name: str) -> bool:
    """Whether a prompt has a name's letters, with or without the syntax around them."""
    return any(name.casefold() in text.casefold() for text in (plain(prompt), plain(bare(prompt))))


def _named(prompt: str, name: str, reader: PromptTokenizer) -> bool:
    """Whether a prompt names a concept; a prompt that cannot be read may."""
    own = _tokenizer()
    # A sign at an end of a name makes one token with a sign beside it.
    if not (name[0].isalnum() and name[-1].isalnum()) and name.casefold() in prompt.replace("\\", "").casefold():
        return True
    try:
        given, names = tokenize_naming(own, prompt)
    except PromptError:
        return True
    return names_subject(cut_prompt(prompt, given, names, own, None), name, reader)


def _asked_tokens(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
        prompt, subject = asked["prompt"], asked["subject"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError('expected JSON such as {"prompt": "a house by van gogh", "subject": "van gogh"}') from None
    if not isinstance(prompt, str) or not isinstance(subject, str):
        raise ValueError("prompt and subject are texts")
    if len(prompt) > LONGEST_PROMPT or len(subject) > LONGEST_SUBJECT:
        raise ValueError(f"a prompt has at most {LONGEST_PROMPT} characters here, a subject {LONGEST_SUBJECT}")
    # Lone surrogates are JSON, but no text that a tokenizer takes.
    return prompt_tokens(_repaired(prompt), _repaired(subject))


def _asked_names(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
        names = asked["source"], asked["target"], asked["kind"]
        listed, prompts = asked["listed"], asked["prompts"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError('expected JSON with "source", "target", "kind", "listed" and "prompts"') from None
    clip = asked.get("clip", True) is True
    texts = [names[0], names[1] or "", names[2], *(prompts if isinstance(prompts, list) else [None])]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("source, target, kind and prompts are texts")
    if len(prompts) > MOST_PROMPTS or max(map(len, texts)) > LONGEST_PROMPT:
        raise ValueError(f"at most {MOST_PROMPTS} prompts are looked at, of {LONGEST_PROMPT} characters like the names")
    source, target, kind, *read = map(_repaired, texts)
    return {"notes": name_notes(source, None if names[1] is None else target, kind, listed is True, read, clip=clip)}


def _repaired(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


async def _answer(request: web.Request, work: Callable[[bytes], dict[str, Any]]) -> web.Response:
    """What some work makes of a request's JSON; 400 with a reason where that cannot be."""
    if request.content_type != "application/json":
        return web.json_response({"problem": "expected application/json"}, status=400)
    body = await request.content.read(_LARGEST_BODY + 1)
    while body and len(body) <= _LARGEST_BODY and not request.content.at_eof():
        body += await request.content.read(_LARGEST_BODY + 1 - len(body))
    if len(body) > _LARGEST_BODY:
        return web.json_response({"problem": "the request is too large"}, status=400)
    try:
        return web.json_response(await asyncio.to_thread(work, body))
    except ValueError as error:
        return web.json_response({"problem": str(error)}, status=400)


async def answer_tokens(request: web.Request) -> web.Response:
    """POST {"prompt", "subject"}: :func:`prompt_tokens`; 400 with a reason for anything else."""
    return await _answer(request, _asked_tokens)


async def answer_names(request: web.Request) -> web.Response:
    """POST {"source", "target", "kind", "listed", "prompts"} and perhaps "clip": :func:`name_notes`; 400 with a reason
    for all else."""
    return await _answer(request, _asked_names)


def add_routes() -> None:
    """Register the routes with the running server, if there is one."""
    from server import PromptServer

    running = getattr(PromptServer, "instance", None)
    if running is not None:
        running.routes.post(TOKENS)(answer_tokens)
        running.routes.post(NAMES)(answer_names)
