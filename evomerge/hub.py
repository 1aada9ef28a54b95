"""Whether a hub can be asked: once for a process and within seconds, so that no library waits for it for minutes."""

import os
import sys
from functools import cache

LOOK_UP = 10.0  # seconds in which a hub must answer
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
FLAGS = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_DATASETS_OFFLINE"),
    ("evaluate.config", "HF_EVALUATE_OFFLINE"),
)


@cache
def out_of_reach() -> str | None:
    """Why no hub is asked, None where one is; then whatever asks one works from its cache, workers included."""
    reason = _reason()
    if reason:
        for place, flag in FLAGS:  # what is imported later reads the environment
            if place in sys.modules:
                setattr(sys.modules[place], flag, True)
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    return reason


def _reason() -> str | None:
    from huggingface_hub import constants, get_session  # slow import, and folders do not need it

    if constants.HF_HUB_OFFLINE:
        switch = next((name for name in SWITCHES if os.environ.get(name)), SWITCHES[0])
        return f"offline: {switch} is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=LOOK_UP)
    except Exception as error:  # its client's own classes, another family in each version
        return f"offline: {constants.ENDPOINT} does not answer ({type(error).__name__})"
    return None
