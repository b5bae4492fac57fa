package kv

import (
	"errors"
	"slices"
	"testing"
)

// What could go wrong: changes of one row change places, one is lost, or what is visited is not what was put in.
func TestChangesInTheOrderOfTheirKeys(t *testing.T) {
	var first, second, all ImageRows
	key := func(number uint64) rowKey { return rowKey{space: spaceKeys, number: number} }
	first.put(key(7), []byte("seven"))
	first.put(key(3), []byte("three"))
	first.remove(key(7))
	second.put(key(1), nil)
	second.put(key(7), []byte("again"))
	all.Append(&first)
	all.Append(&second)
	first.Reset() // what was appended is a copy
	first.put(key(9), []byte("other"))

	type change struct {
		op     RowOp
		number byte
		value  string
	}
	var got []change
	visit := func(op RowOp, key, value []byte) error {
		got = append(got, change{op, key[len(key)-1], string(value)})
		return nil
	}
	if err := all.EachByKey(visit); err != nil {
		t.Fatal(err)
	}
	want := []change{{RowPut, 1, ""}, {RowPut, 3, "three"}, {RowPut, 7, "seven"}, {RowDelete, 7, ""}, {RowPut, 7, "again"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}

	enough := errors.New("enough")
	calls := 0
	err := all.EachByKey(func(RowOp, []byte, []byte) error { calls++; return enough })
	if !errors.Is(err, enough) || calls != 1 {
		t.Errorf("after %d calls: %v", calls, err)
	}
	all.data = all.data[:len(all.data)-1]
	if err := all.EachByKey(func(RowOp, []byte, []byte) error { t.Error("a change of a torn batch"); return nil }); !errors.Is(err, errTornRows) {
		t.Errorf("a torn batch: %v", err)
	}
}
