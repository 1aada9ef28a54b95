"""The scoring engine as an lm-eval model class, for the evaluation of a finished model."""

import copy
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lm_eval
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import handle_non_serializable, make_table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import EvomergeError, TaskError
from evomerge.scoring import Request, silence_lm_eval
from evomerge.scoring.engine import UNLIMITED, Encoder, Pair, ScoringEngine
from evomerge.scoring.tasks.loading import TaskLoader
from evomerge.scoring.tasks.task_errors import one_line

BLOCK = 1024  # pairs planned together


class EngineLM(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face class with this package's forward passes, for `lm_eval.simple_evaluate(model=…)`.

    Tokenisation, chat templates and generation arguments are those of the parent class. The model is put in evaluation
    mode. `track` wraps the iteration over blocks of requests, for a progress display.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 16,
        batch_tokens: int = 4096,
        max_length: int | None = None,
        scoring: str = "auto",
        track: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    ) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        super().__init__(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),
            backend="seq2seq" if model.config.is_encoder_decoder else "causal",
            batch_size=UNLIMITED,  # all requests at once; the engine makes its own batches
            max_length=max_length,
            softmax_dtype="float32",
        )
        self._encoder = Encoder(tokenizer, model.config, max_length=max_length, batch_tokens=batch_tokens)
        self._engine = ScoringEngine(
            model, tokenizer, self._encoder, batch_size=batch_size, batch_tokens=batch_tokens, path=scoring
        )
        self._track = track

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        pairs = [Pair(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        blocks = [pairs[start : start + BLOCK] for start in range(0, len(pairs), BLOCK)]
        found: list[tuple[float, bool]] = []
        with torch.inference_mode():
            for block in self._track(blocks):
                found += self._engine.log_likelihoods(self._encoder.encode_pairs(block))
        return found

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """The parent's method without its progress bars."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[float]:
        """The parent's method without its progress bars."""
        answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return answers

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The generated texts in request order."""
        listed = [Request("generate_until", request.args) for request in requests]
        blocks = [listed[start : start + BLOCK] for start in range(0, len(listed), BLOCK)]
        chunks = (self._encoder.encode(block) for block in self._track(blocks))
        return [answer.text for chunk in chunks for answer in self._engine.respond(chunk)]


@dataclass(frozen=True)
class Evaluation:
    """lm-eval's results, as tables and as JSON."""

    results: dict[str, Any]

    def tables(self) -> Iterator[str]:
        """The tables that the `lm_eval` command prints."""
        yield make_table(self.results)
        if self.results.get("groups"):
            yield make_table(self.results, "groups")

    def text(self) -> str:
        """JSON."""
        return json.dumps(self.results, indent=2, default=handle_non_serializable) + "\n"


def evaluate_tasks(
    lm: EngineLM,
    tasks: Sequence[str | Mapping[str, Any]],
    loader: TaskLoader,
    *,
    num_fewshot: int | None,
    limit: float | None,
    apply_chat_template: bool,
    fewshot_as_multiturn: bool,
    system_instruction: str | None,
    gen_kwargs: dict[str, Any] | None,
) -> Evaluation:
    """Evaluate whole tasks by `lm_eval.simple_evaluate`, with its keywords and without its output.

    TaskError names the tasks and the reason if it fails.
    """
    with silence_lm_eval():
        try:
            results = lm_eval.simple_evaluate(
                model=lm,
                tasks=list(tasks),
                task_manager=loader.manager,
                num_fewshot=num_fewshot,
                limit=limit,
                apply_chat_template=apply_chat_template,
                fewshot_as_multiturn=fewshot_as_multiturn,
                system_instruction=system_instruction,
                gen_kwargs=gen_kwargs,
                log_samples=False,
            )
        except EvomergeError:
            raise
        except Exception as error:  # templates, samplers and task code may raise anything
            names = ", ".join(task if isinstance(task, str) else str(task["task"]) for task in tasks)
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise TaskError(
                f"lm-eval cannot evaluate {names}: {reason}; check the task's templates and data"
            ) from error
    return Evaluation(results)
