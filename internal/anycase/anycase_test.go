package anycase

import (
	"strconv"
	"strings"
	"testing"
)

var words = strings.Fields("get set setex setnx setrange getset getdel getex mget mset zrangebyscore zrangebylex zrevrangebyscore georadius_ro georadiusbymember_ro a @[`{ x-1 " +
	"a-name-of-forty-bytes-that-is-longer-yet")

func TestFindsEveryNameInAnyCase(t *testing.T) {
	t.Parallel()
	values := make(map[string]int)
	for i, word := range words {
		values[word] = i
	}
	for i := range 1000 { // many that share a hash's bytes
		values["command-"+strconv.Itoa(i)] = 100 + i
	}
	table := New(values)
	for name, want := range values {
		for _, written := range []string{name, strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:]} {
			if got, found := table.Find([]byte(written)); !found || got != want {
				t.Fatalf("%q: %d, %v", written, got, found)
			}
		}
	}
}

func TestFindsNothingElse(t *testing.T) {
	t.Parallel()
	values := map[string]bool{}
	for _, word := range words {
		values[word] = true
	}
	table := New(values)
	// What is no letter has no other case: '@' and '`', '[' and '{' differ in the same bit as letters do.
	for _, name := range []string{"", "ge", "gett", "g\x00t", "get\x00", "`[`{", "@{`{", "@[@{", "x\r1", "command", "zrangebyscor", "zrangebylexx", "\xc7et", "a-name-of-forty-bytes-that-is-longer-ye."} {
		if _, found := table.Find([]byte(name)); found {
			t.Errorf("%q is found", name)
		}
	}
	if _, found := New(map[string]int{}).Find([]byte("get")); found {
		t.Error("something is found where nothing is")
	}
	for _, wrong := range []string{"", "Get"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is taken", wrong)
				}
			}()
			New(map[string]int{wrong: 1})
		}()
	}
}

func TestFindingTakesNoMemory(t *testing.T) {
	table, name := New(map[string]*int{"set": nil}), []byte("SET")
	if n := testing.AllocsPerRun(100, func() { table.Find(name) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
