package view

import "testing"

// The view must be the string, and take no memory.
func TestBytesAreThoseOfTheString(t *testing.T) {
	for _, s := range []string{"", "a", "a\x00b"} {
		if b := Bytes(s); string(b) != s || len(b) != len(s) || cap(b) != len(s) {
			t.Errorf("%q gave %q", s, b)
		}
	}
	s := string(make([]byte, 1000))
	if n := testing.AllocsPerRun(10, func() { Bytes(s) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
