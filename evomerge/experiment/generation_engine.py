"""Which engine generates the answers of a search, the decoding loop or vLLM; decided once, before weights are read."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig, PretrainedConfig

from evomerge.errors import ConfigError
from evomerge.merging import memory_need
from evomerge.models import model_config, torch_dtype
from evomerge.routing import has_routers
from evomerge.scoring import Request
from evomerge.scoring.engine import RequestReader
from evomerge.scoring.vllm import ServingPlan, has_attention, unsupported_settings
from evomerge.workers import pools

if TYPE_CHECKING:
    from evomerge.experiment.experiment import Experiment

VLLM, LOOP, AUTO = "vllm", "loop", "auto"
KEY = "generation"  # in ledger and result
INSTALL = "pip install 'evomerge[vllm]' in its own environment (docs/generation.md), or set scorer.generation=loop"
OLDEST = (0, 32)  # the version of vLLM from which on its loader can be recorded


def generation_engine(experiment: "Experiment") -> str | None:
    """vllm or loop; None where no task generates. ConfigError where vLLM is asked for and cannot serve this search.

    With `auto`, a run that was begun with the loop goes on with it.
    """
    asked = experiment.config.scorer.generation
    if not experiment.scorer.plan.generating:
        return None
    if asked == LOOP or (asked == AUTO and experiment.begun and experiment.begun.get(KEY) is None):
        return LOOP
    reason = _why_not(experiment)
    if reason and asked == VLLM:
        raise ConfigError(f"scorer.generation=vllm: {reason}")
    return LOOP if reason else VLLM


def plan_serving(experiment: "Experiment") -> ServingPlan:
    """The lengths and the memory of vLLM's engine for all requests of this search; TaskError for a prompt too long."""
    model, family = experiment.config.model, experiment.family
    itemsize, size = torch_dtype(model.dtype).itemsize, memory_need(family, model.dtype).model
    reader, requests = _reader(experiment)
    return ServingPlan.of(_model_config(experiment), itemsize, int(size), reader.lengths(requests))


def _reader(experiment: "Experiment") -> tuple[RequestReader, list[Request]]:
    requests = [request for chunk in experiment.work.values() for request in chunk.requests]
    return RequestReader(_model_config(experiment), experiment.tokenizer, experiment.max_length), requests


def _model_config(experiment: "Experiment") -> PretrainedConfig:
    return model_config(experiment.family.base.folder, experiment.config.model.trust_remote_code)


def recorded_engine(experiment: "Experiment") -> dict[str, Any]:
    """The entry of ledger and result: vllm, or null for the loop, which older ledgers do not name."""
    return {KEY: VLLM if experiment.generation == VLLM else None}


def _why_not(experiment: "Experiment") -> str | None:
    """Why vLLM cannot generate the answers of this search; None if nothing is known against it."""
    config = _model_config(experiment)
    reasons = {
        f"{_missing(experiment)}; {INSTALL}": bool(_missing(experiment)),
        "vLLM has no encoder-decoder models": config.is_encoder_decoder,
        "the model has no attention heads, so its cache cannot be planned": not has_attention(config),
        "vLLM repacks the experts of a mixture of experts": has_routers(experiment.family),
        "a merged vocabulary is not written into vLLM": bool(experiment.vocabulary),
        "vLLM cannot reorder layers": bool(experiment.config.flow),
        "a candidate is written to one GPU, without tensor parallelism: set pool.num_gpus=1": _gpus(experiment) > 1,
        "a quantised base is not served": bool(experiment.family.dequantised),
        "a submission predicts with the loop, by whose speed its time is kept": experiment.config.submission.pack,
    }
    found = next((reason for reason, holds in reasons.items() if holds), None) or _unknown_settings(experiment)
    if found is None or INSTALL in found:
        return found
    return f"{found} or scorer.generation=loop" if ": set " in found else f"{found}; set scorer.generation=loop"


def _gpus(experiment: "Experiment") -> float:
    return float(experiment.config.settings("pool").get("num_gpus") or 0)


def _missing(experiment: "Experiment") -> str:
    """What workers lack for vLLM, in this environment or in that of `pool.python`; empty if nothing."""
    python = experiment.config.settings("pool").get("python")
    if python is None:
        return "" if find_spec(VLLM) else "vLLM is not installed"
    found = pools.installed_versions(python).get(VLLM)
    if found is None:
        return f"vLLM is not installed in the environment of pool.python={python}"
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    return (
        "" if numbers >= OLDEST else f"vLLM {found} of pool.python={python} is older than {'.'.join(map(str, OLDEST))}"
    )


def _unknown_settings(experiment: "Experiment") -> str | None:
    path, (reader, requests) = experiment.family.base.folder / "generation_config.json", _reader(experiment)
    try:
        defaults = GenerationConfig.from_pretrained(path.parent) if path.is_file() else GenerationConfig()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a generation configuration ({error}); download it again") from None
    unknown = {name for options in reader.options(requests) for name in unsupported_settings(options, defaults)}
    return f"vLLM has no {', '.join(sorted(unknown))} (gen_kwargs, generation_config.json)" if unknown else None
