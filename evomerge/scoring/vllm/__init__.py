"""Generation by vLLM: its engine in the worker's process, with the candidate in its own parameters.

The room knows no recipe and no method: it says where each tensor of a checkpoint is in the engine's memory, and answers
with what is there. vLLM is an extra. The rule: an engine of which a tensor's place is not known is refused by name.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.scoring.vllm.generator import VLLMGenerator
    from evomerge.scoring.vllm.recorded_places import RecordedPlace, record_places
    from evomerge.scoring.vllm.serving_plan import ServingPlan, has_attention, unsupported_settings
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = ["RecordedPlace", "ServingPlan", "VLLMGenerator", "has_attention", "record_places", "unsupported_settings"]
