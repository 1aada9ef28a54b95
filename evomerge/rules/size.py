"""The rule about size: the parameters of a model, from the headers of its safetensors files or from the hub."""

import math

from evomerge.errors import ExpertError
from evomerge.models import ADAPTER_WEIGHTS_FILE, is_adapter, open_checkpoint, open_safetensors, plain_folder
from evomerge.rules.judged_model import JudgedModel
from evomerge.rules.packed import is_packed
from evomerge.rules.verdict import Verdict

REMEDY = "take a smaller model, or raise rules.max_billions"


def judge_size(model: JudgedModel, billions: float) -> Verdict:
    """Whether the model has at most so many billions of parameters; an adapter is counted without its base.

    Values that are stored as integers may each hold several parameters, so they show only that a model is too large.
    """
    try:
        count, packed = _stored(model)
        source = "from the headers of its files"
    except ExpertError as error:
        record = model.record
        if isinstance(record, str) or record.parameters is None:
            why = record if isinstance(record, str) else f"{record.source} has no count"
            reason = f"no header of its weights can be read ({error}), and {why}"
            return Verdict("size", model.label, "unknown", reason, "download its weights, and check again")
        count, packed, source = record.parameters, record.packed, f"from {record.source}"
    reason = f"{count / 1e9:.3g} billion parameters {source}, of {billions:g} allowed"
    if count > billions * 1e9:
        return Verdict("size", model.label, "broken", reason, REMEDY)
    if packed:
        reason += "; its integers may each hold several"
        return Verdict("size", model.label, "unknown", reason, "give the model as it was before it was quantised")
    return Verdict("size", model.label, "ok", reason)


def _stored(model: JudgedModel) -> tuple[int, bool]:
    """The number of stored values, and whether some are integers; ExpertError where there is no file of weights."""
    if is_adapter(model.folder):
        file = open_safetensors(model.folder / ADAPTER_WEIGHTS_FILE)
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 (not a dict)
        found = [(tuple(each.get_shape()), str(each.get_dtype())) for each in slices]
    else:
        checkpoint = open_checkpoint(plain_folder(model.place))
        found = [(checkpoint.shape(name), checkpoint.dtype(name)) for name in checkpoint]
    packed = any(is_packed(dtype) for _, dtype in found)
    return sum(math.prod(shape) for shape, _ in found), packed
