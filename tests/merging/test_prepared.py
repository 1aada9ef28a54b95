"""What methods prepare, kept on disk: read back to the bit, never torn, never in the way of a run."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.merging.prepared import Prepared, digest
from evomerge.methods import dare_ties, ties
from evomerge.models.family import Family
from evomerge.paths import cache_folder
from evomerge.recipes.recipe import Recipe, Slice, Source, recipe_of_models
from tests.families import Folders, save_family

STATE = {"table": torch.arange(5, dtype=torch.float64) / 3, "bank.direction.0": torch.ones(2, 3, dtype=torch.bfloat16)}


class Counted:
    """Something to prepare, and how often that was done."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state, self.calls = state, 0

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return self.state


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].dtype == wanted[name].dtype and torch.equal(found[name], wanted[name]) for name in wanted
    )


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# --- one state ---


def test_what_is_there_is_read_and_not_computed(tmp_path: Path) -> None:
    first, second = Counted(STATE), Counted({})
    assert same(Prepared(tmp_path).get("key", "a.weight", first), STATE)
    for prepared in (Prepared(tmp_path), Prepared(tmp_path)):
        assert same(prepared.get("key", "a.weight", second), STATE)
    assert (first.calls, second.calls) == (1, 0)
    assert files(tmp_path) == [tmp_path / "key" / "a.weight.safetensors"]


def test_another_key_or_name_is_another_file(tmp_path: Path) -> None:
    prepared = Prepared(tmp_path)
    for count, (key, name) in enumerate([("one", "a"), ("two", "a"), ("one", "a.b"), ("one", "a.c")], 1):
        counted = Counted({"table": torch.tensor([count])})
        assert prepared.get(key, name, counted)["table"].item() == count and counted.calls == 1
    assert len(files(tmp_path)) == 4


def test_nothing_to_prepare_leaves_nothing(tmp_path: Path) -> None:
    assert Prepared(tmp_path).get("key", "a", Counted({})) == {}
    assert not files(tmp_path)


def test_in_memory_nothing_is_written(tmp_path: Path) -> None:
    counted = Counted(STATE)
    assert same(Prepared().get("key", "a", counted), STATE) and counted.calls == 1


def test_strided_tensors_are_kept_as_they_look(tmp_path: Path) -> None:
    state = {"bank.up": torch.arange(6.0).view(2, 3).T}
    Prepared(tmp_path).get("key", "a", lambda: state)
    assert same(Prepared(tmp_path).get("key", "a", Counted({})), state)


@pytest.mark.parametrize("content", [b"", b"\x10", "half"], ids=["empty", "short", "half"])
def test_a_file_cut_short_is_made_again(content: bytes | str, tmp_path: Path) -> None:
    Prepared(tmp_path).get("key", "a", Counted(STATE))
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    again = Counted(STATE)
    assert same(Prepared(tmp_path).get("key", "a", again), STATE) and again.calls == 1
    assert file.read_bytes() == whole


def test_a_file_with_other_numbers_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Prepared(tmp_path).get("key", "a.weight", Counted(STATE))
    (path,) = files(tmp_path)
    good = path.read_bytes()
    nan = {name: torch.full_like(tensor, torch.nan) for name, tensor in STATE.items()}
    for damaged in (save(nan), good[:-1] + bytes([good[-1] ^ 1]), save(nan, {"crc32": "00000000"})):
        path.write_bytes(damaged)
        again = Counted(STATE)
        assert same(Prepared(tmp_path).get("key", "a.weight", again), STATE) and again.calls == 1
        assert path.read_bytes() == good
    assert f"{path}: damaged, and made again" in caplog.text


