"""Each rule on folders and on answers of the hub that a test writes: kept, broken, and what cannot be known here."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evomerge.errors import ConfigError, RulesError
from evomerge.merging import MemoryNeed
from evomerge.recipes import ModelRef
from evomerge.rules import RulesConfig, Verdict, judge, judge_gpu_memory, refuse_broken, verdict_lines
from evomerge.rules import hub_record as hub
from evomerge.rules import judged_model as judged
from evomerge.rules.hours import judge_hours
from evomerge.rules.hub_record import HubRecord
from evomerge.rules.judged_model import JudgedModel, judged_models
from evomerge.rules.licence import judge_licence
from evomerge.rules.size import judge_size
from evomerge.rules.upload import judge_public, judge_revision, judge_upload_date

LIMIT = datetime(2024, 5, 31, tzinfo=UTC)
COMMIT = "a" * 40
ANSWER = {"id": "org/m", "createdAt": "2024-04-17T09:35:12.000Z", "lastModified": "2024-05-30T23:59:59.000Z"}
Make = Callable[..., JudgedModel]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A model's folder with the given files, and a small checkpoint."""

    def make(files: dict[str, str] | None = None, answer: dict[str, Any] | None = None) -> JudgedModel:
        save_file({"w": torch.zeros(10, 20), "norm": torch.zeros(20)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text("{}")
        for name, text in (files or {}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        if answer is not None:
            (tmp_path / "model_info.json").write_text(json.dumps(answer))
        return JudgedModel("math", str(tmp_path))

    return make


def card(head: str) -> dict[str, str]:
    return {"README.md": f"---\n{head}\n---\n# A model\n"}


def test_size_is_counted_from_headers(make: Make) -> None:
    model = make()
    assert judge_size(model, 220e-9).status == "ok"
    verdict = judge_size(model, 219e-9)
    assert verdict.status == "broken" and "2.2e-07 billion parameters from the headers" in verdict.reason


def test_a_model_of_nine_billion_is_refused_by_its_header_alone(tmp_path: Path) -> None:
    """The file is sparse: its header promises 18 GB of zeros, of which none is on the disk."""
    shape, size = [9_000_000, 1000], 2 * 9 * 10**9
    header = json.dumps({"w": {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    verdict = judge_size(JudgedModel("big", str(tmp_path)), 8.05)
    assert verdict.status == "broken" and "9 billion parameters" in verdict.reason


def test_an_adapter_is_counted_by_its_own_factors(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"a": torch.zeros(4, 10), "b": torch.zeros(10, 4)}, tmp_path / "adapter_model.safetensors")
    model = JudgedModel("math", str(tmp_path))
    assert judge_size(model, 80e-9).status == "ok" and judge_size(model, 79e-9).status == "broken"


def test_packed_integers_do_not_show_that_a_model_is_small(make: Make, tmp_path: Path) -> None:
    model = make()
    save_file({"w": torch.zeros(10, 20, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    assert judge_size(model, 1).status == "unknown" and judge_size(model, 199e-9).status == "broken"


def test_positions_are_no_packed_weights(make: Make, tmp_path: Path) -> None:
    model = make()
    save_file({"positions": torch.arange(20)[None]}, tmp_path / "model.safetensors")
    assert judge_size(model, 1).status == "ok"


@pytest.mark.parametrize(("dtype", "total", "status"), [("I32", 10**9, "unknown"), ("I32", 10**10, "broken")])
def test_the_hubs_count_of_packed_weights(make: Make, tmp_path: Path, dtype: str, total: int, status: str) -> None:
    model = make(answer={**ANSWER, "safetensors": {"parameters": {dtype: total}, "total": total}})
    (tmp_path / "model.safetensors").unlink()
    assert judge_size(model, 8.05).status == status


@pytest.mark.parametrize(
    "answer", [[], {**ANSWER, "safetensors": {"parameters": {}, "total": "x"}}, {**ANSWER, "tags": [1]}, {"id": 1}]
)
def test_answers_that_are_none_are_unknown(make: Make, tmp_path: Path, answer: Any) -> None:
    model = make(answer=answer)
    (tmp_path / "model.safetensors").unlink()
    assert judge_size(model, 8).status == "unknown"


def test_without_weights_the_size_is_the_hubs_or_unknown(make: Make, tmp_path: Path) -> None:
    model = make()
    (tmp_path / "model.safetensors").unlink()
    assert judge_size(model, 8).status == "unknown"
    counted = make(answer={**ANSWER, "safetensors": {"parameters": {"BF16": 9 * 10**9}, "total": 9 * 10**9}})
    (tmp_path / "model.safetensors").unlink()
    verdict = judge_size(counted, 8.05)
    assert verdict.status == "broken" and "model_info.json about org/m" in verdict.reason


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        (card("license: mit"), "ok", "mit (README.md)"),
        (card("license: [Apache-2.0, mit]\nlicense_name: x"), "ok", "Apache-2.0"),
        (card("license: other\nlicense_name: llama-3"), "ok", "llama-3"),
        (card("license: other\nlicense_name: mine"), "broken", "mine (README.md) is not allowed"),
        (card("license: cc-by-nd-4.0"), "broken", "cc-by-nd-4.0"),
        (card("license: [mit, mine]"), "broken", "mine"),
        (card("license: other"), "unknown", "without license_name"),
        (card("license: unknown"), "broken", "names no licence"),
        (card("tags: [a]"), "broken", "names no licence"),
        (card("license: [mit"), "broken", "names no licence"),
        (card("date: 2024-99-99\nlicense: mit"), "broken", "names no licence"),
        ({"README.md": "license: mit\n"}, "broken", "names no licence"),
        ({"LICENSE": "\n   Apache License\n   Version 2.0, January 2004\n"}, "ok", "apache-2.0 (LICENSE)"),
        ({"LICENSE": "META LLAMA 3 COMMUNITY LICENSE AGREEMENT"}, "ok", "llama3 (LICENSE)"),
        ({"LICENSE.txt": "Attribution-NonCommercial-NoDerivatives 4.0 International"}, "broken", "cc-by-nc-nd-4.0"),
        ({**card("license: mit"), "LICENSE": "Attribution-NoDerivatives 4.0 International"}, "broken", "cc-by-nd-4.0"),
        ({**card("license: other"), "LICENSE": "Gemma Terms of Use"}, "ok", "gemma (LICENSE)"),
        ({"LICENSE": "All rights reserved."}, "unknown", "LICENSE is not one of the known texts"),
        ({}, "unknown", "has no README.md and no LICENSE"),
    ],
)
def test_licences_are_read_from_card_and_file(make: Make, files: dict[str, str], status: str, said: str) -> None:
    verdict = judge_licence(make(files), ["apache-2.0", "mit", "llama3", "gemma"])
    assert verdict.status == status and said in verdict.reason
    assert bool(verdict.remedy) == (status != "ok")


def test_a_licence_without_a_card_is_the_hubs(make: Make) -> None:
    assert judge_licence(make(answer={**ANSWER, "cardData": {"license": "mit"}}), ["mit"]).status == "ok"
    assert judge_licence(make(answer={**ANSWER, "tags": ["license:mine"]}), ["mit"]).status == "broken"
    assert "names no licence" in judge_licence(make(answer=ANSWER), ["mit"]).reason
    own = make(card("license: mit"), {**ANSWER, "cardData": {"license": "mine"}})
    assert judge_licence(own, ["mit"]).status == "ok", "the card of the files that are read counts"


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({}, "ok", "last changed on 2024-05-30"),
        ({"createdAt": "2024-05-31T00:00:00.000Z"}, "broken", "uploaded on 2024-05-31, not before 2024-05-31"),
        ({"lastModified": "2024-05-31T00:00:00.000Z"}, "unknown", "the revision that is read is of 2024-05-31"),
        ({"lastModified": None}, "unknown", "no date of its last commit"),
        ({"createdAt": None}, "ok", "last changed"),
        ({"createdAt": "yesterday"}, "unknown", "is no answer of the hub"),
        ({"createdAt": 7}, "unknown", "is no answer of the hub"),
    ],
)
def test_upload_dates_of_a_copied_answer(make: Make, changes: dict[str, Any], status: str, said: str) -> None:
    verdict = judge_upload_date(make(answer=ANSWER | changes), LIMIT)
    assert verdict.status == status and said in verdict.reason


def test_the_files_own_dates_are_no_upload_dates(make: Make) -> None:
    verdict = judge_upload_date(make(), LIMIT)
    assert verdict.status == "unknown" and "dates of its files are those of the download" in verdict.reason


def test_a_copy_that_came_with_the_model_is_not_believed(make: Make, tmp_path: Path) -> None:
    downloads = ".cache/huggingface/download"
    assert judge_upload_date(make({f"{downloads}/model_info.json.metadata": ""}, ANSWER), LIMIT).status == "unknown"
    (tmp_path / downloads / "model_info.json.metadata").unlink()
    (tmp_path / "model_info.json").rename(tmp_path / "blob")
    (tmp_path / "model_info.json").symlink_to(tmp_path / "blob")
    assert judge_upload_date(JudgedModel("math", str(tmp_path)), LIMIT).status == "unknown"


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"gated": False, "private": False}, "ok", "public and not gated"),
        ({"gated": "manual", "private": False}, "broken", "gated, says"),
        ({"gated": False, "private": True}, "broken", "private, says"),
        ({}, "unknown", "does not say whether it is gated"),
    ],
)
def test_gates(make: Make, changes: dict[str, Any], status: str, said: str) -> None:
    verdict = judge_public(make(answer=ANSWER | changes))
    assert verdict.status == status and said in verdict.reason


