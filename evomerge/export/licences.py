"""The licence of a merge: that of its models, where all of them have the same one."""

from collections.abc import Iterable

from evomerge.errors import EvomergeError
from evomerge.export.origins import Origin
from evomerge.rules import stated_licence

UNDECIDED = "Licence: to be decided"  # by the user alone
HUB_LICENCES = {  # of the ids that the hub knows, those that language models have
    *("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    *("cc-by-nc-nd-4.0", "cc-by-nd-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "llama2", "llama3", "llama3.1", "llama3.2"),
    *("llama3.3", "llama4", "gemma", "openrail", "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "unlicense"),
}


def merged_licence(origins: Iterable[Origin]) -> tuple[dict[str, str], str]:
    """The keys of the front matter, and a sentence; no keys, and UNDECIDED, where licences differ or are unknown."""
    found = {one.name: _licence(one) for one in origins}
    names = set(found.values())
    if len(names) == 1 and (name := names.pop()):
        keys = {"license": name} if name in HUB_LICENCES else {"license": "other", "license_name": name}
        return keys, f"Licence: {name}, that of all its models."
    listed = ", ".join(f"{model}: {name or 'unknown'}" for model, name in found.items())
    return {}, f"{UNDECIDED} before this is shared, because its models have: {listed}."


def _licence(origin: Origin) -> str | None:
    try:
        found = stated_licence(origin.path, origin.revision)
    except EvomergeError:  # a model whose weights are in the cache, and nothing else
        return None
    return found.lower() if found else None
