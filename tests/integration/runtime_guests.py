"""Well-meaning guests for the runtime's integration tests, as .wat. No test lives here."""

import hashlib
from pathlib import Path
from typing import Any

from wasmtime import wat2wasm

from propeller.ports import GuestJob

WASI = "wasi_snapshot_preview1"
HEALTHY = '(module (func (export "_start")))'
LOOP = '(module (func (export "_start") (loop (br 0))))'
ADD = """(module (func (export "main") (param i32 i32) (result i32)
  (i32.add (local.get 0) (local.get 1))))"""

ECHO = f"""(module
  (import "env" "get_proplet_id" (func $proplet (param i32 i32) (result i32)))
  (import "env" "get_model_data" (func $model (param i32 i32) (result i32)))
  (import "env" "get_dataset_data" (func $dataset (param i32 i32) (result i32)))
  (import "env" "get_env" (func $env (param i32 i32 i32 i32) (result i32)))
  (import "env" "put_result" (func $put (param i32 i32) (result i32)))
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 4096))
  (data (i32.const 64) "NAME")
  (func (export "malloc") (param $size i32) (result i32)
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (local.get $size))))
  (func $say (param $ok i32)
    (if (i32.eqz (local.get $ok)) (then (i32.store (i32.const 0) (i32.const 32)) (i32.store (i32.const 4)
      (i32.const 1)) (i32.store8 (i32.const 32) (i32.const 45))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (call $say (call $proplet (i32.const 0) (i32.const 4)))
    (call $say (call $model (i32.const 0) (i32.const 4)))
    (call $say (call $dataset (i32.const 0) (i32.const 4)))
    (call $say (call $env (i32.const 64) (i32.const 4) (i32.const 0) (i32.const 4)))
    (if (i32.ne (i32.load8_u (i32.add (i32.load (i32.const 0)) (i32.load (i32.const 4)))) (i32.const 0))
      (then unreachable))
    (drop (call $put (i32.load (i32.const 0)) (i32.load (i32.const 4))))))"""
"""Prints proplet id, model, data set and NAME (`-` for a missing one); hands NAME over as its result."""

REACTOR = """(module (global $ready (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $ready (i32.const 41)))
  (func (export "answer") (result i32) (i32.add (global.get $ready) (i32.const 1))))"""

ARGUMENTS = f"""(module (import "{WASI}" "args_get" (func $get (param i32 i32) (result i32)))
  (import "{WASI}" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start")
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $get (i32.const 100) (i32.const 200)))
    (i32.store (i32.const 0) (i32.const 200)) (i32.store (i32.const 4) (i32.load (i32.const 20)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""

WRITE_FILE = f"""(module
  (import "{WASI}" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 100) "update.json") (data (i32.const 200) "written")
  (func (export "main") (result i32)
    (if (result i32) (i32.ne (i32.const 0) (call $open (i32.const 3) (i32.const 0) (i32.const 100)
      (i32.const 11) (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
      (then (i32.const 1))
      (else (i32.store (i32.const 0) (i32.const 200)) (i32.store (i32.const 4) (i32.const 7))
        (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8))))))"""

NAN_BITS = """(module (func (export "main") (result i64)
  (i64.reinterpret_f64 (f64.div (f64.const 0) (f64.const -0)))))"""


def command(body: str) -> str:
    """A component with `wasi:cli/run` whose core function `run` answers 0 for well, 1 for not."""
    return f"""(component
      (core module $m (func (export "run") (result i32) {body}))
      (core instance $i (instantiate $m))
      (func $run (result (result)) (canon lift (core func $i "run")))
      (instance $r (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $r)))"""


HELLO_COMPONENT = """(component
  (import "wasi:io/error@0.2.0" (instance $err (export "error" (type (sub resource)))))
  (alias export $err "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $os (sub resource)))
    (alias outer 1 $error (type $e0))
    (export "error" (type $e (eq $e0)))
    (type $se (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $se2 (eq $se)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $os)) (param "contents" (list u8)) (result (result (error $se2)))))))
  (alias export $streams "output-stream" (type $stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $stream (type $o0))
    (export "output-stream" (type $o (eq $o0)))
    (export "get-stdout" (func (result (own $o))))))
  (core module $memory (memory (export "memory") 1) (data (i32.const 0) "hello component"))
  (core instance $m (instantiate $memory))
  (alias core export $m "memory" (core memory $mem))
  (core func $get (canon lower (func $stdout "get-stdout")))
  (core func $write
    (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $mem)))
  (core module $main
    (import "h" "get" (func $get (result i32)))
    (import "h" "write" (func $write (param i32 i32 i32 i32)))
    (func (export "run") (result i32)
      (call $write (call $get) (i32.const 0) (i32.const 15) (i32.const 100)) (i32.const 0)))
  (core instance $i (instantiate $main
    (with "h" (instance (export "get" (func $get)) (export "write" (func $write))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))"""

NAMED_COMPONENT = """(component
  (core module $m (func (export "mix") (param i32 i64) (result i64)
    (i64.add (i64.extend_i32_u (local.get 0)) (local.get 1))))
  (core instance $i (instantiate $m))
  (func $mix (param "a" u8) (param "b" s64) (result s64) (canon lift (core func $i "mix")))
  (export "mix" (func $mix)))"""

HTTP_COMPONENT = """(component
  (import "wasi:http/outgoing-handler@0.2.0" (instance (export "handle" (func))))
  (core module $m (func (export "run") (result i32) (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))"""


def guest(module: str | bytes | Path, **fields: Any) -> GuestJob:
    """A job for a module given as text, bytes or file."""
    if isinstance(module, str):
        content = bytes(wat2wasm(module))
    else:
        content = module.read_bytes() if isinstance(module, Path) else module
    return GuestJob(module=content, digest=hashlib.sha256(content).hexdigest(), **fields)