def test_revisions(make: Make) -> None:
    assert judge_revision(make()).status == "unknown"
    metadata = {f".cache/huggingface/download/{name}.metadata": f"{COMMIT}\netag\n1.0\n" for name in ("a", "b")}
    assert COMMIT in judge_revision(make(metadata)).reason
    mixed = {".cache/huggingface/download/c.metadata": f"{'b' * 40}\netag\n1.0\n"}
    assert judge_revision(make(mixed)).status == "unknown", "files of two commits"
    assert judge_revision(JudgedModel("x", "org/m", COMMIT)).status == "ok"
    assert judge_revision(JudgedModel("x", "org/m", "main")).status == "broken"


def fake_hub(monkeypatch: pytest.MonkeyPatch, folder: Path, *, reason: str | None = None, **record: Any) -> None:
    found = HubRecord("the hub", None, (), False, False, ("mit",), 10)
    found = HubRecord(**{**vars(found), **record})
    monkeypatch.setattr(judged, "fetch", lambda *_, **__: folder)
    monkeypatch.setattr(hub, "offline_reason", lambda: reason)
    monkeypatch.setattr(hub, "_from_hub", lambda path, revision: found)


def test_the_hub_names_an_older_commit_to_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dates = (datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC))
    commits = tuple(zip(("c" * 40, "b" * 40, COMMIT), dates, strict=True))
    fake_hub(monkeypatch, tmp_path, created=dates[-1], commits=commits)
    verdict = judge_upload_date(JudgedModel("math", "org/m", "c" * 40), LIMIT)
    assert verdict.status == "unknown" and verdict.remedy == f"give org/m@{COMMIT}"
    fake_hub(monkeypatch, tmp_path, created=dates[-1], commits=commits[2:])
    assert judge_upload_date(JudgedModel("math", "org/m", COMMIT), LIMIT).status == "ok"


