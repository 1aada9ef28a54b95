"""Checks once per process, within seconds, whether the Hugging Face hub answers.

Without this check, libraries would wait for minutes for a hub that does not answer.
"""

import os
import sys
from functools import cache

TIMEOUT = 10.0  # seconds in which the hub must answer
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
OFFLINE_FLAGS = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_DATASETS_OFFLINE"),
    ("evaluate.config", "HF_EVALUATE_OFFLINE"),
)


@cache
def offline_reason() -> str | None:
    """The reason why the hub is not used, or None if it answers.

    If there is a reason, all libraries of this process and of its workers are switched to their caches.
    """
    reason = _reason()
    if reason:
        for module, flag in OFFLINE_FLAGS:  # modules that are imported later read the environment
            if module in sys.modules:
                setattr(sys.modules[module], flag, True)
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    return reason


def _reason() -> str | None:
    from huggingface_hub import constants, get_session  # slow import, and folders do not need it

    if constants.HF_HUB_OFFLINE:
        variable = next((name for name in OFFLINE_VARIABLES if os.environ.get(name)), OFFLINE_VARIABLES[0])
        return f"offline: {variable} is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # the client's exceptions differ between versions
        return f"offline: {constants.ENDPOINT} does not answer ({type(error).__name__})"
    return None
