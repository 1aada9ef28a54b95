"""How a multiple-choice row becomes requests: `right` scores all tokens of each choice, `kit` does what the kit does.

`right` is the convention of a search over files with a column `eval_type`, too: the input as it is, a space before the
choice, and the sum of the log-likelihoods of all tokens after the input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from evomerge.errors import TaskError
from evomerge.scoring import Request
from evomerge.scoring.engine import Pair
from evomerge.submission.csv_rows import Row


def right_requests(text: str, choices: Sequence[str]) -> list[Request]:
    """A log-likelihood request for each choice after the input, as lm-eval tokenises it.

    Spaces around a choice are dropped, as in the question files of a search.
    """
    return [Request("loglikelihood", (text, f" {choice.strip()}")) for choice in choices]


def generation_request(text: str, max_gen_len: int) -> Request:
    """A request for a greedy answer that ends with the end token alone."""
    return Request("generate_until", (text, {"max_gen_toks": max_gen_len, "do_sample": False, "until": []}))


@dataclass(frozen=True)
class KitTokenizer:
    """The kit's tokenisation by a tokenizer of this version of transformers.

    `adds_eos` says whether the kit's tokenizer of the choices adds an end token; it then adds no BOS. `max_length` cuts
    the end of a text, special tokens excepted.
    """

    tokenizer: PreTrainedTokenizerBase
    is_encoder_decoder: bool
    adds_eos: bool
    max_length: int | None

    def input(self, text: str) -> tuple[int, ...]:
        """The token ids of an input."""
        return self._ids(text)

    def longest(self, row: Row) -> int:
        """A number of tokens that no input of this row exceeds."""
        choices = (self._ids(choice) for choice in row.choices)
        return len(self.input(row.input)) + max(map(len, choices), default=0) + 1

    def pairs(self, row: Row, where: str) -> list[Pair | None]:
        """A pair for each choice whose log-likelihood is its score; None for a choice whose score is always 0.

        With encoder-decoders the kit does not read the list: each character of its text is a choice. With decoders the
        first token of a choice is never scored. TaskError where the kit's own code fails.
        """
        context = self.input(row.input)
        if self.is_encoder_decoder:
            return [Pair(context, self._ids(character)) for character in row.raw_choices]
        answers = [self._choice(choice) for choice in row.choices]
        if max(map(len, answers)) < 2:
            raise TaskError(
                f"{where}: all choices are single tokens and the tokenizer adds no end token, so the kit's "
                "multiple choice fails with an empty tensor; use --predict right"
            )
        return [Pair(context + ids[:1], ids[1:]) if len(ids) > 1 else None for ids in answers]

    def refuse_failing(self, file: Path, rows: Sequence[Row]) -> None:
        """TaskError for the first row on which the kit's own code fails."""
        for number, row in enumerate(rows, 1):
            if row.choices:
                self.pairs(row, f"{file}: row {number}")

    def _choice(self, text: str) -> tuple[int, ...]:
        if not self.adds_eos:
            return self._ids(text)
        ids = self._cut(self.tokenizer(text, add_special_tokens=False).input_ids, 1)
        return (*ids, self.tokenizer.eos_token_id)

    def _ids(self, text: str) -> tuple[int, ...]:
        options: dict[str, Any] = {"truncation": True, "max_length": self.max_length} if self.max_length else {}
        return tuple(self.tokenizer(text, **options).input_ids)

    def _cut(self, ids: Sequence[int], reserved: int) -> Sequence[int]:
        return ids if self.max_length is None else ids[: max(0, self.max_length - reserved)]
