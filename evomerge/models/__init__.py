"""What lies on disk and what runs: checkpoints, adapters, the family of base and experts, and the live model.

Tensors are lazy and read-only. Those of a quantised checkpoint or a GGUF file are read from a plain copy in the cache,
which is made when a weight is first read; its hash is that of the user's files. The room knows where a stored tensor
lives once transformers has loaded it (destinations), which tensors are tied, which tensor belongs to which group, and
which row of an embedding is which token; it knows no method and no recipe's values. The rule: what transformers and
peft do with a file is read from them and from the file, never from a flag alone or a list of architectures.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.models.adapter import is_adapter
    from evomerge.models.adapter_config import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
    from evomerge.models.adapter_expert import AdapterExpert
    from evomerge.models.auto_classes import model_config
    from evomerge.models.base import Base, summary_line
    from evomerge.models.checkpoint import (
        INDEX_FILE,
        SINGLE_FILE,
        WEIGHTS_KEY,
        Checkpoint,
        equal_tensors,
        fetch,
        open_safetensors,
    )
    from evomerge.models.dense_plan import DEQUANTISED_DTYPE
    from evomerge.models.dequantised import DequantisedCheckpoint, is_complete, open_checkpoint, plain_folder
    from evomerge.models.family import Expert, Family
    from evomerge.models.full_expert import FullExpert
    from evomerge.models.groups import (
        COMPONENTS,
        ROUTER,
        Group,
        Layout,
        layer_of,
        outer_kind,
        relative_depth,
        shift_layer,
    )
    from evomerge.models.layer_list import LAYER_COUNTS, LayerList, per_layer_values, text_section
    from evomerge.models.live_model import (
        check_attention,
        check_device,
        empty_model,
        full_config,
        load_model,
        load_tokenizer,
        resolve_device,
        torch_dtype,
    )
    from evomerge.models.model_names import is_same_model
    from evomerge.models.output_projections import output_filters
    from evomerge.models.places import Destination, LiveTensor, Place
    from evomerge.models.recipe_vocabulary import (
        in_vocabulary_of,
        other_tokens,
        refuse_lost_rows,
        set_vocabulary,
        with_vocabulary,
        write_generation_config,
        write_tokenizer,
    )
    from evomerge.models.references import pin_revisions, resolve_expert
    from evomerge.models.stored_inputs import StoredFactors, StoredInput, StoredTensor
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "ADAPTER_CONFIG_FILE",
    "ADAPTER_WEIGHTS_FILE",
    "COMPONENTS",
    "DEQUANTISED_DTYPE",
    "INDEX_FILE",
    "LAYER_COUNTS",
    "ROUTER",
    "SINGLE_FILE",
    "WEIGHTS_KEY",
    "AdapterExpert",
    "Base",
    "Checkpoint",
    "DequantisedCheckpoint",
    "Destination",
    "Expert",
    "Family",
    "FullExpert",
    "Group",
    "LayerList",
    "Layout",
    "LiveTensor",
    "Place",
    "StoredFactors",
    "StoredInput",
    "StoredTensor",
    "check_attention",
    "check_device",
    "empty_model",
    "equal_tensors",
    "fetch",
    "full_config",
    "in_vocabulary_of",
    "is_adapter",
    "is_complete",
    "is_same_model",
    "layer_of",
    "load_model",
    "load_tokenizer",
    "model_config",
    "open_checkpoint",
    "open_safetensors",
    "other_tokens",
    "outer_kind",
    "output_filters",
    "per_layer_values",
    "pin_revisions",
    "plain_folder",
    "refuse_lost_rows",
    "relative_depth",
    "resolve_device",
    "resolve_expert",
    "set_vocabulary",
    "shift_layer",
    "summary_line",
    "text_section",
    "torch_dtype",
    "with_vocabulary",
    "write_generation_config",
    "write_tokenizer",
]
