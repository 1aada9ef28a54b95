"""Predicts the rows of a file with a live model, batched by the scoring engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import TaskError
from evomerge.scoring import Answer, Request
from evomerge.scoring.engine import Encoder, Pair, ScoringEngine
from evomerge.submission.config import Predict
from evomerge.submission.conventions import KitTokenizer, right_requests
from evomerge.submission.csv_rows import Row

BLOCK = 256  # rows planned together


@dataclass(frozen=True)
class Scored:
    """A file's predictions as texts: the index of a choice, or a generated answer."""

    file: Path
    rows: Sequence[Row]
    predictions: Sequence[str]


class Predictor:
    """Predicts rows by either convention; greedy answers have at most `max_gen_len` tokens.

    `longest` is a number of tokens that no input with a choice exceeds. `max_length`, `batch_tokens` and `path` are
    those of the run's model, by which its search has scored.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        kit: KitTokenizer,
        *,
        max_gen_len: int,
        longest: int,
        max_length: int | None = None,
        batch_tokens: int = 4096,
        path: str = "auto",
    ) -> None:
        self._kit, self._max_gen_len = kit, max_gen_len
        self._tokenizer = tokenizer
        # The kit truncates at max_seq_len alone, so its requests have a limit that none of them reaches.
        self._encoders: dict[Predict, Encoder] = {
            "right": Encoder(tokenizer, model.config, max_length=max_length, batch_tokens=batch_tokens),
            "kit": Encoder(tokenizer, model.config, max_length=longest + max_gen_len + 1, batch_tokens=batch_tokens),
        }
        self._engines = {
            name: ScoringEngine(model, tokenizer, encoder, batch_tokens=batch_tokens, path=path, counts_context=False)
            for name, encoder in self._encoders.items()
        }

    @property
    def max_length(self) -> int:
        """The number of tokens that a `right` request is truncated to, on the left."""
        return self._encoders["right"].max_length

    def input_length(self, row: Row) -> int:
        """The number of tokens of a row's input, as the kit cuts it."""
        return len(self._kit.input(row.input))

    @torch.inference_mode()
    def predict(self, file: Path, rows: Sequence[Row], convention: Predict, known: Scored | None = None) -> Scored:
        """The prediction of every row; TaskError names a row for which the convention has none.

        `known` are predictions of the same rows by the other convention, whose generated answers are equal.
        """
        found: list[str] = []
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            chosen = iter(self._choose([row for row in block if row.choices], convention, file, rows))
            texts = known.predictions[start : start + BLOCK] if known else None
            generated = iter(() if texts else self._generate([row for row in block if not row.choices]))
            found += [
                next(chosen) if row.choices else texts[place] if texts else next(generated)
                for place, row in enumerate(block)
            ]
        return Scored(file, rows, found)

    def _choose(self, asked: Sequence[Row], convention: Predict, file: Path, rows: Sequence[Row]) -> list[str]:
        scores = (self._right_scores if convention == "right" else self._kit_scores)(asked, file, rows)
        # The kit writes the first digit of an index, because it zips the text with columns of one value.
        return [str(max(range(len(values)), key=values.__getitem__))[0] for values in scores]

    def _right_scores(self, asked: Sequence[Row], file: Path, rows: Sequence[Row]) -> list[list[float]]:
        encode = self._encoders["right"].encode
        try:
            chunk = encode([request for row in asked for request in right_requests(row.input, row.choices)])
        except TaskError:
            for row in asked:
                try:
                    encode(right_requests(row.input, row.choices))
                except TaskError as error:
                    number = next(number for number, other in enumerate(rows, 1) if other is row)
                    raise TaskError(f"{file}: row {number}: {error}") from None
            raise
        responses = iter(self._engines["right"].respond(chunk) if asked else ())
        return [[next(responses)[0] for _ in row.choices] for row in asked]

    def _kit_scores(self, asked: Sequence[Row], file: Path, rows: Sequence[Row]) -> list[list[float]]:
        numbers = {id(row): number for number, row in enumerate(rows, 1)}
        by_row = [self._kit.pairs(row, f"{file}: row {numbers[id(row)]}") for row in asked]
        pairs: list[Pair] = [pair for listed in by_row for pair in listed if pair]
        chunk = self._encoders["kit"].encode_pairs(pairs)
        values = iter(self._engines["kit"].log_likelihoods(chunk) if pairs else ())
        return [[next(values)[0] if pair else 0.0 for pair in listed] for listed in by_row]

    def _generate(self, rows: Sequence[Row]) -> list[str]:
        names = ("eos_token_id", "bos_token_id")
        special = {name: value for name in names if (value := getattr(self._tokenizer, name)) is not None}
        options = {"max_gen_toks": self._max_gen_len, "do_sample": False, "until": [], **special}
        requests = [Request("generate_until", (self._kit.input(row.input), options)) for row in rows]
        answers = self._engines["kit"].respond(self._encoders["kit"].encode(requests)) if requests else []
        return [answer.text for answer in answers if isinstance(answer, Answer)]
