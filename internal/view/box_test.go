package view

import (
	"bytes"
	"runtime"
	"testing"
	"unsafe"
)

// A box must give back the bytes that it was given, the same memory and no more of it, as long as somebody else keeps them.
func TestBoxOfBytes(t *testing.T) {
	for _, length := range []int{0, 1, 7, 64, 100_000} {
		b := append(make([]byte, 0, length+17), bytes.Repeat([]byte("x"), length)...)
		box := BoxBytes(b, uint32(length)+7)
		churn()
		got := box.Bytes()
		if !bytes.Equal(got, b) || cap(got) != length || box.Len() != length || length > 0 && &got[0] != &b[0] {
			t.Errorf("%d bytes: got %d, room for %d", length, len(got), cap(got))
		}
		if box.Text() != string(b) || box.Place() != uint32(length)+7 {
			t.Errorf("%d bytes: the text has %d, the place is %d", length, len(box.Text()), box.Place())
		}
		runtime.KeepAlive(b)
	}
	var none Box
	if got := none.Bytes(); len(got) != 0 || cap(got) != 0 || none.Text() != "" {
		t.Errorf("the zero box holds %q", got)
	}
	if size := unsafe.Sizeof(Box{}); size != 16 {
		t.Errorf("a box takes %d bytes", size)
	}
}

// The place of bytes within memory must be told, and refused for other memory.
func TestBoxKnowsItsOffset(t *testing.T) {
	memory, other := make([]byte, 1000), make([]byte, 1000)
	for _, at := range []int{0, 1, 999} {
		if box := BoxBytes(memory[at:], 1); box.OffsetIn(memory) != at {
			t.Errorf("bytes at %d are found at %d", at, box.OffsetIn(memory))
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("bytes are found in memory that has not got them")
		}
	}()
	box := BoxBytes(memory, 1)
	box.OffsetIn(other)
}

// A number must come back whole.
func TestBoxOfNumber(t *testing.T) {
	for _, n := range []uint64{0, 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<64 - 1} {
		box := BoxNumber(n)
		if got := box.Number(); got != n || box.at != 0 {
			t.Errorf("%d came back as %d, at %v", n, got, box.at)
		}
	}
}

type thing struct{ text []byte }

// churn makes the garbage collector run and uses what it has freed.
func churn() (used [][]byte) {
	runtime.GC()
	for range 1000 {
		used = append(used, bytes.Repeat([]byte{0xEE}, 1000), bytes.Repeat([]byte{0xEE}, 24))
	}
	runtime.GC()
	return used
}

// What a box or a hidden pointer refers to must stay as long as somebody else keeps it, also where the stack that made it has gone, and where
// both lie in memory of which the collector knows nothing.
func TestHiddenPointers(t *testing.T) {
	const count = 100
	keeps := make([]*thing, count)
	boxes, hidden := make([]Box, count), make([]Hidden[thing], count)
	for i := range boxes {
		keeps[i] = &thing{bytes.Repeat([]byte{byte(i)}, 1000)}
		boxes[i], hidden[i] = BoxPointer(keeps[i], uint32(i)), Hide(keeps[i])
	}
	churn()
	for i := range boxes {
		if got := Open[thing](&boxes[i]); got != keeps[i] || boxes[i].Place() != uint32(i) || hidden[i].Pointer() != got {
			t.Fatalf("thing %d is not what it was", i)
		}
	}
}

// The collector must not follow a box: that is what it is for.
func TestBoxIsNotFollowed(t *testing.T) {
	gone := make(chan bool, 1)
	boxes := make([]Box, 100)
	func() {
		kept := &thing{make([]byte, 1000)}
		runtime.AddCleanup(kept, func(gone chan bool) { gone <- true }, gone)
		boxes[50] = BoxPointer(kept, 0)
	}()
	for range 100 {
		churn()
		select {
		case <-gone:
			runtime.KeepAlive(boxes)
			return
		default:
		}
	}
	t.Error("a box keeps alive what it refers to")
}
