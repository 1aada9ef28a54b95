"""Read-only and small file systems for the folders of a trial, seen only by this process and its children."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


@cache
def refusal() -> str | None:
    """Why no file system can be mounted here, or None; from the first call on, this process has its own mounts."""
    try:
        _call("unshare", CLONE_NEWNS)
        _mount("none", Path("/"), None, MS_REC | MS_PRIVATE)
    except OSError as error:
        return f"this user may not mount file systems ({error.strerror})"
    return None


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Within the context, nothing below the folder can be written, not even by root."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount(str(folder), folder, None, MS_BIND)
    try:
        _mount("none", folder, None, MS_REMOUNT | MS_BIND | MS_RDONLY)
        yield
    finally:
        _unmount(folder)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Within the context, the folder is a new file system of `size` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", folder, "tmpfs", 0, f"size={size}")
    try:
        yield
    finally:
        _unmount(folder)


def grow(folder: Path, size: int) -> None:
    """Give a small disk another size."""
    _mount("tmpfs", folder, "tmpfs", MS_REMOUNT, f"size={size}")


def _mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, str(target), kind)]
    _call("mount", *texts, ctypes.c_ulong(flags), None if data is None else data.encode())


def _unmount(target: Path) -> None:
    _call("umount2", str(target).encode(), 0)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
