"""The options of a `generate_until` request, read as lm-eval's Hugging Face class reads them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from transformers import GenerationConfig

from evomerge.errors import TaskError

MAX_GEN_TOKS = 256  # lm-eval's default
WITHOUT_EFFECT = {
    "transformers_version",
    "_from_model_config",
    "output_attentions",
    "output_hidden_states",
    "use_cache",
}
# Settings of `generate` that the decoding loop supports. With any other one, `generate` runs its own loop.
SUPPORTED = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "max_length", "repetition_penalty"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
}


@dataclass(frozen=True)
class GenerationOptions:
    """Stop sequences, including the end-of-sequence text, the largest length, and the arguments of `generate`."""

    until: tuple[str, ...]
    max_gen_toks: int
    generate_kwargs: Mapping[str, Any]

    @property
    def sampled(self) -> bool:
        """Whether answers are sampled, so that repeated answers to one context differ."""
        return bool(self.generate_kwargs["do_sample"])

    def settings(self, defaults: GenerationConfig) -> set[str]:
        """The names of settings that differ from transformers' defaults, in the request or in those of the model."""
        config = copy.deepcopy(defaults)
        unknown = config.update(**self.generate_kwargs)
        return {*config.to_diff_dict(), *unknown} - WITHOUT_EFFECT

    def text(self, generated: str) -> tuple[str, bool]:
        """The text before the first stop sequence, and whether there was one."""
        text = postprocess_generated_text(generated, list(self.until), think_end_token=None)
        return text, text != generated


def read_generation_options(gen_kwargs: Mapping[str, Any], eos: str) -> GenerationOptions:
    """Read a request's options with lm-eval's defaults and aliases; TaskError for options that cannot be generated."""
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
