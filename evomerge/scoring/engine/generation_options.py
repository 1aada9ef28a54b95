"""What a `generate_until` request asks for, read as lm-eval's Hugging Face class reads it."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from transformers import PreTrainedModel

from evomerge.errors import TaskError

MAX_GEN_TOKS = 256  # lm-eval's, for requests that do not say
IDLE = {"transformers_version", "_from_model_config", "output_attentions", "output_hidden_states", "use_cache"}
# Settings of `generate` that the decoding loop obeys. With any other one, `generate` runs its own loop.
OBEYED = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "max_length", "repetition_penalty"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
}


@dataclass(frozen=True)
class GenerationOptions:
    """Stop sequences (the end-of-sequence text included), a length, and what `generate` is given."""

    until: tuple[str, ...]
    max_gen_toks: int
    generate_kwargs: Mapping[str, Any]

    @property
    def sampled(self) -> bool:
        """Whether two answers to one context may differ."""
        return bool(self.generate_kwargs["do_sample"])

    def settings(self, model: PreTrainedModel) -> set[str]:
        """What `generate` is told beyond its defaults, by the request or by the model's own configuration."""
        config = copy.deepcopy(model.generation_config)
        unknown = config.update(**self.generate_kwargs)
        return {*config.to_diff_dict(), *unknown} - IDLE

    def text(self, generated: str) -> tuple[str, bool]:
        """What stands before the first stop sequence, and whether there was one."""
        text = postprocess_generated_text(generated, list(self.until), think_end_token=None)
        return text, text != generated


def read_generation_options(gen_kwargs: Mapping[str, Any], eos: str) -> GenerationOptions:
    """lm-eval's defaults and aliases applied; TaskError for a request that no model can answer."""
    options = dict(normalize_gen_kwargs(dict(gen_kwargs), MAX_GEN_TOKS))
    until = tuple(handle_stop_sequences(options.pop("until"), eos=eos))
    max_gen_toks = options.pop("max_gen_toks")
    if max_gen_toks < 1:
        raise TaskError(f"max_gen_toks={max_gen_toks}: an answer has at least one token; raise it in generation_kwargs")
    if not options["do_sample"]:
        options.pop("temperature", None)
    elif not options.get("temperature"):
        raise TaskError("do_sample=true needs a temperature above 0 in generation_kwargs; set it, or drop do_sample")
    return GenerationOptions(until, max_gen_toks, options)
