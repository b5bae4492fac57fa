package view

import (
	"encoding/binary"
	"testing"
	"unsafe"
)

// The words must be the memory itself: what is written through one is read through the other.
func TestAtomicsAreTheMemory(t *testing.T) {
	backing := make([]uint64, 8)
	memory := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(backing))), 64)
	words := Atomics(memory, 4)
	words[3].Store(0x0102030405060708)
	if got := binary.NativeEndian.Uint64(memory[24:]); got != 0x0102030405060708 || len(words) != 4 {
		t.Fatalf("memory holds %x, %d words", got, len(words))
	}
	for name, use := range map[string]func(){
		"too short":   func() { Atomics(memory[:31], 4) },
		"not aligned": func() { Atomics(memory[1:], 4) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			use()
		}()
	}
}
