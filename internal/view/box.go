package view

import (
	"math"
	"unsafe"
)

// Box refers to bytes of up to 4 GB, or to a value of some type, or is a number, in 16 bytes. It does not know which: who opens it must ask for
// what was put in. The zero Box holds no bytes.
//
// The garbage collector does not follow a Box, and looks into no memory that holds nothing but boxes and numbers. So whoever fills one keeps what
// it refers to alive, by a pointer or slice of Go in some other place, for as long as the box may be opened. What is taken out is an ordinary
// slice, string or pointer, and keeps alive what it refers to. It must be memory of Go's heap, where nothing ever moves (the collector is
// "non-generational and non-compacting", runtime/mgc.go); not of a stack.
type Box struct {
	at     uintptr
	length uint32
	place  uint32
}

// BoxBytes returns a box with b, of at most 4 GB, and a number for its owner's use.
func BoxBytes(b []byte, place uint32) Box {
	if uint64(len(b)) > math.MaxUint32 {
		panic("view: more than 4 GB do not fit into a box")
	}
	return Box{uintptr(unsafe.Pointer(unsafe.SliceData(b))), uint32(len(b)), place}
}

// pointer reads the address as the pointer that it was. (A conversion of the number would be taken for arithmetic, by tools and by readers.)
func (b *Box) pointer() unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&b.at)) }

// Bytes returns the bytes that BoxBytes was given. They are shared, and there is no room behind them.
func (b *Box) Bytes() []byte { return unsafe.Slice((*byte)(b.pointer()), int(b.length)) }

// Text returns the bytes that BoxBytes was given as a string. It is shared: it is of use until the bytes change.
func (b *Box) Text() string { return unsafe.String((*byte)(b.pointer()), int(b.length)) }

// Len returns the number of the bytes.
func (b *Box) Len() int { return int(b.length) }

// Place returns the number that stands with the bytes or the pointer.
func (b *Box) Place() uint32 { return b.place }

// OffsetIn returns where the bytes begin in memory, which must have them.
func (b *Box) OffsetIn(memory []byte) int {
	offset := b.at - uintptr(unsafe.Pointer(unsafe.SliceData(memory)))
	if offset > uintptr(len(memory)) || offset+uintptr(b.length) > uintptr(len(memory)) {
		panic("view: bytes of other memory")
	}
	return int(offset)
}

// BoxPointer returns a box with a pointer and a number for its owner's use.
func BoxPointer[T any](p *T, place uint32) Box {
	return Box{at: uintptr(unsafe.Pointer(p)), place: place}
}

// BoxNumber returns a box with a number.
func BoxNumber(n uint64) Box { return Box{length: uint32(n), place: uint32(n >> 32)} }

// Number returns what BoxNumber was given.
func (b *Box) Number() uint64 { return uint64(b.place)<<32 | uint64(b.length) }

// Open returns the pointer that BoxPointer was given, which must have been of this type.
func Open[T any](b *Box) *T { return (*T)(b.pointer()) }

// Hidden is a pointer in 8 bytes that the garbage collector does not follow. What is said of Box holds for it, too.
type Hidden[T any] struct{ at uintptr }

// Hide returns a hidden pointer.
func Hide[T any](p *T) Hidden[T] { return Hidden[T]{uintptr(unsafe.Pointer(p))} }

// Pointer returns the pointer that Hide was given.
func (h *Hidden[T]) Pointer() *T { return *(**T)(unsafe.Pointer(&h.at)) }