def test_a_writer_that_died_half_way_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(state: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("evomerge.merging.prepared.save_file", die)
        Prepared(tmp_path).get("key", "a", Counted(STATE))
    assert len(files(tmp_path)) == 1
    again = Counted(STATE)
    assert same(Prepared(tmp_path).get("key", "a", again), STATE) and again.calls == 1
    assert same(Prepared(tmp_path).get("key", "a", Counted({})), STATE)


def readable_file(folder: Path) -> Path:
    """Not a folder at all."""
    (folder / "file").write_text("in the way")
    return folder / "file"


def blocked_key(folder: Path) -> Path:
    """A folder in which nothing can be made."""
    (folder / "key").write_text("in the way")
    return folder


@pytest.mark.parametrize("spoil", [readable_file, blocked_key])
def test_a_folder_that_takes_nothing_warns_once(
    spoil: Callable[[Path], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = Prepared(spoil(tmp_path))
    with caplog.at_level(logging.WARNING):
        for name in ("a", "b", "c"):
            assert same(prepared.get("key", name, Counted(STATE)), STATE)
    (record,) = caplog.records
    assert "could not be kept" in record.getMessage() and "computed again" in record.getMessage()


def test_a_full_disk_warns_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(state: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        """safetensors reports its disk as an error of its own."""
        path.write_bytes(b"half a file")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("evomerge.merging.prepared.save_file", fail)
    prepared = Prepared(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert same(prepared.get("key", "a", Counted(STATE)), STATE)
        assert same(prepared.get("key", "b", Counted(STATE)), STATE)
    assert len(caplog.records) == 1 and not files(tmp_path)


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVOMERGE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/evomerge")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "evomerge"
    monkeypatch.setenv("EVOMERGE_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")


def test_a_digest_names_values() -> None:
    assert digest("ties", {"a": 1, "b": 2}) == digest("ties", {"b": 2, "a": 1})
    others = [("ties", {"a": 1}), ("ties", {"a": "1"}), ("ties", None), ("ties",), (), ("tie", "s"), ("ties", {"a": 2})]
    assert len({digest(*parts) for parts in others}) == len(others)
    assert len(digest()) == 24 and digest().isalnum()


WRITER = """
import sys, torch
from pathlib import Path
from evomerge.merging.prepared import Prepared
prepared = Prepared(Path(sys.argv[1]))
for i in range(60):
    state = prepared.get("key", str(i), lambda: {"t": torch.arange(2000) * i})
    assert torch.equal(state["t"], torch.arange(2000) * i)
"""


@pytest.mark.slow
def test_two_processes_at_once_agree(tmp_path: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-W", "error", "-c", WRITER, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert [path.suffix for path in files(tmp_path)] == [".safetensors"] * 60


def test_two_runs_that_prepare_the_same_at_once(tmp_path: Path) -> None:
    """The second one begins and ends while the first one prepares."""
    inner = Counted(STATE)

    def outer() -> dict[str, Tensor]:
        Prepared(tmp_path).get("key", "a", inner)
        return STATE

    assert same(Prepared(tmp_path).get("key", "a", outer), STATE) and inner.calls == 1
    assert same(Prepared(tmp_path).get("key", "a", Counted({})), STATE)
    assert len(files(tmp_path)) == 1


# --- a family's ---


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return save_family("llama", tmp_path_factory.mktemp("llama"))


def recipe(folders: Folders, method: str = "ties", experts: int = 2, **rest: Any) -> Recipe:
    sources = tuple(Source(ref, {"weight": 0.6, "density": 0.4}) for ref in folders.experts[:experts])
    return recipe_of_models(method, rest.pop("base", folders.base), sources, {}, **rest)


def bits(folders: Folders, merged: Recipe, folder: Path | None) -> str:
    """By a materializer of its own, as in another process."""
    return fingerprint(Materializer(Family(folders.base, folders.experts), prepared=folder).tensors(merged))


@pytest.fixture
def prepares(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tensors that were prepared."""
    calls: list[str] = []

    def count(module: ModuleType) -> None:
        original = module.prepare

        def prepare(setup: Any) -> Any:
            calls.append(setup.sources.name)
            return original(setup)

        monkeypatch.setattr(module, "prepare", prepare)

    for module in (ties, dare_ties):
        count(module)
    return calls


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_a_second_materializer_computes_nothing(
    method: str, llama: Folders, tmp_path: Path, prepares: list[str]
) -> None:
    merged = recipe(llama, method)
    alone = bits(llama, merged, None)
    tensors = len(prepares)
    assert bits(llama, merged, tmp_path) == alone and len(prepares) == 2 * tensors == 2 * len(files(tmp_path))
    assert bits(llama, merged, tmp_path) == alone and len(prepares) == 2 * tensors
    assert len(files(tmp_path)) == tensors


def test_other_genes_are_the_same_files(llama: Folders, tmp_path: Path, prepares: list[str]) -> None:
    bits(llama, recipe(llama), tmp_path)
    before, made = len(prepares), files(tmp_path)
    other = recipe_of_models(
        "ties", llama.base, tuple(Source(r, {"weight": 0.1}) for r in llama.experts[:2]), {"lambda": 2}
    )
    assert bits(llama, other, tmp_path) == bits(llama, other, None)
    assert len(prepares) == before + len(made) and files(tmp_path) == made


def test_other_options_experts_seeds_and_bases_are_other_files(llama: Folders, tmp_path: Path) -> None:
    base, options = llama.experts[2], {"sign": "unweighted"}
    recipes = [
        recipe(llama),
        recipe(llama, experts=3),
        recipe(llama, options=options),
        recipe(llama, base=base),
        recipe(llama, "dare_ties"),
        recipe(llama, "dare_ties", seed=1),
    ]
    each = len(Family(llama.base, llama.experts).base.parameter)
    for count, merged in enumerate(recipes, 1):
        assert bits(llama, merged, tmp_path) == bits(llama, merged, None)
        assert len(files(tmp_path)) == count * each
    bits(llama, recipe(llama, seed=9), tmp_path)  # TIES knows no chance
    assert len(files(tmp_path)) == len(recipes) * each


def test_a_threshold_over_the_model_is_that_of_the_recipes_tensors(llama: Folders, tmp_path: Path) -> None:
    """Two recipes may merge one tensor of the same models, and others of different ones."""

    def sliced(first: int) -> Recipe:
        own: dict[str, Any] = {"weight": 0.6, "density": 0.3}
        layers = [Slice((Source(llama.base, {}, at), Source(llama.experts[1], own, at))) for at in ((0, 1), (first, 3))]
        return Recipe("ties", llama.base, tuple(layers), {}, options={"trim": "model"})

    for merged in (sliced(1), sliced(2)):
        assert bits(llama, merged, tmp_path) == bits(llama, merged, None)


def test_a_family_in_a_folder_that_takes_nothing(
    llama: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    merged = recipe(llama)
    with caplog.at_level(logging.WARNING):
        assert bits(llama, merged, readable_file(tmp_path)) == bits(llama, merged, None)
    assert len(caplog.records) == 1
