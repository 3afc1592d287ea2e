"""Freed memory goes back to the system, and cycles are freed, if later."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from driftwheel import memory
from driftwheel.memory import rare_collections, tidy_memory

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
    return int(told(CHILD, how))


def told(script: str, how: str) -> str:
    """What a script prints in a process of its own."""
    root = Path(memory.__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True, check=True, cwd=root)
    return run.stdout


def test_what_was_freed_goes_back() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("not glibc: the allocator is left alone")
    freed = BLOCKS * SIZE
    assert kept("as it is") > 0.8 * freed, "without it, it would have stayed"
    assert kept("tidy") < 0.3 * freed


ARENAS = f"""
import ctypes, sys, tempfile, threading
from contextlib import nullcontext
from driftwheel.memory import tidy_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
with tidy_memory() if sys.argv[1] == "tidy" else nullcontext(), tempfile.NamedTemporaryFile() as out:
    together = threading.Barrier(9)

    def allocate():
        libc.malloc({SIZE})
        together.wait()

    threads = [threading.Thread(target=allocate) for _ in range(8)]
    for thread in threads:
        thread.start()
    together.wait()
    libc.free(libc.malloc(8 << 20))  # from now on, by default, what is smaller than this is not mapped
    blocks = [libc.malloc(100_000) for _ in range(20)]
    file = libc.fopen(out.name.encode(), b"w")
    libc.malloc_info(0, file)
    libc.fclose(file)
    text = open(out.name).read()
    mapped = int(text.rpartition('type="mmap" count="')[2].partition('"')[0])
    print(text.count("<heap nr"), mapped)
"""


def heaps(how: str) -> tuple[int, int]:
    """Of a process with nine threads and twenty large blocks: its arenas, and the blocks mapped by themselves."""
    arenas, mapped = map(int, told(ARENAS, how).split())
    return arenas, mapped


def test_one_arena_and_large_blocks_mapped() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_info"):
        pytest.skip("not glibc: the allocator is left alone")
    arenas, mapped = heaps("as it is")
    assert (arenas > 4, mapped < 20) == (True, True), "without it, there would have been many, and few mapped"
    arenas, mapped = heaps("tidy")
    assert (arenas, mapped >= 20) == (1, True)


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


class Circle:
    """Something that reference counts alone do not free."""

    def __init__(self) -> None:
        self.itself = self


def made_until_freed(most: int) -> int:
    """How many circles are made until the first one is gone; ``most`` when it stays."""
    gone = list[int]()
    first = Circle()
    weakref.finalize(first, gone.append, 1)
    del first
    for count in range(most):
        Circle()
        if gone:
            return count
    return most


def test_cycles_are_looked_for_seldom_and_freed_all_the_same() -> None:
    found, usual = gc.get_threshold(), (700, 10, 10)
    gc.set_threshold(*usual)
    try:
        often = made_until_freed(1_000_000)
        with rare_collections():
            assert gc.get_freeze_count() > 0
            seldom = made_until_freed(1_000_000)
        assert (gc.get_threshold(), gc.get_freeze_count()) == (usual, 0)
    finally:
        gc.set_threshold(*found)
    assert often < 10_000 < seldom < 1_000_000
