"""What every engine that generates does with lm-eval's `generate_until` requests: options, prompts and texts."""

from collections.abc import Sequence

from lm_eval.models.utils import has_bos_prefix
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from evomerge.errors import TaskError
from evomerge.scoring import Answer, Request
from evomerge.scoring.engine.generation_options import GenerationOptions, read_generation_options
from evomerge.scoring.engine.prompts import Ids, Prompt, group_by_options


class RequestReader:
    """Reads requests as lm-eval's Hugging Face class does; `_generate` of a subclass generates.

    A context is truncated on the left to leave room for `max_gen_toks`, and
    an empty one is replaced by the prefix token.
    """

    def __init__(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length
        self._seq2seq = bool(config.is_encoder_decoder)
        self._eos = str(tokenizer.decode(tokenizer.eos_token_id))

    def answer(self, requests: Sequence[Request]) -> list[Answer | list[Answer]]:
        """One answer per request in order, or a list of them for a request with repeats.

        TaskError for invalid generation options, CandidateError if the model's outputs are not finite.
        """
        answers: list[Answer | list[Answer]] = [Answer("")] * len(requests)
        for places in group_by_options(requests):
            options = read_generation_options(requests[places[0]].arguments[1], self._eos)
            contexts = {place: self._encode(requests[place].arguments[0], options) for place in places}
            counts: dict[Ids, int] = {}
            for place, ids in contexts.items():
                counts[ids] = max(counts.get(ids, 1), requests[place].repeats if options.sampled else 1)
            found = self._generate([Prompt(*prompt) for prompt in counts.items()], options)
            for place, ids in contexts.items():
                repeats = requests[place].repeats
                repeated = found[ids][:repeats] if options.sampled else found[ids] * repeats
                answers[place] = repeated if repeats > 1 else repeated[0]
        return answers

    def options(self, requests: Sequence[Request]) -> list[GenerationOptions]:
        """The options of each request that generates."""
        asked = (request.arguments[1] for request in requests if request.kind == "generate_until")
        return [read_generation_options(given, self._eos) for given in asked]

    def lengths(self, requests: Sequence[Request]) -> list[int]:
        """The tokens of each request that generates, with its longest answer."""
        contexts = [request.arguments[0] for request in requests if request.kind == "generate_until"]
        pairs = zip(contexts, self.options(requests), strict=True)
        return [len(self._encode(context, one)) + one.max_gen_toks for context, one in pairs]

    def _generate(self, prompts: Sequence[Prompt], options: GenerationOptions) -> dict[Ids, list[Answer]]:
        """Prompt → its answers."""
        raise NotImplementedError

    def _encode(self, context: str | Ids, options: GenerationOptions) -> Ids:
        """The token ids of a context, without a second BOS token and truncated on the left if it is too long.

        A context that is token ids already stays as it is.
        """
        if not isinstance(context, str):
            return context
        room = self._max_length if self._seq2seq else self._max_length - options.max_gen_toks
        if room <= 0:
            raise TaskError(
                f"max_gen_toks={options.max_gen_toks} leaves no room for a prompt in the model's {self._max_length} "
                "tokens; lower it in the task's generation_kwargs"
            )
        has_bos = not self._seq2seq and has_bos_prefix(context, self._tokenizer.bos_token)
        ids = self._tokenizer(context, **({"add_special_tokens": False} if has_bos else {})).input_ids[-room:]
        if not ids:
            bos = self._tokenizer.bos_token_id
            ids = [self._tokenizer.eos_token_id if bos is None else bos]
        return tuple(ids)

    def _text(self, tokens: Sequence[int], stopped: bool, options: GenerationOptions) -> Answer:
        text, cut = options.text(str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)))
        return Answer(text, truncated=not stopped and not cut)
