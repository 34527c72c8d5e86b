;; The hot part of both ends of a ring, for rings in guest memory that WebAssembly can address.
;;
;; Pure functions of guest memory. The module has no state, no memory of its own, no data and no start function: loading
;; it changes nothing. (Data would land on the guest's page 0; the build refuses it.) OutgoingRing and IncomingRing keep
;; the indices and decide; whatever is not the plain case they do themselves, in TypeScript.
;;
;; Addresses are guest physical, for guest memory begins at address 0. Lengths are in bytes.
(module
  (import "guest" "memory" (memory 1 65536 shared))

  ;; Copies between ranges that do not overlap.
  (func $copy (export "copy") (param $to i32) (param $from i32) (param $length i32)
    (local $toEnd i32) (local $fromEnd i32)
    (if (i32.lt_u (local.get $length) (i32.const 16))
      (then
        (call $copyFew (local.get $to) (local.get $from) (local.get $length))
        (return)))
    ;; The engine's own copy is faster only from here on: getting there takes as long as copying this much.
    (if (i32.gt_u (local.get $length) (i32.const 256))
      (then
        (memory.copy (local.get $to) (local.get $from) (local.get $length))
        (return)))
    (local.set $toEnd (i32.add (local.get $to) (local.get $length)))
    (local.set $fromEnd (i32.add (local.get $from) (local.get $length)))
    (if (i32.gt_u (local.get $length) (i32.const 64))
      (then
        (loop $more
          (v128.store (local.get $to) (v128.load (local.get $from)))
          (v128.store offset=16 (local.get $to) (v128.load offset=16 (local.get $from)))
          (v128.store offset=32 (local.get $to) (v128.load offset=32 (local.get $from)))
          (v128.store offset=48 (local.get $to) (v128.load offset=48 (local.get $from)))
          (local.set $to (i32.add (local.get $to) (i32.const 64)))
          (local.set $from (i32.add (local.get $from) (i32.const 64)))
          (br_if $more (i32.gt_u (i32.sub (local.get $toEnd) (local.get $to)) (i32.const 64))))
        (local.set $to (i32.sub (local.get $toEnd) (i32.const 64)))
        (local.set $from (i32.sub (local.get $fromEnd) (i32.const 64)))))
    ;; 16 to 64 bytes, from both ends towards the middle, where the pieces may overlap.
    (v128.store (local.get $to) (v128.load (local.get $from)))
    (if (i32.gt_u (local.get $length) (i32.const 32))
      (then
        (v128.store offset=16 (local.get $to) (v128.load offset=16 (local.get $from)))
        (v128.store
          (i32.sub (local.get $toEnd) (i32.const 32))
          (v128.load (i32.sub (local.get $fromEnd) (i32.const 32))))))
    (v128.store
      (i32.sub (local.get $toEnd) (i32.const 16))
      (v128.load (i32.sub (local.get $fromEnd) (i32.const 16)))))

  ;; Copies less than 16 bytes.
  (func $copyFew (param $to i32) (param $from i32) (param $length i32)
    (if (i32.and (local.get $length) (i32.const 8))
      (then
        (i64.store (local.get $to) (i64.load (local.get $from)))
        (local.set $to (i32.add (local.get $to) (i32.const 8)))
        (local.set $from (i32.add (local.get $from) (i32.const 8)))))
    (if (i32.and (local.get $length) (i32.const 4))
      (then
        (i32.store (local.get $to) (i32.load (local.get $from)))
        (local.set $to (i32.add (local.get $to) (i32.const 4)))
        (local.set $from (i32.add (local.get $from) (i32.const 4)))))
    (if (i32.and (local.get $length) (i32.const 2))
      (then
        (i32.store16 (local.get $to) (i32.load16_u (local.get $from)))
        (local.set $to (i32.add (local.get $to) (i32.const 2)))
        (local.set $from (i32.add (local.get $from) (i32.const 2)))))
    (if (i32.and (local.get $length) (i32.const 1))
      (then (i32.store8 (local.get $to) (i32.load8_u (local.get $from))))))

  ;; Writes a packet that lies in one piece at $at, which is $start in the ring: a descriptor of 16 bytes whose first
  ;; half is $first and $second, the payload, padding, the trailer. See protocol/packet-layout.ts.
  (func (export "put")
    (param $at i32) (param $first i32) (param $second i32) (param $idLow i32) (param $idHigh i32)
    (param $from i32) (param $length i32) (param $start i32)
    (local $to i32) (local $end i32) (local $fromEnd i32) (local $rest i32)
    (local.set $to (i32.add (local.get $at) (i32.const 16)))
    ;; The low half of $second is the packet's length in units of 8 bytes.
    (local.set $end
      (i32.add
        (local.get $at)
        (i32.shl (i32.and (local.get $second) (i32.const 0xffff)) (i32.const 3))))
    ;; Stores that wait for the reader's cache lines are few if each is wide.
    (i64.store offset=0 (local.get $at)
      (i64.or
        (i64.extend_i32_u (local.get $first))
        (i64.shl (i64.extend_i32_u (local.get $second)) (i64.const 32))))
    (i64.store offset=8 (local.get $at)
      (i64.or
        (i64.extend_i32_u (local.get $idLow))
        (i64.shl (i64.extend_i32_u (local.get $idHigh)) (i64.const 32))))
    ;; What follows the payload is stored after it: stores are carried out in their order, and one whose cache line is
    ;; slow to come holds up all that follow.
    (if (i32.lt_u (local.get $length) (i32.const 8))
      (then
        (if (local.get $length)
          (then (i64.store (i32.sub (local.get $end) (i32.const 8)) (i64.const 0))))
        (call $copyFew (local.get $to) (local.get $from) (local.get $length)))
      (else
        (local.set $fromEnd (i32.add (local.get $from) (local.get $length)))
        ;; 32 to 64 bytes as $copy does it, without the call.
        (if (i32.le_u (i32.sub (local.get $length) (i32.const 32)) (i32.const 32))
          (then
            (v128.store (local.get $to) (v128.load (local.get $from)))
            (v128.store offset=16 (local.get $to) (v128.load offset=16 (local.get $from)))
            (local.set $to (i32.sub (i32.add (local.get $to) (local.get $length)) (i32.const 32)))
            (local.set $from (i32.sub (local.get $fromEnd) (i32.const 32)))
            (v128.store (local.get $to) (v128.load (local.get $from)))
            (v128.store offset=16 (local.get $to) (v128.load offset=16 (local.get $from))))
          (else (call $copy (local.get $to) (local.get $from) (local.get $length))))
        ;; The last bytes of the payload once more, with zeros for the padding.
        (local.set $rest (i32.and (local.get $length) (i32.const 7)))
        (if (local.get $rest)
          (then
            (i64.store (i32.sub (local.get $end) (i32.const 8))
              (i64.shr_u
                (i64.load (i32.sub (local.get $fromEnd) (i32.const 8)))
                (i64.extend_i32_u
                  (i32.shl (i32.sub (i32.const 8) (local.get $rest)) (i32.const 3)))))))))
    (i64.store (local.get $end)
      (i64.shl (i64.extend_i32_u (local.get $start)) (i64.const 32))))

  ;; Copies a packet's payload of $length bytes, or the first $capacity of them, out of a ring, where $available bytes lie
  ;; in one piece from the packet's start on. Whoever reads packets one by one waits for the writer's cache lines one by
  ;; one: each time that small packets pass a multiple of 512 bytes, this loads the lines of 512 bytes further on together.
  (func (export "copyAhead")
    (param $to i32) (param $from i32) (param $length i32) (param $capacity i32) (param $available i32)
    (local $next i32)
    (local.set $next (i32.add (i32.add (local.get $from) (local.get $length)) (i32.const 24)))
    (if
      (i32.and
        (i32.and (i32.xor (local.get $next) (local.get $from)) (i32.const 512))
        (i32.shl (i32.le_u (local.get $length) (i32.const 256)) (i32.const 9)))
      (then
        (local.set $next (i32.and (i32.add (local.get $next) (i32.const 1024)) (i32.const -512)))
        ;; The descriptor is 16 bytes.
        (if
          (i32.le_u
            (i32.sub (i32.add (local.get $next) (i32.const 528)) (local.get $from))
            (local.get $available))
          (then
            (drop (i32.load8_u offset=0 (local.get $next)))
            (drop (i32.load8_u offset=64 (local.get $next)))
            (drop (i32.load8_u offset=128 (local.get $next)))
            (drop (i32.load8_u offset=192 (local.get $next)))
            (drop (i32.load8_u offset=256 (local.get $next)))
            (drop (i32.load8_u offset=320 (local.get $next)))
            (drop (i32.load8_u offset=384 (local.get $next)))
            (drop (i32.load8_u offset=448 (local.get $next)))))))
    (if (i32.gt_u (local.get $length) (local.get $capacity))
      (then (local.set $length (local.get $capacity))))
    (if (i32.le_u (i32.sub (local.get $length) (i32.const 32)) (i32.const 32))
      (then
        (v128.store (local.get $to) (v128.load (local.get $from)))
        (v128.store offset=16 (local.get $to) (v128.load offset=16 (local.get $from)))
        (local.set $to (i32.sub (i32.add (local.get $to) (local.get $length)) (i32.const 32)))
        (local.set $from (i32.sub (i32.add (local.get $from) (local.get $length)) (i32.const 32)))
        (v128.store (local.get $to) (v128.load (local.get $from)))
        (v128.store offset=16 (local.get $to) (v128.load offset=16 (local.get $from))))
      (else (call $copy (local.get $to) (local.get $from) (local.get $length)))))

  ;; Loads a word. Calls of the engine's Atomics take three times as long.
  (func (export "load") (param $at i32) (result i32)
    (i32.atomic.load (local.get $at)))

  ;; Stores a word.
  (func (export "store") (param $at i32) (param $value i32)
    (i32.atomic.store (local.get $at) (local.get $value)))

  ;; Stores the write index, then loads the interrupt mask, of the control page at $control.
  (func (export "publishWriteIndex") (param $control i32) (param $index i32) (result i32)
    (i32.atomic.store offset=0 (local.get $control) (local.get $index))
    (i32.atomic.load offset=8 (local.get $control)))

  ;; Stores the read index, then loads the pending send size, of the control page at $control.
  (func (export "publishReadIndex") (param $control i32) (param $index i32) (result i32)
    (i32.atomic.store offset=4 (local.get $control) (local.get $index))
    (i32.atomic.load offset=12 (local.get $control))))
