"""A GGUF file as a plain checkpoint, by the conversions of transformers and the values of the `gguf` package.

transformers' own loader has all tensors in memory at once. Here its functions for one tensor are applied to one tensor
at a time; where an architecture has none (mixtures of experts, and the newest), the whole model is loaded by it.
"""

import re
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GgufConfig, PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from evomerge.errors import ExpertError
from evomerge.models.auto_classes import auto_class_of, silence_transformers
from evomerge.models.dense_plan import (
    SAFETENSORS_TYPES,
    DensePlan,
    DenseTensor,
    declared_dtype,
    plain_config,
    target_dtype,
)
from evomerge.notices import warn_once

SUFFIX = ".gguf"
SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
ONE_BY_ONE = {  # transformers' classes whose `process` needs no other tensor
    "TensorProcessor",
    "LlamaTensorProcessor",
    "GPT2TensorProcessor",
    "BloomTensorProcessor",
    "MambaTensorProcessor",
    "NemotronTensorProcessor",
    "Gemma2TensorProcessor",
}


def is_gguf(path: Path | str) -> bool:
    """Whether the path has the name of a GGUF file."""
    return str(path).endswith(SUFFIX)


def plan_gguf(file: Path) -> DensePlan:
    """The plan of a GGUF file, from its header; ExpertError for one that transformers cannot convert."""
    _refuse_unreadable(file)
    config = gguf_config(file)
    reader = _reader(file)
    dtype = target_dtype({})
    kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors} - {"F32"}) or ["F32"]
    model = _empty(file, config)
    tensors = _by_tensor(file, reader, model, dtype) or _whole(file, model, dtype)
    plain = plain_config({**config.to_dict(), "architectures": [type(model).__name__]}, dtype)
    return DensePlan(f"GGUF {'+'.join(kinds)}", dtype, declared_dtype({}), plain, dict(sorted(tensors.items())))


def gguf_config(file: Path) -> PretrainedConfig:
    """The configuration in the file's header; ExpertError for an architecture that transformers does not convert."""
    with _explained(file), silence_transformers():
        config: PretrainedConfig = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    return config


def save_gguf_tokenizer(file: Path, folder: Path) -> None:
    """Write the tokenizer in the file's header, as transformers converts it, into the folder."""
    with _explained(file), silence_transformers():
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


class _explained:
    """Context manager that turns the exceptions of transformers and gguf into an ExpertError of one line."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, ExpertError):
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ExpertError(
                f"{self._file}: transformers cannot convert it ({reason}); give the model as safetensors, or download "
                "the file again, if it may be cut"
            ) from error


def _refuse_unreadable(file: Path) -> None:
    if SPLIT.search(file.name):
        raise ExpertError(f"{file}: one part of several; join them first with llama-gguf-split --merge")
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise ExpertError(f"{file}: {error.strerror}; give the path of a GGUF file") from None
    if magic != b"GGUF":
        raise ExpertError(f"{file}: not a GGUF file; download it again")
    try:
        import gguf  # noqa: F401 (an optional package)
    except ImportError:
        raise ExpertError(f"{file}: a GGUF file needs the package gguf: pip install 'evomerge[gguf]'") from None


def _reader(file: Path) -> Any:
    from gguf import GGUFReader

    with _explained(file):
        return GGUFReader(file)


def _empty(file: Path, config: PretrainedConfig) -> PreTrainedModel:
    with _explained(file), silence_transformers(), torch.device("meta"):
        model: PreTrainedModel = auto_class_of(file, config).from_config(config)
    return model


def _by_tensor(file: Path, reader: Any, model: PreTrainedModel, dtype: str) -> dict[str, DenseTensor] | None:
    """The tensors, each of which is computed alone; None where transformers has no function for that."""
    try:
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )
    except ImportError:
        return None
    architecture = bytes(reader.fields["general.architecture"].parts[-1]).decode()
    kind: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
    if kind.__name__ not in ONE_BY_ONE or _is_converted_otherwise(architecture):
        return None
    with _explained(file), silence_transformers():
        processor: Any = kind(config=model.config.to_dict())
        names: Mapping[str, str] = get_gguf_hf_weights_map(model, processor)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found: dict[str, DenseTensor] = {}
    for place, tensor in enumerate(reader.tensors):
        name = names.get(tensor.name) or ("lm_head.weight" if tensor.name == "output.weight" else "")
        if name not in shapes:
            warn_once(f"{file}: {tensor.name} is not read, as in transformers")
            continue
        read = partial(_tensor, file, reader, place, processor, dtype, shapes[name])
        found[name] = DenseTensor(shapes[name], SAFETENSORS_TYPES[dtype], read)
    return found


def _is_converted_otherwise(architecture: str) -> bool:
    """Whether this version of transformers has newer rules for the architecture than one function for a tensor."""
    try:
        from transformers.integrations.gguf.utils import is_gguf_arch_supported
    except ImportError:
        return False
    return bool(is_gguf_arch_supported(architecture))


def _tensor(file: Path, reader: Any, place: int, processor: Any, dtype: str, shape: tuple[int, ...]) -> Tensor:
    from gguf import dequantize

    stored = reader.tensors[place]
    with _explained(file):
        others: dict[str, Any] = {"tensors": {}}
        values = dequantize(stored.data, stored.tensor_type)
        done = processor.process(weights=values, name=stored.name, tensor_key_mapping={}, parsed_parameters=others)
        found = next(iter(others["tensors"].values()), None) if done.name is None else done.weights
        tensor = torch.from_numpy(np.array(found)).to(getattr(torch, dtype))
    if tuple(tensor.shape) != shape:
        raise ExpertError(f"{file}: {stored.name} is {list(tensor.shape)}, the model wants {list(shape)}")
    return tensor


def _whole(file: Path, model: PreTrainedModel, dtype: str) -> dict[str, DenseTensor]:
    """The tensors of the model that transformers loads, all of them in memory when the first is read."""

    @cache
    def load() -> Mapping[str, Tensor]:
        with _explained(file), silence_transformers():
            loaded = type(model).from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=getattr(torch, dtype),
                quantization_config=GgufConfig(dequantize=True),
            )
        return _as_saved(model, loaded.state_dict())

    def read(name: str) -> Tensor:
        return load()[name]

    return {
        name: DenseTensor(tuple(tensor.shape), SAFETENSORS_TYPES[dtype], partial(read, name))
        for name, tensor in _as_saved(model, model.state_dict()).items()
    }


def _as_saved(model: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names of a saved checkpoint of this architecture, with one tensor for each expert.

    A model that was loaded from a GGUF file no longer has the conversions of its architecture.
    """
    tied = set(model.all_tied_weights_keys or {})
    untied = {name: tensor for name, tensor in state.items() if name not in tied}
    saved: dict[str, Tensor] = revert_weight_conversion(model, untied)
    return saved
