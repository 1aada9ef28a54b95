"""Formats by the name of their method in config.json."""

from typing import TYPE_CHECKING, cast

from evomerge.errors import ConfigError, ExpertError
from evomerge.models.quantised._contract import Settings
from evomerge.plugins import load_plugin, plugin_names

if TYPE_CHECKING:
    from evomerge.models.quantised import Format

ROOM = "models.quantised"


def load_format(settings: Settings) -> "Format":
    """The format of this `quantization_config`; ExpertError names a method that is not known."""
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = "bitsandbytes"  # saved before transformers wrote the method
    try:
        return cast("Format", load_plugin(ROOM, str(method).replace("-", "_"), "quantisation"))
    except ConfigError:
        raise ExpertError(
            f"quantised by {method}, which cannot be dequantised here (known are {', '.join(plugin_names(ROOM))}); "
            "give the checkpoint as it was before"
        ) from None
