"""Conversations as one prompt, rendered by the tokenizer's chat template as lm-eval's HF class does."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jinja2

from evomerge.errors import TaskError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chat_template(tokenizer: "PreTrainedTokenizerBase | None") -> Callable[..., str]:
    """A function that renders a conversation, without its system turn where the template refuses that.

    TaskError if the tokenizer has no template.
    """
    if tokenizer is None or not tokenizer.chat_template:
        raise TaskError("apply_chat_template is set, but the base's tokenizer has no chat template; unset it")

    def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        try:
            return _render(tokenizer, history, add_generation_prompt)
        except jinja2.exceptions.TemplateError:
            rest = [message for message in history if message["role"] != "system"]
            return _render(tokenizer, rest, add_generation_prompt)

    return render


def _render(tokenizer: "PreTrainedTokenizerBase", history: list[dict[str, str]], generation: bool) -> str:
    text = tokenizer.apply_chat_template(
        history, tokenize=False, add_generation_prompt=generation, continue_final_message=not generation
    )
    return str(text)
