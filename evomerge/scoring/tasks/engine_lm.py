"""The scoring engine as an lm-eval model class, for evaluations of a finished model."""

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
from evomerge.scoring.engine import MANY, Encoder, Pair, ScoringEngine
from evomerge.scoring.tasks.loading import TaskLoader
from evomerge.scoring.tasks.task_errors import one_line

BLOCK = 1024  # pairs planned together


class EngineLM(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face class with this package's forward passes; `lm_eval.simple_evaluate(model=…)` takes it.

    Tokenisation, chat templates and generation arguments are the parent's. The model is put in evaluation mode;
    `track` may wrap the blocks of work, to show progress.
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
            batch_size=MANY,  # a rolling request then comes with all its windows; the engine makes batches of its own
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
                found += self._engine.answers(self._encoder.asked(block))
        return found

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """The parent's, without its bars."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[float]:
        """The parent's, without its bars."""
        answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return answers

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts in request order."""
        asked = [Request("generate_until", request.args) for request in requests]
        blocks = [asked[start : start + BLOCK] for start in range(0, len(asked), BLOCK)]
        work = (self._encoder.work(block) for block in self._track(blocks))
        return [answer.text for one in work for answer in self._engine.respond(one)]


@dataclass(frozen=True)
class Evaluation:
    """lm-eval's results, to print and to keep."""

    results: dict[str, Any]

    def tables(self) -> Iterator[str]:
        """What the `lm_eval` command prints."""
        yield make_table(self.results)
        if self.results.get("groups"):
            yield make_table(self.results, "groups")

    def text(self) -> str:
        """JSON."""
        return json.dumps(self.results, indent=2, default=handle_non_serializable) + "\n"


def evaluate(
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
    """`lm_eval.simple_evaluate` of whole tasks, with its own keywords, without its noise; TaskError where it fails."""
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
        except Exception as error:  # templates, samplers and task code raise whatever comes to hand
            names = ", ".join(task if isinstance(task, str) else str(task["task"]) for task in tasks)
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise TaskError(
                f"lm-eval cannot evaluate {names}: {reason}; check the task's templates and data"
            ) from error
    return Evaluation(results)
