// Package bytesize reads and writes numbers of bytes as people give them: 67108864 or 64MiB. It knows KiB, MiB and GiB only;
// other units and fractions are refused.
package bytesize

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
)

// Max is the largest number of bytes that Parse takes: the end of every LSN that is possible lies above it.
const Max = 1 << 62

var units = []struct {
	suffix string
	bytes  int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

// Parse reads a number of bytes from 0 to limit.
func Parse(text string, limit int64) (int64, error) {
	for _, unit := range units {
		number, found := strings.CutSuffix(text, unit.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > limit/unit.bytes {
			break
		}
		return n * unit.bytes, nil
	}
	return 0, fmt.Errorf("%q is no number of bytes: write 67108864 or 64MiB", text)
}

// Format writes a number of bytes so that Parse reads it back, in the largest unit that it is a multiple of.
func Format(bytes int64) string {
	for _, unit := range units {
		if bytes != 0 && bytes%unit.bytes == 0 {
			return fmt.Sprintf("%d%s", bytes/unit.bytes, unit.suffix)
		}
	}
	return "0"
}

// value is a number of bytes as a flag.
type value[T ~int | ~int64] struct {
	target *T
	limit  int64
}

// Flag returns a flag's value for a number of bytes from 0 to limit.
func Flag[T ~int | ~int64](target *T, limit int64) flag.Value {
	return &value[T]{target: target, limit: limit}
}

// String implements flag.Value; the zero value counts as 0.
func (v *value[T]) String() string {
	if v.target == nil {
		return "0"
	}
	return Format(int64(*v.target))
}

// Set implements flag.Value.
func (v *value[T]) Set(text string) error {
	n, err := Parse(text, v.limit)
	if err == nil {
		*v.target = T(n)
	}
	return err
}
