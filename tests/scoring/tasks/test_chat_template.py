"""A chat template is code that comes with a model: it must end, and its faults are one line."""

import threading
import time

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from evomerge.errors import TaskError
from evomerge.scoring.tasks import chat_template as module
from evomerge.scoring.tasks.chat_template import chat_template
from evomerge.scoring.tasks.time_limit import OverdueError, time_limit
from tests.conftest import ROOT

HISTORY = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
LOOPS = "".join(f"{{% for x{depth} in range(90000) %}}" for depth in range(4)) + "{% endfor %}" * 4


def tokenizer(template: str) -> PreTrainedTokenizerBase:
    found = AutoTokenizer.from_pretrained(ROOT / "experiments" / "quickstart" / "family" / "base")
    found.chat_template = template
    return found


def test_a_template_that_refuses_a_system_turn_gets_none() -> None:
    assert chat_template(tokenizer(CHAT))(HISTORY) == "system: Be brief.\nuser: Hello\n"
    assert chat_template(tokenizer(NO_SYSTEM))(HISTORY) == "user: Hello\n"


def test_a_template_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENDER_LIMIT", 0.3)
    start = time.monotonic()
    with pytest.raises(TaskError, match=r"base: its chat template is of no use \(OverdueError: no end within 0.3 s\)"):
        chat_template(tokenizer(LOOPS))(HISTORY)
    assert time.monotonic() - start < 30


def test_a_time_limit_ends_with_its_context_and_is_none_in_another_thread() -> None:
    with pytest.raises(OverdueError), time_limit(0.05):
        while True:
            pass
    with time_limit(0.05):
        pass
    time.sleep(0.1)
    done = []

    def work() -> None:
        with time_limit(0.01):
            time.sleep(0.05)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
