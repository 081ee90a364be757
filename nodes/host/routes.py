"""The pack's one HTTP route: the tokens of a prompt, for the subject picker on "Corrupt Prompt".

It reads no file but CLIP's vocabulary and the embeddings that a prompt names, keeps nothing, and answers JSON to JSON
of limited size. Other sites' pages cannot ask: a browser sends JSON across origins only after a preflight, which
ComfyUI does not grant.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
from typing import Any

from aiohttp import web

from ...text.prompts import PromptError, PromptTokenizer
from ...text.subjects import SubjectError
from .prompt_parts import PromptPart, cut_prompt, find_in_parts, tokenize_naming

TOKENS = "/diff_quickfix/tokens"
LONGEST_PROMPT, LONGEST_SUBJECT = 4000, 500
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


def _asked(body: bytes) -> tuple[str, str]:
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
    return _repaired(prompt), _repaired(subject)


def _repaired(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


async def answer_tokens(request: web.Request) -> web.Response:
    """POST {"prompt", "subject"}: :func:`prompt_tokens`; 400 with a reason for anything else."""
    if request.content_type != "application/json":
        return web.json_response({"problem": "expected application/json"}, status=400)
    body = await request.content.read(_LARGEST_BODY + 1)
    while body and len(body) <= _LARGEST_BODY and not request.content.at_eof():
        body += await request.content.read(_LARGEST_BODY + 1 - len(body))
    if len(body) > _LARGEST_BODY:
        return web.json_response({"problem": "the request is too large"}, status=400)
    try:
        prompt, subject = _asked(body)
    except ValueError as error:
        return web.json_response({"problem": str(error)}, status=400)
    return web.json_response(await asyncio.to_thread(prompt_tokens, prompt, subject))


def add_routes() -> None:
    """Register the route with the running server, if there is one."""
    from server import PromptServer

    running = getattr(PromptServer, "instance", None)
    if running is not None:
        running.routes.post(TOKENS)(answer_tokens)
