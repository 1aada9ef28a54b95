"""Which engine generates the answers of a search, the decoding loop or vLLM; decided once, before weights are read."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from evomerge.errors import ConfigError
from evomerge.merging import memory_need
from evomerge.models import model_config, torch_dtype
from evomerge.scoring.engine import RequestReader
from evomerge.scoring.vllm import ServingPlan

if TYPE_CHECKING:
    from evomerge.experiment.experiment import Experiment

VLLM, LOOP = "vllm", "loop"
INSTALL = "pip install 'evomerge[vllm]' in an environment of its own, or set scorer.generation=loop"


def generation_engine(experiment: "Experiment") -> str | None:
    """vllm or loop; None where no task generates. ConfigError where vLLM is asked for and cannot serve this search."""
    asked = experiment.config.scorer.generation
    if not experiment.scorer.plan.generating:
        return None
    if asked == LOOP:
        return LOOP
    reason = _why_not(experiment)
    if reason and asked == VLLM:
        raise ConfigError(f"scorer.generation=vllm: {reason}")
    return LOOP if reason else VLLM


def plan_serving(experiment: "Experiment") -> ServingPlan:
    """The lengths and the memory of vLLM's engine for all requests of this search; TaskError for a prompt too long."""
    model, family = experiment.config.model, experiment.family
    config = model_config(family.base.folder, model.trust_remote_code)
    requests = [request for chunk in experiment.work.values() for request in chunk.requests]
    lengths = RequestReader(config, experiment.tokenizer, experiment.max_length).lengths(requests)
    itemsize, size = torch_dtype(model.dtype).itemsize, memory_need(family, model.dtype).model
    return ServingPlan.of(config, itemsize, int(size), lengths)


def recorded_engine(experiment: "Experiment") -> dict[str, Any]:
    """The entry of ledger and result: vllm, or null for the loop, which older ledgers do not name."""
    return {"generation": VLLM if experiment.generation == VLLM else None}


def _why_not(experiment: "Experiment") -> str | None:
    """Why vLLM cannot generate the answers of this search; None if nothing is known against it."""
    model = experiment.config.model
    if find_spec("vllm") is None:
        return f"vLLM is not installed; {INSTALL}"
    if model_config(experiment.family.base.folder, model.trust_remote_code).is_encoder_decoder:
        return "vLLM has no encoder-decoder models; set scorer.generation=loop"
    if experiment.vocabulary:
        return "a merged vocabulary is not written into vLLM; set scorer.generation=loop"
    if experiment.config.flow:
        return "vLLM cannot reorder layers; set scorer.generation=loop"
    if experiment.family.dequantised:
        return "a quantised base is not served; set scorer.generation=loop"
    return None