def test_a_hub_model_offline_is_judged_by_a_copy_of_its_own_answer(
    monkeypatch: pytest.MonkeyPatch, make: Make, tmp_path: Path
) -> None:
    make(answer=ANSWER)
    fake_hub(monkeypatch, tmp_path, reason="offline: no network")
    assert judge_upload_date(JudgedModel("math", "org/m", COMMIT), LIMIT).status == "ok"
    other = judge_upload_date(JudgedModel("math", "org/other", COMMIT), LIMIT)
    assert other.status == "unknown" and "is about org/m" in other.reason
    (tmp_path / "model_info.json").unlink()
    assert "offline: no network" in judge_upload_date(JudgedModel("math", "org/m", COMMIT), LIMIT).reason


class FakeApi:
    """The two calls that a record is made of."""

    broken = False

    def model_info(self, path: str, revision: str | None) -> Any:
        from huggingface_hub.hf_api import ModelInfo

        if self.broken:
            raise RuntimeError("401")
        return ModelInfo(**ANSWER, gated="auto", private=False, cardData={"license": "gemma"})

    def list_repo_commits(self, path: str, revision: str | None) -> list[Any]:
        from types import SimpleNamespace

        return [SimpleNamespace(commit_id=COMMIT, created_at=LIMIT)]


