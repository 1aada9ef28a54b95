"""References to models as a user writes them, and with the commits of the hub that they mean today."""

from evomerge.models.adapter import is_adapter
from evomerge.models.checkpoint import fetch
from evomerge.recipes import ModelRef


def resolve_expert(text: str, base: ModelRef) -> ModelRef:
    """The pinned reference of an expert as a user writes it; an adapter without a base is one of the search's base."""
    ref = pin_revisions(ModelRef.parse(text))
    if ref.adapter or not is_adapter(fetch(ref.path, ref.revision, weights=False)):
        return ref
    return ModelRef(base.path, base.revision, ref.path, ref.revision)


def pin_revisions(ref: ModelRef) -> ModelRef:
    """The same model with hub revisions resolved to commits, so that a recipe stays reproducible."""
    revision = _commit(ref.path, ref.revision)
    return ModelRef(ref.path, revision, ref.adapter, ref.adapter and _commit(ref.adapter, ref.adapter_revision))


def _commit(path: str, revision: str | None) -> str | None:
    place = fetch(path, revision, weights=False)
    parents = (place, *place.parents)
    return next((one.name for one in parents if one.parent.name == "snapshots"), revision)
