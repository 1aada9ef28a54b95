"""A merge that evomerge found, as a method of the LLM Merging starter kit: this file is copied into a submission pack.

The JSON file of the same name beside this one has the models with their revisions and the coefficients of every tensor.
A safetensors file of the same name, where there is one, has tensors that are not rebuilt from the models.
"""

import ast
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from llm_merging.merging.evomerge_tensors import rebuild
from llm_merging.merging.Merges import Merges
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

TABLE = Path(__file__).with_suffix(".json")
SHIPPED = Path(__file__).with_suffix(".safetensors")
BATCH_TOKENS = 4096  # tokens of the choices of a row that are scored together
FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]


class EvomergeMerge(Merges):
    """Rebuilds the merge from the pinned models; it needs torch, transformers, safetensors and huggingface_hub."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.table = json.loads(TABLE.read_text(encoding="utf-8"))
        base, *experts = self.table["models"]
        self.list_models = [(model["path"], model["revision"]) for model in experts]
        self.base_model_name, self.base_model_revision_id = base["path"], base["revision"]
        self.is_peft = self.table["is_peft"]
        self.max_seq_len, self.max_gen_len = self.table["max_seq_len"], self.table["max_gen_len"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.architecture = self.table["architecture"]
        self.base_model: Any = None
        self.loaded_models: dict[str, Any] = {}
        self.loaded_configs: dict[str, Any] = {}
        self.merged_model: dict[str, Tensor] = {}

    def merge(self) -> Any:
        """Load the base, write every merged tensor into it, and return it in evaluation mode."""
        self._load_base_model()
        self._load_tokenizer()
        self._untie()
        places = self._places()
        with torch.no_grad():
            for name, tensor in self._merged():
                places(name).copy_(tensor)
        self.merged_model = dict(_unshared(self.base_model.state_dict()))
        self.base_model.eval()
        return self.base_model

    def _load_base_model(self) -> None:
        """The base in the dtype of the recipe, with the configuration of its own revision."""
        config = AutoConfig.from_pretrained(self._folder(0))
        for key, value in self.table["config"].items():
            setattr(config, key, value)
        kind: Any = AutoModelForSeq2SeqLM if self.architecture == "encoder_decoder" else AutoModelForCausalLM
        dtype = getattr(torch, self.table["dtype"])
        self.base_model = kind.from_pretrained(self._folder(0), config=config, torch_dtype=dtype).to(self.device)
        for key, value in self.table["config_after_loading"].items():
            setattr(self.base_model.config, key, value)

    def _load_tokenizer(self) -> None:
        """The tokenizers of the base as the starter kit sets them up."""
        if self.architecture == "encoder_decoder":
            self.tokenizer = self._tokenizer()
            return
        self.input_tokenizer, self.target_tokenizer = self._tokenizer(), self._tokenizer()
        for tokenizer in (self.input_tokenizer, self.target_tokenizer):
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token_id = tokenizer.eos_token_id
        self.input_tokenizer.padding_side, self.target_tokenizer.padding_side = "left", "right"
        self.target_tokenizer.add_bos_token = False
        self.target_tokenizer.add_eos_token = True

    def _tokenizer(self) -> Any:
        kind = PreTrainedTokenizerFast if self.table["plain_tokenizer"] else AutoTokenizer
        return kind.from_pretrained(
            self._folder(0),
            model_max_length=self.max_seq_len,
            legacy=False,
            clean_up_tokenization_spaces=self.table["clean_up"],
        )

    def _folder(self, number: int) -> Path:
        """The folder of a model: the folder itself, or the hub's snapshot at its revision."""
        model = self.table["models"][number]
        if Path(model["path"]).is_dir():
            return Path(model["path"])
        token = os.environ.get("HF_AUTH_TOKEN") or None
        return Path(snapshot_download(model["path"], revision=model["revision"], allow_patterns=FILES, token=token))

    def _untie(self) -> None:
        """Make parameters of their own of tied ones to which the merge gives different values."""
        for path in self.table["untied"]:
            module, _, name = path.rpartition(".")
            value = self.base_model.get_parameter(path).detach().clone()
            setattr(self.base_model.get_submodule(module), name, nn.Parameter(value, requires_grad=False))

    def _merged(self) -> Iterator[tuple[str, Tensor]]:
        files = [_Tensors(self._folder(number), self.device) for number in range(len(self.table["models"]))]
        shipped = safe_open(SHIPPED, "pt", device=str(self.device)) if SHIPPED.exists() else None
        dtype = getattr(torch, self.table["dtype"])
        for name, entry in self.table["tensors"].items():
            read = shipped.get_tensor if shipped else None
            yield name, rebuild(entry, lambda number, key: files[number].read(key), read, dtype)

    def _places(self) -> Callable[[str], Tensor]:
        """A function from a tensor's name in the base's files to the parameter of the loaded model."""
        state: dict[str, Tensor] = self.base_model.state_dict()
        prefix = self.base_model.base_model_prefix + "."

        def place(name: str) -> Tensor:
            for known in (name, prefix + name, name[len(prefix) :] if name.startswith(prefix) else name):
                if known in state:
                    return state[known]
            raise KeyError(f"{name}: the model that this version of transformers loads has no such parameter")

        return place

    def predict_multiple_choice(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The choice with the largest log-likelihood of all its tokens, or what the starter kit predicts."""
        if self.table["predict"] == "kit":
            theirs: tuple[Tensor, Tensor] = super().predict_multiple_choice(_texts(batch))
            return theirs
        rows = []
        for text, choices in zip(batch["input"], batch["answer_choices"], strict=True):
            listed = ast.literal_eval(choices) if isinstance(choices, str) else choices
            rows.append(self._log_likelihoods(str(text), [f" {choice.strip()}" for choice in listed]))
        scores = torch.stack(rows)
        return scores.argmax(dim=1), scores

    def generate(self, batch: dict[str, Any]) -> Any:
        """The starter kit's greedy answers; it would also read choices that a row to generate happens to have."""
        return super().generate({"input": _texts(batch)["input"]})

    @torch.no_grad()
    def _log_likelihoods(self, context: str, continuations: list[str]) -> Tensor:
        """Σ log p of each continuation's tokens, tokenised as lm-eval does it, in batches of a few thousand tokens."""
        pairs = [self._encode(context, continuation) for continuation in continuations]
        rows = max(1, BATCH_TOKENS // max(len(source) + len(target) for source, target in pairs))
        return torch.cat([self._sums(pairs[first : first + rows]) for first in range(0, len(pairs), rows)])

    def _sums(self, pairs: list[tuple[list[int], list[int]]]) -> Tensor:
        longest = self.table["max_length"]
        targets = [target[-longest:] for _, target in pairs]
        if self.architecture == "encoder_decoder":
            labels = _padded(targets, -100).to(self.device)
            source = torch.tensor([source[-longest:] for source, _ in pairs], device=self.device)
            logits = self.base_model(input_ids=source, attention_mask=torch.ones_like(source), labels=labels).logits
            ends = [len(target) for target in targets]
        else:
            inputs = [(source + target)[-(longest + 1) : -1] for source, target in pairs]
            ids, mask = _padded(inputs, 0), _padded([[1] * len(row) for row in inputs], 0)
            logits = self.base_model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device)).logits
            ends = [len(row) for row in inputs]
        sums = []
        for row, end, target in zip(logits, ends, targets, strict=True):
            log_probabilities = row[end - len(target) : end].float().log_softmax(dim=-1)
            wanted = torch.tensor(target, device=self.device)
            sums.append(log_probabilities.gather(1, wanted.unsqueeze(1)).sum())
        return torch.stack(sums)

    def _encode(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both; spaces at the end of the context begin the continuation."""
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        if self.architecture == "encoder_decoder":
            return self.tokenizer.encode(context), self.tokenizer.encode(continuation, add_special_tokens=False)
        tokenizer = self.input_tokenizer
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        special = not context.startswith(tokenizer.decode(first))
        source = tokenizer.encode(context, add_special_tokens=special)
        whole = tokenizer.encode(context + continuation, add_special_tokens=special)
        return source, whole[len(source) :]


class _Tensors:
    """The tensors of a folder's safetensors files by name."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        named = folder / "adapter_model.safetensors"
        paths = [named] if named.is_file() else sorted(folder.glob("*.safetensors"))
        files = [safe_open(path, "pt", device=str(device)) for path in paths]
        self._files: dict[str, Any] = {}
        for file in files:
            self._files.update(dict.fromkeys(file.keys(), file))

    def read(self, key: str) -> Tensor:
        tensor: Tensor = self._files[key].get_tensor(key)
        return tensor


def _texts(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch without targets, with which the starter kit's encoder-decoder code fails where they are numbers."""
    kept = {key: values for key, values in batch.items() if key in ("input", "answer_choices")}
    return {**kept, "input": [str(text) for text in kept["input"]]}


def _padded(rows: list[list[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def _unshared(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The state with a copy of each tensor that shares memory, which safetensors refuses to save twice."""
    seen: set[int] = set()
    for name, tensor in state.items():
        yield name, tensor.clone() if tensor.data_ptr() in seen else tensor.contiguous()
        seen.add(tensor.data_ptr())
