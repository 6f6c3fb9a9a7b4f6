;; A WASI command: prints "hello" and its arguments, separated by spaces.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  (data (i32.const 32) "hello\n ")
  ;; Print `length` bytes at `text` on standard output; 0 to 11 hold the call's own numbers.
  (func $print (param $text i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $text))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $length (param $text i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $text))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (i32.load8_u (local.get $end))))
        (local.set $end (i32.add (local.get $end) (i32.const 1)))
        (br $next)))
    (i32.sub (local.get $end) (local.get $text)))
  (func (export "_start")
    (local $number i32) (local $text i32)
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    ;; The addresses of the arguments from 1024 on, their texts from 65536 on.
    (drop (call $args (i32.const 1024) (i32.const 65536)))
    (call $print (i32.const 32) (i32.const 5))
    (local.set $number (i32.const 1))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $number) (i32.load (i32.const 16))))
        (call $print (i32.const 38) (i32.const 1))
        (local.set $text
          (i32.load (i32.add (i32.const 1024) (i32.mul (local.get $number) (i32.const 4)))))
        (call $print (local.get $text) (call $length (local.get $text)))
        (local.set $number (i32.add (local.get $number) (i32.const 1)))
        (br $next)))
    (call $print (i32.const 37) (i32.const 1))))
