package view

import (
	"math"
	"unsafe"
)

// Box refers to bytes of up to 4 GB, or to a value of some type, or is a number, in 16 bytes. It does not know which: who opens it must ask for
// what was put in. The zero Box holds no bytes.
//
// The garbage collector follows a Box like any pointer.
type Box struct {
	at               unsafe.Pointer
	length, capacity uint32
}

// BoxBytes returns a box with b, which it shares. b may have at most 4 GB; of a larger capacity the rest is lost.
func BoxBytes(b []byte) Box {
	if uint64(len(b)) > math.MaxUint32 {
		panic("view: more than 4 GB do not fit into a box")
	}
	return Box{unsafe.Pointer(unsafe.SliceData(b)), uint32(len(b)), uint32(min(uint64(cap(b)), math.MaxUint32))}
}

// Bytes returns the bytes that BoxBytes was given. They are shared, with their capacity.
func (b Box) Bytes() []byte { return unsafe.Slice((*byte)(b.at), b.capacity)[:b.length] }

// Len returns the number of the bytes.
func (b Box) Len() int { return int(b.length) }

// BoxPointer returns a box with a pointer.
func BoxPointer[T any](p *T) Box { return Box{at: unsafe.Pointer(p)} }

// BoxNumber returns a box with a number.
func BoxNumber(n uint64) Box { return Box{length: uint32(n), capacity: uint32(n >> 32)} }

// Number returns what BoxNumber was given.
func (b Box) Number() uint64 { return uint64(b.capacity)<<32 | uint64(b.length) }

// Open returns the pointer that BoxPointer was given, which must have been of this type.
func Open[T any](b Box) *T { return (*T)(b.at) }