def test_a_record_is_made_of_the_hubs_two_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    monkeypatch.setattr(hub, "offline_reason", lambda: None)
    record = hub.find_record("org/m", COMMIT, tmp_path)
    assert isinstance(record, HubRecord)
    assert (record.gated, record.private, record.licences) == ("auto", False, ("gemma",))
    assert record.commits == ((COMMIT, LIMIT),) and record.created is not None and record.created < LIMIT
    monkeypatch.setattr(FakeApi, "broken", True)
    assert hub.find_record("org/m", COMMIT, tmp_path) == "the hub does not answer about it (RuntimeError)"


@pytest.mark.parametrize(
    ("hours", "status", "said"),
    [
        (None, "broken", "budget.hours is not set"),
        (1.5, "broken", "budget.hours=1.5, at most 1"),
        (1.0, "unknown", "export and prediction follow"),
        (0.75, "ok", "15 minutes for export and prediction"),
    ],
)
def test_hours(hours: float | None, status: str, said: str) -> None:
    verdict = judge_hours(hours, 1.0, submits=False)
    assert verdict.status == status and said in verdict.reason
    assert status == "ok" or verdict.remedy.startswith("set budget.hours=0.8")


def test_hours_of_a_run_that_makes_the_pack_may_be_all_of_the_limit() -> None:
    verdict = judge_hours(1.0, 1.0, submits=True)
    assert (verdict.status, verdict.reason) == ("ok", "1 of 1, predictions and pack included")
    assert judge_hours(None, 1.0, submits=True).remedy == "set budget.hours=1"


GB = 10**9


@pytest.mark.parametrize(
    ("need", "mode", "workers", "cluster", "status"),
    [
        (MemoryNeed(14 * GB, 14 * GB, GB), None, 1, False, "ok"),
        (MemoryNeed(14 * GB, 60 * GB, GB), None, 1, False, "ok"),  # streamed
        (MemoryNeed(14 * GB, 60 * GB, GB), "device", 1, False, "broken"),
        (MemoryNeed(14 * GB, 60 * GB, GB), None, 1, True, "unknown"),
        (MemoryNeed(40 * GB, 80 * GB, GB), None, 1, False, "broken"),
        (MemoryNeed(14 * GB, 14 * GB, GB), None, 2, True, "broken"),
        (MemoryNeed(8 * GB, 8 * GB, GB), None, 2, True, "ok"),
    ],
)
def test_gpu_memory(need: MemoryNeed, mode: Any, workers: int, cluster: bool, status: str) -> None:
    assert judge_gpu_memory(need, 48, mode, workers=workers, cluster=cluster).status == status


def test_each_model_is_judged_once_and_an_adapter_apart_from_its_base() -> None:
    base = ModelRef("base")
    experts = {"math": ModelRef("base", None, "math"), "other": ModelRef("law", None, "x"), "full": ModelRef("full")}
    found = [(model.label, model.path) for model in judged_models(base, experts)]
    assert found == [("base", "base"), ("math", "math"), ("other", "x"), ("base of other", "law"), ("full", "full")]


def test_every_broken_rule_of_every_model_is_a_line(make: Make, tmp_path: Path) -> None:
    model = make(card("license: mine"), {**ANSWER, "createdAt": "2025-01-01T00:00:00.000Z", "gated": "auto"})
    rules = RulesConfig(name="mine", max_billions=1e-9, licences=["mit"], uploaded_before="2024-05-31", public=True)
    verdicts = list(judge(rules, ModelRef(model.path), {}, None))
    with pytest.raises(RulesError) as error:
        refuse_broken("mine", verdicts)
    lines = str(error.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["size", "licence", "upload date", "public"]
    assert all(line.startswith("rules mine: ") and " → " in line for line in lines)
    shown = list(verdict_lines("mine", verdicts))
    assert shown[0] == "rules     mine: 4 broken" and len(shown) == 9
    refuse_broken("mine", [Verdict("size", "base", "unknown", "x", "y")])
    assert list(judge(RulesConfig(), ModelRef("nowhere"), {}, None)) == [] and list(verdict_lines("none", [])) == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"uploaded_before": "2024-02-31"}, "no such day"),
        ({"licences": []}, "allows none"),
        ({"name": "lmc2024"}, "no rule is set; choose a preset with rules=lmc2024"),
    ],
)
def test_rules_that_cannot_be_meant(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RulesConfig(**keys)
