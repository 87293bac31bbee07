"""Chat templates: what stands before and after a text when it is a user's message.

The frame is found by rendering a template once with a marker for the text, so that positions in the user's own text
stay known whatever the template adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from layerwise.errors import UserError

_MARK = "LAYERWISE-TEXT-7f3a"


@dataclass(frozen=True)
class ChatFrame:
    """``prefix + text + suffix`` is what the model reads; ``trims`` where the template strips the text first."""

    prefix: str
    suffix: str
    trims: bool

    def render(self, text: str) -> tuple[str, int]:
        """The whole text the model reads, and where in it the user's own text begins (its first kept character)."""
        kept = text.strip() if self.trims else text
        return self.prefix + kept + self.suffix, len(self.prefix)

    def shift(self, text: str) -> int:
        """How many characters of ``text`` the template strips from its start."""
        return len(text) - len(text.lstrip()) if self.trims else 0


def read_template(chat_template: bool | str, tokenizer: Any) -> str | None:
    """The Jinja text of a ``chat_template`` setting; None for the tokenizer's own.

    Raises UserError where a file is missing, or where the tokenizer has no template of its own.
    """
    if isinstance(chat_template, str):
        if chat_template.endswith((".jinja", ".jinja2")):
            path = Path(chat_template).expanduser()
            if not path.is_file():
                raise UserError(f"model.chat_template: no file {chat_template}.")
            return path.read_text(encoding="utf-8")
        if "{" not in chat_template:
            raise UserError(
                f"model.chat_template {chat_template!r} is neither true, a .jinja file, nor a Jinja template with {{{{ … }}}} in it."
            )
        return chat_template
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "model.chat_template is true, but this tokenizer has no template.\n"
            "Give one as text or as a .jinja file, or choose an instructed model (smollm2 has one)."
        )
    return None


def chat_frame(tokenizer: Any, chat_template: bool | str, system_prompt: str | None) -> ChatFrame:
    """The frame that a tokenizer's chat template puts round a user's message, ready for the model's answer.

    Raises UserError where the template fails, leaves out the text or the system prompt, or rewrites the text.
    """
    template = read_template(chat_template, tokenizer)

    def rendered(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        if system_prompt is not None:
            messages.insert(0, {"role": "system", "content": system_prompt})
        try:
            return str(
                tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=True
                )
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise UserError(f"the chat template cannot be rendered: {error}") from error

    whole = rendered(_MARK)
    if whole.count(_MARK) != 1:
        raise UserError(
            f"the chat template repeats or leaves out the user's text ({whole.count(_MARK)} times in it); one is needed."
        )
    if system_prompt is not None and system_prompt.strip() not in whole:
        raise UserError("the chat template has no place for a system prompt: leave out model.system_prompt.")
    prefix, suffix = whole.split(_MARK)
    padded = f" \n{_MARK}\n "
    spaced = rendered(padded)
    for trims, expected in ((False, prefix + padded + suffix), (True, whole)):
        if spaced == expected:
            return ChatFrame(prefix, suffix, trims)
    raise UserError(
        "the chat template rewrites the user's text, so positions in it cannot be followed: give another template."
    )
