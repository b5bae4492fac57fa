package view

import (
	"bytes"
	"runtime"
	"testing"
	"unsafe"
)

// A box must give back the bytes that it was given, the same memory with the same room behind them, and keep it alive.
func TestBoxOfBytes(t *testing.T) {
	for _, length := range []int{0, 1, 7, 64, 100_000} {
		b := append(make([]byte, 0, length+17), bytes.Repeat([]byte("x"), length)...)
		box := BoxBytes(b)
		runtime.GC()
		got := box.Bytes()
		if !bytes.Equal(got, b) || cap(got) != cap(b) || box.Len() != length || unsafe.SliceData(got) != unsafe.SliceData(b) {
			t.Errorf("%d bytes, room for %d: got %d, room for %d", length, cap(b), len(got), cap(got))
		}
		if got = append(got, "more"...); !bytes.Equal(BoxBytes(got).Bytes(), append(b, "more"...)) {
			t.Errorf("%d bytes cannot be appended to", length)
		}
	}
	if got := (Box{}).Bytes(); len(got) != 0 || cap(got) != 0 {
		t.Errorf("the zero box holds %q", got)
	}
	if got := BoxBytes(nil).Bytes(); len(got) != 0 {
		t.Errorf("no bytes came back as %q", got)
	}
	if size := unsafe.Sizeof(Box{}); size != 16 {
		t.Errorf("a box takes %d bytes", size)
	}
}

// A number must come back whole, and be nothing that the garbage collector follows.
func TestBoxOfNumber(t *testing.T) {
	for _, n := range []uint64{0, 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<64 - 1} {
		box := BoxNumber(n)
		runtime.GC()
		if got := box.Number(); got != n || box.at != nil {
			t.Errorf("%d came back as %d, at %v", n, got, box.at)
		}
	}
}

// A box must keep alive what it points to.
func TestBoxOfPointer(t *testing.T) {
	type thing struct{ text []byte }
	boxes := make([]Box, 100)
	for i := range boxes {
		boxes[i] = BoxPointer(&thing{bytes.Repeat([]byte{byte(i)}, 1000)})
	}
	runtime.GC()
	for i, box := range boxes {
		if got := Open[thing](box).text; len(got) != 1000 || got[0] != byte(i) || got[999] != byte(i) {
			t.Fatalf("thing %d has %d bytes", i, len(got))
		}
	}
}
