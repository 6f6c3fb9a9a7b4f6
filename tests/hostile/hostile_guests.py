"""Guests that mean harm, written as .wat or assembled byte by byte at test time. No test lives here."""

import hashlib
from pathlib import Path
from typing import Any

from wasmtime import wat2wasm

from propeller.ports import GuestJob

HEALTHY = '(module (func (export "_start")))'

WASI = "wasi_snapshot_preview1"
EXIT = f'(import "{WASI}" "proc_exit" (func $exit (param i32)))'
WRITE = f'(import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
POLL = f'(import "{WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))'

LOOP = '(module (func (export "_start") (loop (br 0))))'

LOOP_IN_START = '(module (func $f (loop (br 0))) (start $f) (func (export "_start")))'

SLEEP = f"""(module {POLL} (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200)))))"""

GROW_THEN_TRAP = """(module (memory 1) (func (export "_start")
  (loop (br_if 0 (i32.ge_s (memory.grow (i32.const 100)) (i32.const 0))))
  unreachable))"""

GROW_THEN_EXIT = f"""(module {EXIT} (memory (export "memory") 1) (func (export "_start")
  (loop (br_if 0 (i32.ge_s (memory.grow (i32.const 100)) (i32.const 0))))
  (call $exit (i32.const 1))))"""

GROW_AND_LIVE = """(module (memory 1) (func (export "_start")
  (loop (br_if 0 (i32.ge_s (memory.grow (i32.const 100)) (i32.const 0))))))"""

FILL_MEMORY = """(module (memory 1) (func (export "_start") (local $page i32)
  (drop (memory.grow (i32.const 1500)))
  (loop
    (i32.store (i32.mul (local.get $page) (i32.const 4096)) (i32.const 1))
    (local.set $page (i32.add (local.get $page) (i32.const 1)))
    (br_if 0 (i32.lt_u (local.get $page) (i32.const 24000))))
  unreachable))"""

HUGE_MINIMUM = '(module (memory 65536) (func (export "_start")))'

TWO_MEMORIES = """(module (memory 900) (memory 900) (func (export "_start")))"""

RECURSION = '(module (func $f (export "_start") (call $f)))'

FLOOD_STDOUT = f"""(module {WRITE} (memory (export "memory") 20) (func (export "_start")
  (i32.store (i32.const 4) (i32.const 1048576))
  (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0))))"""

FLOOD_STDERR = f"""(module {WRITE} (memory (export "memory") 20) (func (export "_start") (local $i i32)
  (i32.store (i32.const 4) (i32.const 65536))
  (loop
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if 0 (i32.lt_u (local.get $i) (i32.const 16))))))"""

OVERFLOW_AND_EXIT_0 = f"""(module {WRITE} {EXIT} (memory (export "memory") 20) (func (export "_start")
  (i32.store (i32.const 4) (i32.const 4096))
  (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
  (call $exit (i32.const 0))))"""

TABLE_MINIMUM = '(module (table 100000000 funcref) (func (export "_start")))'

TABLE_GROW = """(module (table $t 1 funcref) (func (export "_start")
  (br_if 0 (i32.eq (table.grow $t (ref.null func) (i32.const 100000000)) (i32.const -1)))
  unreachable))"""

TABLES = f'(module {"(table 10 funcref)" * 60} (func (export "_start")))'

INSTANCES = f"""(component (core module $m)
  {"(core instance (instantiate $m))" * 50})"""


def exit_with(status: int) -> str:
    """A command that leaves with that status."""
    return f"""(module {EXIT} (memory (export "memory") 1)
      (func (export "_start") (call $exit (i32.const {status}))))"""


def calling(signature: str, call: str, *, malloc: str = "", pages: int = 1) -> str:
    """A command that makes one host call and traps unless the answer is 0."""
    return f"""(module {signature} (memory (export "memory") {pages}) {malloc}
      (func (export "_start") (if (i32.ne {call} (i32.const 0)) (then unreachable))))"""


def _leb(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def _section(code: int, body: bytes) -> bytes:
    return bytes([code]) + _leb(len(body)) + body


def _module(bodies: list[bytes]) -> bytes:
    count = _leb(len(bodies))
    code = b"".join(_leb(len(body)) + body for body in bodies)
    return (
        b"\0asm\1\0\0\0"
        + _section(1, b"\1\x60\0\0")
        + _section(3, count + b"\0" * len(bodies))
        + _section(7, b"\1\6_start\0\0")
        + _section(10, count + code)
    )


def many_functions(count: int, multiplications: int) -> bytes:
    """`count` functions of some work each: seconds for an optimising compiler, megabytes for the wire."""
    body = b"\1\1\x7f" + b"\x20\0\x20\0\x6c\x41\7\x6a\x21\0" * multiplications + b"\x0b"
    return _module([body] * count)


def huge_branch_table(targets: int) -> bytes:
    """One `br_table` with that many targets."""
    body = b"\0\x02\x40\x41\0\x0e" + _leb(targets) + b"\0" * targets + b"\0\x0b\x0b"
    return _module([body])


def guest(module: str | bytes, **fields: Any) -> GuestJob:
    """A job for a module given as text or bytes."""
    content = bytes(wat2wasm(module)) if isinstance(module, str) else module
    return GuestJob(module=content, digest=hashlib.sha256(content).hexdigest(), **fields)


def resident_anonymous_bytes(pid: int) -> int:
    """What a process holds for itself, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory line")


def environment_of(pid: int) -> bytes:
    """The environment that a process was started with."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def lives(pid: int) -> bool:
    """Whether the process exists, dead and unreaped included."""
    return Path(f"/proc/{pid}").exists()
