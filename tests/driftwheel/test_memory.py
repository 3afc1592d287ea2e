"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from driftwheel import memory
from driftwheel.memory import tidy_memory

BLOCKS, SIZE = 100_000, 1_000
# Many blocks too small to be mapped one by one; the last one holds the heap's end, so nothing goes back by itself.
CHILD = f"""
import ctypes, sys, threading
from contextlib import nullcontext
from driftwheel.memory import tidy_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident()
blocks = [libc.malloc({SIZE}) for _ in range({BLOCKS})]
for block in blocks:
    ctypes.memset(ctypes.c_void_p(block), 1, {SIZE})
for block in blocks[:-1]:
    libc.free(block)
del blocks[:-1]
with tidy_memory(0.05) if sys.argv[1] == "tidy" else nullcontext():
    threading.Event().wait(1.0)
print(resident() - before)
"""


def kept(how: str) -> int:
    """Bytes that a process still holds after it has freed about 100 MB, ``how``."""
    root = Path(memory.__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, text=True, check=True, cwd=root)
    return int(run.stdout)


def test_what_was_freed_goes_back() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("not glibc: the allocator is left alone")
    freed = BLOCKS * SIZE
    assert kept("as it is") > 0.8 * freed, "without it, it would have stayed"
    assert kept("tidy") < 0.3 * freed


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    before = threading.active_count()
    with tidy_memory() as active:
        assert not active
        assert threading.active_count() == before


def test_its_thread_ends() -> None:
    before = threading.active_count()
    with tidy_memory(60.0):
        pass
    assert threading.active_count() == before
