;; A component whose function takes and gives text: greet: func(name: string) -> string
(component
  (core module $inside
    (memory (export "memory") 1)
    (data (i32.const 16) "hello, ")
    (global $free (mut i32) (i32.const 1024))
    ;; Room for what callers pass in; a call has the memory for itself, so nothing is ever given back.
    (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (global.get $free)
      (global.set $free (i32.add (global.get $free) (local.get $size))))
    (func (export "greet") (param $name i32) (param $length i32) (result i32)
      (local $answer i32)
      (local.set $answer (global.get $free))
      (memory.copy (local.get $answer) (i32.const 16) (i32.const 7))
      (memory.copy (i32.add (local.get $answer) (i32.const 7)) (local.get $name) (local.get $length))
      ;; Where the answer is, and how long: the canonical form of a string.
      (i32.store (i32.const 0) (local.get $answer))
      (i32.store (i32.const 4) (i32.add (local.get $length) (i32.const 7)))
      (i32.const 0)))
  (core instance $core (instantiate $inside))
  (alias core export $core "memory" (core memory $memory))
  (alias core export $core "realloc" (core func $realloc))
  (alias core export $core "greet" (core func $greet))
  (func (export "greet") (param "name" string) (result string)
    (canon lift (core func $greet) (memory $memory) (realloc $realloc))))
