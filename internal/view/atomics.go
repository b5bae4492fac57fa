package view

import (
	"sync/atomic"
	"unsafe"
)

// Atomics returns count words of 8 bytes over memory, which must begin at a multiple of 8: of a file that several processes have
// mapped, for instance. The garbage collector does not know that they refer to it where memory is not Go's own.
func Atomics(memory []byte, count int) []atomic.Uint64 {
	at := unsafe.Pointer(unsafe.SliceData(memory))
	if len(memory) < 8*count || uintptr(at)%8 != 0 {
		panic("view: memory that holds no such words")
	}
	return unsafe.Slice((*atomic.Uint64)(at), count)
}
