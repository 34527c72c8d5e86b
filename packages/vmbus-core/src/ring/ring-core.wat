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
    (local $to i32) (local $end i32)
    (local.set $to (i32.add (local.get $at) (i32.const 16)))
    ;; The low half of $second is the packet's length in units of 8 bytes.
    (local.set $end
      (i32.add
        (local.get $at)
        (i32.shl (i32.and (local.get $second) (i32.const 0xffff)) (i32.const 3))))
    (i32.store offset=0 (local.get $at) (local.get $first))
    (i32.store offset=4 (local.get $at) (local.get $second))
    ;; The payload goes over all of the last 8 bytes but the padding; without payload the transaction id does.
    (i64.store (i32.sub (local.get $end) (i32.const 8)) (i64.const 0))
    (i32.store offset=8 (local.get $at) (local.get $idLow))
    (i32.store offset=12 (local.get $at) (local.get $idHigh))
    (i32.store offset=0 (local.get $end) (i32.const 0))
    (i32.store offset=4 (local.get $end) (local.get $start))
    ;; 32 to 64 bytes as $copy does it, without the call.
    (if (i32.le_u (i32.sub (local.get $length) (i32.const 32)) (i32.const 32))
      (then
        (v128.store (local.get $to) (v128.load (local.get $from)))
        (v128.store offset=16 (local.get $to) (v128.load offset=16 (local.get $from)))
        (local.set $to (i32.sub (i32.add (local.get $to) (local.get $length)) (i32.const 32)))
        (local.set $from (i32.sub (i32.add (local.get $from) (local.get $length)) (i32.const 32)))
        (v128.store (local.get $to) (v128.load (local.get $from)))
        (v128.store offset=16 (local.get $to) (v128.load offset=16 (local.get $from))))
      (else (call $copy (local.get $to) (local.get $from) (local.get $length)))))

  ;; Takes the packet at $at, of which $available bytes are there in one piece: checks its descriptor and copies its
  ;; payload, or the first $capacity bytes of it, to $to.
  ;; Returns packet bytes | completion << 1 | flags, or 0 and has done nothing unless all is as usual: in-band or a
  ;; completion, 16 bytes of header, whole. What is wrong with the rest, if anything, others find out.
  (func (export "take")
    (param $at i32) (param $available i32) (param $to i32) (param $capacity i32) (result i32)
    (local $descriptor i64) (local $type i32) (local $packet i32) (local $length i32) (local $from i32)
    (block $unusual
      ;; Read once: the writer may change it meanwhile.
      (local.set $descriptor (i64.load (local.get $at)))
      (br_if $unusual
        (i64.ne
          (i64.and (local.get $descriptor) (i64.const 0xfffe_0000_ffff_0000))
          (i64.const 0x0000_0000_0002_0000)))
      (local.set $type (i32.and (i32.wrap_i64 (local.get $descriptor)) (i32.const 0xffff)))
      (br_if $unusual
        (i32.and
          (i32.ne (local.get $type) (i32.const 6))
          (i32.ne (local.get $type) (i32.const 11))))
      (local.set $packet
        (i32.and
          (i32.wrap_i64 (i64.shr_u (local.get $descriptor) (i64.const 29)))
          (i32.const 0x7fff8)))
      (br_if $unusual (i32.lt_u (local.get $packet) (i32.const 16)))
      (br_if $unusual
        (i32.gt_u (i32.add (local.get $packet) (i32.const 8)) (local.get $available)))
      (local.set $from (i32.add (local.get $at) (i32.const 16)))
      (local.set $length (i32.sub (local.get $packet) (i32.const 16)))
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
        (else (call $copy (local.get $to) (local.get $from) (local.get $length))))
      (return
        (i32.or
          (i32.or
            (local.get $packet)
            (i32.shl (i32.eq (local.get $type) (i32.const 11)) (i32.const 1)))
          (i32.wrap_i64 (i64.shr_u (local.get $descriptor) (i64.const 48))))))
    (i32.const 0))

  ;; Stores the write index, then loads the interrupt mask, of the control page at $control.
  (func (export "publishWriteIndex") (param $control i32) (param $index i32) (result i32)
    (i32.atomic.store offset=0 (local.get $control) (local.get $index))
    (i32.atomic.load offset=8 (local.get $control)))

  ;; Stores the read index, then loads the pending send size, of the control page at $control.
  (func (export "publishReadIndex") (param $control i32) (param $index i32) (result i32)
    (i32.atomic.store offset=4 (local.get $control) (local.get $index))
    (i32.atomic.load offset=12 (local.get $control))))
