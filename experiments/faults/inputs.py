"""Damaged and hostile files: each must be refused with one line, before any work, and without being executed."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import yaml

from experiments.faults.table import Row
from experiments.faults.trial_run import FILES, REFUSED, Place, run_child
from experiments.faults.trials import Trials

WEIGHTS = "model.safetensors"
EXECUTED = "executed"


class _Payload:
    """A pickle that creates a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self._path,)


def _truncated(place: Place) -> None:
    path = place.models / "last" / WEIGHTS
    path.write_bytes(path.read_bytes()[:5000])


def _empty(place: Place) -> None:
    (place.models / "last" / WEIGHTS).write_bytes(b"")


def _html(place: Place) -> None:
    (place.models / "last" / WEIGHTS).write_text("<html><body>404: not found</body></html>")


def _pointer(place: Place) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (place.models / "last" / WEIGHTS).write_text(text)


def _pickled(place: Place) -> None:
    (place.models / "last" / WEIGHTS).unlink()
    with (place.models / "last" / "pytorch_model.bin").open("wb") as file:
        pickle.dump(_Payload(place.root / EXECUTED), file)


def _outside(place: Place) -> None:
    (place.models / "last" / WEIGHTS).rename(place.root / "elsewhere.safetensors")
    index = {"weight_map": {"model.norm.weight": "../../elsewhere.safetensors"}}
    (place.models / "last" / "model.safetensors.index.json").write_text(json.dumps(index))


def _absolute(place: Place) -> None:
    elsewhere = place.root / "elsewhere.safetensors"
    (place.models / "last" / WEIGHTS).rename(elsewhere)
    index = {"weight_map": {"model.norm.weight": str(elsewhere)}}
    (place.models / "last" / "model.safetensors.index.json").write_text(json.dumps(index))


def _adapter(place: Place) -> None:
    (place.models / "last" / WEIGHTS).rename(place.root / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": "../../..", "r": 2, "target_modules": ["../../x"]}
    (place.models / "last" / "adapter_config.json").write_text(json.dumps(config))


def _yaml_object(place: Place) -> None:
    tag = f"seed: !!python/object/apply:os.mkdir [{str(place.root / EXECUTED)!r}]\n"
    place.experiment.write_text(place.experiment.read_text() + tag)


def _template(place: Place, template: str) -> None:
    path = place.models / "base" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    config = place.config()
    config["scorer"]["apply_chat_template"] = True
    place.experiment.write_text(yaml.safe_dump(config))


LOOPS = "".join(f"{{% for x{depth} in range(90000) %}}" for depth in range(4)) + "{% endfor %}" * 4
REACHES_OUT = "{{ messages.__class__.__mro__[1].__subclasses__() }}"


def _config(place: Place) -> None:
    (place.models / "last" / "config.json").write_text("{not json")


def _removed(place: Place) -> None:
    (place.models / "last").rename(place.root / "away")


def _other_base(place: Place) -> None:
    path = place.models / "last" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 48}))


def _custom_code(place: Place) -> None:
    """A model that asks for code of its own."""
    path = place.models / "base" / "config.json"
    changed = {"auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}, "model_type": "own"}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    (place.models / "base" / "code.py").write_text(f"import os\nos.mkdir({str(place.root / EXECUTED)!r})\n")


INPUTS: dict[str, Callable[[Place], None]] = {
    "truncated weights": _truncated,
    "empty weights": _empty,
    "an HTML page instead of weights": _html,
    "a Git LFS pointer instead of weights": _pointer,
    "a pickle instead of safetensors (never loaded)": _pickled,
    "an index that names a file outside of its folder": _outside,
    "an index that names a file by an absolute path": _absolute,
    "an adapter configuration with paths outside of its folder": _adapter,
    "a YAML file that makes a Python object": _yaml_object,
    "a chat template that loops without end": lambda place: _template(place, LOOPS),
    "a chat template that reaches for Python's classes": lambda place: _template(place, REACHES_OUT),
    "a config.json that is not JSON": _config,
    "a missing expert": _removed,
    "an expert of another size": _other_base,
    "code that comes with a model, without trust_remote_code": _custom_code,
}


def refused_inputs(trials: Trials) -> list[Row]:
    """A row for each damaged input."""
    rows = []
    for name, damage in INPUTS.items():
        place = trials.new_place()
        root = place.root
        damage(place)
        ended = run_child(place)
        wrong = []
        if ended.code not in REFUSED or "Traceback" in (root / "child.log").read_text():
            wrong.append(f"exit code {ended.code}")
        if (root / EXECUTED).exists():
            wrong.append("its code was executed")
        if ended.attempts:
            wrong.append("something was scored")
        said = ended.line.replace(str(root), "…").replace("|", "\\|")
        rows.append(Row(name, "", 1, 1 - bool(wrong), f"`{said[:200]}`", tuple(wrong)))
    return rows


def label_is_a_path(trials: Trials) -> Row:
    """A label with the name of a folder above: the search runs, and writes where it always does."""
    place = trials.new_place()
    config = place.config()
    config["experts"]["../../outside"] = config["experts"].pop("last")
    config["name"] = "../../outside"
    place.experiment.write_text(yaml.safe_dump(config))
    ended = run_child(place)
    known = {place.run.name, place.cache.name, place.merged.parent.name, place.models.name, *FILES}
    new = sorted({path.name for path in place.root.iterdir()} - known)
    new += sorted(path.name for path in place.root.parent.iterdir() if path != place.root)
    wrong = [f"written outside: {name}" for name in new]
    if ended.code not in (0, *REFUSED):
        wrong.append(f"exit code {ended.code}: {ended.line}")
    seen = "the search ends well, and nothing is outside of its folders" if ended.code == 0 else f"`{ended.line[:200]}`"
    return Row(
        "a label and a name that are paths", "", 1, int(not wrong), seen.replace(str(place.root), "…"), tuple(wrong)
    )


def changed_between_commands(trials: Trials) -> Row:
    """An expert's weights change after a search has begun: found by their hash, with one line."""
    place = trials.new_place()
    run_child(place)
    path = place.models / "last" / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    ended = run_child(place)
    well = ended.code in REFUSED
    return Row(
        "an expert that has changed since the search began",
        "",
        1,
        int(well),
        f"`{ended.line.replace(str(place.root), '…')[:200]}`",
        () if well else (f"exit code {ended.code}",),
    )
