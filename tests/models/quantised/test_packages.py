"""The values are those of the packages that write the formats, where these packages are installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from evomerge.models import DequantisedCheckpoint, load_model, open_checkpoint, plain_folder
from evomerge.models.quantised import awq, bitsandbytes, compressed_tensors, fp8, mxfp4
from tests.gguf_files import model
from tests.models.quantised.stored import InMemory


def weights(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def unpacked(module: Any, settings: dict[str, Any], tensors: dict[str, Tensor], name: str = "a.weight") -> Tensor:
    entry = module.packed(settings, InMemory(tensors))[name]
    assert set(entry.inputs) == set(tensors)
    found = entry.unpack()
    assert tuple(found.shape) == entry.shape
    return found


@pytest.mark.parametrize("shape", [(256, 384), (128, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_fp8_is_transformers(shape: tuple[int, int], dtype: torch.dtype) -> None:
    stored = {
        "a.weight": (weights(*shape) * 100).to(torch.float8_e4m3fn),
        "a.weight_scale_inv": torch.rand(shape[0] // 128, shape[1] // 128) + 0.01,
    }
    right = Fp8Dequantize(None)._dequantize_one(*stored.values(), output_dtype=dtype)
    assert torch.equal(unpacked(fp8, {"weight_block_size": [128, 128]}, stored).to(dtype), right)


def test_mxfp4_is_transformers() -> None:
    draw = torch.Generator().manual_seed(1)
    blocks = torch.randint(0, 256, (2, 6, 3, 16), dtype=torch.uint8, generator=draw)
    scales = torch.randint(110, 135, (2, 6, 3), dtype=torch.uint8, generator=draw)
    right = convert_moe_packed_tensors(blocks, scales)
    found = unpacked(mxfp4, {}, {"a.gate_up_proj_blocks": blocks, "a.gate_up_proj_scales": scales}, "a.gate_up_proj")
    assert torch.equal(found, right)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(96, 128), (33, 70)])
def test_four_bits_are_those_of_bitsandbytes(
    kind: str, nested: bool, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    data, state = functional.quantize_4bit(weights(*shape).to(dtype), quant_type=kind, compress_statistics=nested)
    stored = {"a.weight": data} | {f"a.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    found = unpacked(bitsandbytes, {"load_in_4bit": True}, stored)
    assert found.dtype == dtype
    assert torch.equal(found, functional.dequantize_4bit(data, state))


def test_eight_bits_are_those_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    data, scales, _ = functional.int8_vectorwise_quant(weights(40, 64).half())
    stored = {"a.weight": data, "a.SCB": scales, "a.weight_format": torch.tensor(0, dtype=torch.uint8)}
    assert torch.equal(unpacked(bitsandbytes, {}, stored), functional.int8_vectorwise_dequant(data, scales))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "strategy"), [(4, "group"), (8, "group"), (4, "channel"), (8, "channel")])
@pytest.mark.parametrize("form", ["pack-quantized", "int-quantized"])
def test_integers_are_those_of_compressed_tensors(symmetric: bool, bits: int, strategy: str, form: str) -> None:
    package = pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    assert package
    args = QuantizationArgs(
        num_bits=bits, strategy=strategy, symmetric=symmetric, group_size=32 if strategy == "group" else None
    )
    groups = 3 if strategy == "group" else 1
    state = {"weight": weights(64, 96).bfloat16(), "weight_scale": (torch.rand(64, groups) * 0.01 + 0.002).bfloat16()}
    if not symmetric:
        state["weight_zero_point"] = torch.randint(-5, 5, (64, groups), dtype=torch.int8)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = {f"a.{name}": tensor for name, tensor in compressor.compress(state, scheme).items()}
    right = compressor.decompress({name[2:]: tensor for name, tensor in stored.items()}, scheme)["weight"]
    assert torch.equal(unpacked(compressed_tensors, {}, stored), right)


@pytest.mark.parametrize("strategy", ["tensor", "channel", "block"])
def test_floats_are_those_of_compressed_tensors(strategy: str) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    block = [32, 48] if strategy == "block" else None
    args = QuantizationArgs(num_bits=8, type="float", strategy=strategy, block_structure=block)
    shape = {"tensor": (1,), "channel": (64, 1), "block": (2, 2)}[strategy]
    state = {"weight": weights(64, 96).bfloat16(), "weight_scale": (torch.rand(shape) * 0.001 + 0.0002).bfloat16()}
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry("float-quantized")
    stored = {f"a.{name}": tensor for name, tensor in compressor.compress(state, scheme).items()}
    right = compressor.decompress({name[2:]: tensor for name, tensor in stored.items()}, scheme)["weight"]
    assert torch.equal(unpacked(compressed_tensors, {}, stored), right)


def test_awq_is_autoawq() -> None:
    packing = pytest.importorskip("awq.utils.packing_utils")
    draw = torch.Generator().manual_seed(2)
    stored = {
        "a.qweight": torch.randint(-(2**31), 2**31, (64, 4), generator=draw).to(torch.int32),
        "a.qzeros": torch.randint(-(2**31), 2**31, (2, 4), generator=draw).to(torch.int32),
        "a.scales": torch.rand(2, 32, generator=draw).half(),
    }
    right = packing.dequantize_gemm(stored["a.qweight"], stored["a.qzeros"], stored["a.scales"], 4, 32).T
    assert torch.equal(unpacked(awq, {}, stored), right)


@pytest.mark.parametrize("settings", [{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {"load_in_8bit": True}])
def test_a_model_that_transformers_saved_with_bitsandbytes(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    model().to(torch.bfloat16).save_pretrained(tmp_path / "plain")
    config = BitsAndBytesConfig(**settings, bnb_4bit_use_double_quant=True)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=config, dtype=torch.bfloat16)
    made.save_pretrained(tmp_path / "quantised")
    right = made.dequantize(dtype=torch.bfloat16).state_dict()
    checkpoint = open_checkpoint(plain_folder(tmp_path / "quantised"))
    found = load_model(plain_folder(tmp_path / "quantised"), dtype="bfloat16").state_dict()
    assert isinstance(checkpoint, DequantisedCheckpoint) and "bitsandbytes" in checkpoint.origin.format
    assert found.keys() == right.keys() and all(torch.equal(found[name], right[name]) for name in right)
