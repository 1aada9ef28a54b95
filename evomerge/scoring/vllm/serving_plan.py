"""What vLLM needs beside the live model: how long its sequences are, and how much memory it takes."""

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import GenerationConfig, PretrainedConfig

from evomerge.scoring.engine import GenerationOptions

# Settings of `generate` that have the same meaning in vLLM, and those without influence on its answers.
SUPPORTED = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "repetition_penalty"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "cache_implementation"),
}
ROWS = 64  # answers that are decoded at the same time
LEAST_CACHE = 256 * 2**20  # bytes of the KV cache


@dataclass(frozen=True)
class ServingPlan:
    """The tokens of the longest prompt with its answer, and the bytes of the KV cache and of the weights."""

    longest: int
    cache_bytes: int
    weight_bytes: int

    @property
    def nbytes(self) -> int:
        """The memory of the engine."""
        return self.cache_bytes + self.weight_bytes

    @classmethod
    def of(cls, config: PretrainedConfig, itemsize: int, weight_bytes: int, lengths: Iterable[int]) -> "ServingPlan":
        """For requests of these lengths: a cache of ROWS of the longest, with `itemsize` bytes for each value."""
        text = config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        longest = max(lengths, default=1)
        row = 2 * text.num_hidden_layers * heads * width * itemsize * longest
        return cls(longest, max(LEAST_CACHE, int(ROWS * row)), weight_bytes)


def unsupported_settings(options: GenerationOptions, defaults: GenerationConfig) -> list[str]:
    """The settings of a request, or of the model's generation configuration, that vLLM does not have."""
    given = {"max_length"} & options.generate_kwargs.keys()  # what a request says of it counts prompt tokens
    return sorted(options.settings(defaults) - SUPPORTED | given)


def has_attention(config: PretrainedConfig) -> bool:
    """Whether the size of a KV cache can be computed."""
    return hasattr(config.get_text_config(), "num_attention_heads")
