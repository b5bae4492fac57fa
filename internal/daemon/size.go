package daemon

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
)

// size is a number of bytes as a flag.
type size[T ~int | ~int64] struct {
	target *T
	limit  int64
}

// Size returns a flag's value for a number of bytes from 0 to limit, written as 67108864 or 64MiB.
func Size[T ~int | ~int64](target *T, limit int64) flag.Value {
	return &size[T]{target: target, limit: limit}
}

var units = []struct {
	suffix string
	bytes  int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

// String implements flag.Value; the zero value counts as 0.
func (s *size[T]) String() string {
	if s.target == nil {
		return "0"
	}
	for _, unit := range units {
		if n := int64(*s.target); n != 0 && n%unit.bytes == 0 {
			return fmt.Sprintf("%d%s", n/unit.bytes, unit.suffix)
		}
	}
	return "0"
}

// Set implements flag.Value.
func (s *size[T]) Set(text string) error {
	for _, unit := range units {
		number, found := strings.CutSuffix(text, unit.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > s.limit/unit.bytes {
			return fmt.Errorf("%q is no number of bytes: write 67108864 or 64MiB", text)
		}
		*s.target = T(n * unit.bytes)
		return nil
	}
	return nil
}
