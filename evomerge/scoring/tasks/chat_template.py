"""Conversations as one prompt, rendered by the tokenizer's chat template as lm-eval's HF class does."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jinja2

from evomerge.errors import TaskError
from evomerge.scoring.tasks.time_limit import OverdueError, time_limit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RENDER_LIMIT = 20.0  # seconds in which one conversation must be rendered; usual are milliseconds


def chat_template(tokenizer: "PreTrainedTokenizerBase | None") -> Callable[..., str]:
    """A function that renders a conversation, without its system turn where the template refuses that.

    TaskError if the tokenizer has no template, or one that does not end.
    """
    if tokenizer is None or not tokenizer.chat_template:
        raise TaskError("apply_chat_template is set, but the base's tokenizer has no chat template; unset it")

    def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        try:
            with time_limit(RENDER_LIMIT):
                return _rendered(tokenizer, history, add_generation_prompt)
        except (OverdueError, MemoryError, RecursionError) as error:
            raise TaskError(
                f"{tokenizer.name_or_path}: its chat template is of no use ({type(error).__name__}: {error}); mend "
                "chat_template in its tokenizer_config.json or chat_template.jinja"
            ) from None

    return render


def _rendered(tokenizer: "PreTrainedTokenizerBase", history: list[dict[str, str]], generation: bool) -> str:
    try:
        return _render(tokenizer, history, generation)
    except jinja2.exceptions.TemplateError:
        others = [message for message in history if message["role"] != "system"]
        return _render(tokenizer, others, generation)


def _render(tokenizer: "PreTrainedTokenizerBase", history: list[dict[str, str]], generation: bool) -> str:
    text = tokenizer.apply_chat_template(
        history, tokenize=False, add_generation_prompt=generation, continue_final_message=not generation
    )
    return str(text)
