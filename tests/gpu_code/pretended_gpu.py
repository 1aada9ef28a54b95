"""A GPU that does not exist, for which inductor generates code: shapes and dtypes are real, memory is not."""

import ctypes
import functools
import re
import subprocess
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch._dynamo import device_interface
from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.fx_passes.joint_graph import UniformValueConstantFolder
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from evomerge.kernels import runner
from evomerge.kernels.runner import Runner
from tests.gpu_code.signatures import Signature

# torch without CUDA refuses the very word: c10 has no guard for such a device, whose only work is to select it.
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
static c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> guard;
static c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, &guard);
"""
KERNEL = re.compile(r"async_compile\.triton\('(\w+)', '''(.*?)'''", re.DOTALL)


@dataclass(frozen=True)
class Properties:
    """What inductor asks of a device, with the numbers of an A100 or H100."""

    major: int
    minor: int
    multi_processor_count: int
    name: str = "a GPU that does not exist"
    regs_per_multiprocessor: int = 65536
    max_threads_per_multi_processor: int = 2048
    max_threads_per_block: int = 1024
    warp_size: int = 32
    shared_memory_per_block_optin: int = 166912
    total_memory: int = 80 << 30


GPUS = {80: Properties(8, 0, 108), 90: Properties(9, 0, 132)}


@dataclass(frozen=True)
class Program:
    """The code that inductor generates for one signature."""

    wrapper: str

    @property
    def kernels(self) -> dict[str, str]:
        """The Triton source of each kernel by its name."""
        return dict(KERNEL.findall(self.wrapper))


def generate(signature: Signature, arch: int, shape: tuple[int, ...] = (1 << 24,)) -> Program:
    """The code of a compiled form for a GPU of this architecture, as the runner has it compiled."""
    shape = (1 << 12, 1 << 12) if signature.rowwise else shape
    with pretended_gpu(arch) as programs:
        run(Runner(compiled=True), signature, shape)
    (program,) = programs
    return program


def run(runs: Runner, signature: Signature, shape: tuple[int, ...]) -> None:
    """Call the runner with tensors of this shape on the pretended GPU."""
    out, numbers, _, *tensors = signature.arguments(shape, "cuda")
    with patch.object(Runner, "_call", lambda self, kernel, small, arguments: self._compiled(kernel, arguments)):
        runs.run(signature.kernel, out, tensors, numbers, words=(0,) * (signature.words - 2))


@contextmanager
def pretended_gpu(arch: int) -> Iterator[list[Program]]:
    """Inside, tensors on "cuda" have no memory, and compiling for them appends a `Program` and runs nothing."""
    _register_guard()
    programs: list[Program] = []
    properties = GPUS[arch]
    answers: dict[str, Callable[..., Any]] = {
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (properties.major, properties.minor),
    }
    with ExitStack() as stack:
        stack.enter_context(patch.object(driver, "_active", _driver(arch)))
        for name, answer in answers.items():
            stack.enter_context(patch(f"torch.cuda.{name}", answer))
        device_interface.get_interface_for_device("cuda")  # registers those of torch
        interface = _interface(arch, properties)
        stack.enter_context(patch.dict(device_interface.device_interfaces, {"cuda": interface, "cuda:0": interface}))
        stack.enter_context(patch.object(GraphLowering, "compile_to_module", _record(programs)))
        stack.enter_context(patch.object(UniformValueConstantFolder, "run", _on_host(UniformValueConstantFolder.run)))
        stack.enter_context(patch.object(AsyncCompile, "triton"))  # starts before the program is complete
        stack.enter_context(config.patch(force_disable_caches=True))
        stack.enter_context(patch.object(runner, "_compile", _without_modes(runner._compile)))
        stack.enter_context(FakeTensorMode())
        yield programs


def _record(programs: list[Program]) -> Callable[[GraphLowering], Any]:
    def compile_to_module(graph: GraphLowering) -> Any:
        code, _ = graph.codegen()
        programs.append(Program(code.value))
        return types.SimpleNamespace(call=lambda _: [torch.empty((), device="cuda")], runner=None, __file__=__file__)

    return compile_to_module


def _without_modes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function outside of all modes: arguments without memory are its examples on a real GPU too."""

    def without_modes(*arguments: Any) -> Any:
        with _disable_current_modes():
            return function(*arguments)

    return without_modes


class _OnHost(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        return func(*args, **kwargs | ({"device": "cpu"} if "device" in kwargs else {}))


def _on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its tensors on the host: inductor folds constants by computing tensors of one element."""

    def on_host(*arguments: Any) -> Any:
        with _OnHost():
            return function(*arguments)

    return on_host


def _driver(arch: int) -> Any:
    return types.SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", arch, 32),
        get_current_device=lambda: 0,
        get_device_interface=lambda: torch.cuda,
        get_active_torch_device=lambda: torch.device("cuda", 0),
    )


def _interface(arch: int, properties: Properties) -> type[device_interface.DeviceInterface]:
    def always(answer: Any) -> Any:
        return staticmethod(lambda *arguments, **options: answer)

    worker = type("Worker", (), {"current_device": always(0), "get_device_properties": always(properties)})
    answers = {
        "Worker": worker,
        "current_device": always(0),
        "device_count": always(1),
        "get_device_properties": always(properties),
        "get_compute_capability": always(arch),
        "is_available": always(True),
        "is_bf16_supported": always(True),
        "is_triton_capable": always(True),
        "raise_if_triton_unavailable": always(None),
    }
    return type("PretendedInterface", (device_interface.CudaInterface,), answers)


@functools.cache
def _register_guard() -> None:
    if torch.version.cuda is not None:
        return  # FakeTensorMode does the same, in a torch that knows CUDA
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "guard.cpp"), Path(folder, "guard.so")
        source.write_text(GUARD)
        options = ["-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}", f"-L{root / 'lib'}", "-lc10"]
        subprocess.run(["g++", str(source), *options, "-o", str(library)], check=True)
        ctypes.CDLL(str(library))
