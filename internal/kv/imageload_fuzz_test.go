package kv

import (
	"maps"
	"slices"
	"testing"

	"lockstep/internal/resp"
)

// batchOf returns the rows of a store as a batch of changes, in the order of their keys.
func batchOf(rows map[string]string) []byte {
	var batch ImageRows
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		batch.Add(RowPut, []byte(key), []byte(rows[key]))
	}
	return batch.Bytes()
}

// loadBatch makes a machine of the rows of a batch, in their order.
func loadBatch(b []byte, load func(*Machine) *ImageLoader) (*Machine, error) {
	m := New()
	l, rows := load(m), RowsOf(b)
	if err := rows.Each(func(_ RowOp, key, value []byte) error { return l.Row(key, value) }); err != nil {
		return nil, err
	}
	return m, l.End()
}

// FuzzImageRows: no rows may make a loader of images panic, or take memory beyond their size, be it that it takes all values or leaves them cold. Whoever
// reads the front of a row, or joins one with another row, must not panic either. What loads can be read, and written as an image again, of which the
// same machine is made.
func FuzzImageRows(f *testing.F) {
	for seed := range uint64(3) {
		i := newImager(f, seed)
		f.Add(imageOf(f, i.m))
		i.command("rpush", "list", "1", "2", "3")
		i.command("hset", "hash", "f", "1")
		i.command("zadd", "zset", "1", "m")
		i.command("sadd", "set", "1", "m")
		i.command("xadd", "stream", "*", "f", "v")
		i.command("xgroup", "create", "stream", "g", "0")
		i.command("xreadgroup", "group", "g", "c", "streams", "stream", ">")
		i.command("setex", "text", "100", "v")
		f.Add(imageOf(f, i.m))
		for range 60 * seed {
			i.change()
		}
		f.Add(imageOf(f, i.m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rows := RowsOf(b)
		var last []byte
		_ = rows.Each(func(_ RowOp, key, value []byte) error { // a torn batch ends it, as it ends the loaders below
			RowObject(key, value)
			JoinRow(nil, value, last)
			last = value
			return nil
		})
		if m, err := loadBatch(b, LoadImage); err == nil {
			var reply resp.Reply
			for _, args := range [][]string{{"keys", "*"}, {"scan", "5"}, {"randomkey"}, {"acl", "list"}, {"function", "list"}} {
				m.Read(0, bytesOf(args), &reply)
			}
			again, err := loadBatch(imageOf(t, m), LoadImage)
			if err != nil || again.Digest() != m.Digest() {
				t.Fatalf("the image of what was loaded gives another machine: %v", err)
			}
		}
		loadBatch(b, func(m *Machine) *ImageLoader { return LoadCold(m, 0) })
	})
}

// imageOf returns the rows of a full image of a machine.
func imageOf(t testing.TB, m *Machine) []byte {
	store := imageStore{rows: make(map[string]string), released: make(map[uint64]bool), used: make(map[uint64]bool), full: true}
	m.BeginImage(true)
	var rows ImageRows
	for more := true; more; {
		more = m.NextRows(1<<20, &rows)
		store.take(t, &rows)
	}
	m.EndImage(true)
	return batchOf(store.rows)
}
