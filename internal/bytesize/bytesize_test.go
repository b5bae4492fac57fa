package bytesize

import "testing"

// What could go wrong: a size that is printed cannot be read again, or overflows.
func TestSizesAreReadBack(t *testing.T) {
	for text, want := range map[string]int64{"4096": 4096, "4KiB": 4096, "64MiB": 64 << 20, "1GiB": 1 << 30, "0": 0} {
		var bytes, back int64
		s := Flag(&bytes, 1<<62)
		if err := s.Set(text); err != nil || bytes != want {
			t.Errorf("%q: %d, %v", text, bytes, err)
		}
		if err := Flag(&back, 1<<62).Set(s.String()); err != nil || back != bytes {
			t.Errorf("%q is printed as %q", text, s.String())
		}
	}
	for _, text := range []string{"", "-1", "MiB", "9999999999999GiB", "1.5MiB", "1MB"} {
		if err := Flag(new(int64), 1<<62).Set(text); err == nil {
			t.Errorf("%q is taken for a size", text)
		}
	}
	var bytes int
	if err := Flag(&bytes, 1<<40).Set("1024GiB"); err != nil || bytes != 1<<40 {
		t.Errorf("the limit itself: %d, %v", bytes, err)
	}
	if err := Flag(&bytes, 1<<40).Set("1025GiB"); err == nil {
		t.Error("a size beyond the limit is taken")
	}
}
