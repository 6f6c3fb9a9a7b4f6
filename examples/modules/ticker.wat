;; A WASI command: prints "tick" five times a second, as often as its argument says (up to 9), else for ever.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 32) "tick\n")
  (func (export "_start")
    (local $left i32)
    (local.set $left (i32.const -1))
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (if (i32.ge_u (i32.load (i32.const 0)) (i32.const 2))
      (then
        (drop (call $args (i32.const 1024) (i32.const 65536)))
        (local.set $left (i32.sub (i32.load8_u (i32.load (i32.const 1028))) (i32.const 48)))))
    ;; One subscription: the monotonic clock (1), in 200,000,000 ns.
    (i32.store (i32.const 144) (i32.const 1))
    (i64.store (i32.const 152) (i64.const 200000000))
    (i32.store (i32.const 16) (i32.const 32))
    (i32.store (i32.const 20) (i32.const 5))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $left)))
        (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))
        (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 512)))
        (if (i32.gt_s (local.get $left) (i32.const 0))
          (then (local.set $left (i32.sub (local.get $left) (i32.const 1)))))
        (br $next)))))
