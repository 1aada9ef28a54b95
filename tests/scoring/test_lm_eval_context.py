"""What is changed in lm-eval for the time of a call, and put back."""

import pytest
from lm_eval.utils import apply_template, env

from evomerge.scoring import compiled_templates


def test_templates_are_compiled_once_and_rendered_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(env), "from_string", raising=False)  # the test session has one of its own
    compiled: list[object] = []
    original = env.compile
    monkeypatch.setattr(env, "compile", lambda source, *rest: compiled.append(source) or original(source, *rest))
    template = "{{a}} and {{ b|regex_replace('x', 'y') }} of test_templates_are_compiled_once\n"
    docs = [{"a": i, "b": "x" * i} for i in range(5)]
    plain = [apply_template(template, doc) for doc in docs]
    assert compiled == [template] * 5
    with compiled_templates(), compiled_templates():
        assert [apply_template(template, doc) for doc in docs] == plain
    assert compiled == [template] * 6
    with pytest.raises(ValueError, match="stop"), compiled_templates():
        raise ValueError("stop")
    apply_template(template, docs[0])
    assert compiled == [template] * 7 and "from_string" not in vars(env)
