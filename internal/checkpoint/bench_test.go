package checkpoint

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"lockstep/internal/kv"
)

// filled returns a node with so many keys of 100 bytes that cannot be compressed.
func filled(keys int) *node {
	n := newNode()
	dice := rand.New(rand.NewPCG(1, 1))
	value := make([]byte, 100)
	for i := range keys {
		for j := range value {
			value[j] = byte(dice.Uint32())
		}
		n.do("set", "key:"+strconv.Itoa(i), string(value))
	}
	return n
}

// changer returns what changes so many keys, drawn by seed, of a node that was filled with keys.
func (n *node) changer(keys int, seed uint64) func(count int) {
	dice := rand.New(rand.NewPCG(seed, seed))
	value := make([]byte, 100)
	return func(count int) {
		for range count {
			for j := range value {
				value[j] = byte(dice.Uint32())
			}
			n.do("set", "key:"+strconv.Itoa(dice.IntN(keys)), string(value))
		}
	}
}

// BenchmarkLoad loads an image of 200,000 keys of 100 bytes; MB/s are of its files.
func BenchmarkLoad(b *testing.B) {
	n, e := filled(200_000), engineAt(b, nil, b.TempDir())
	m := take(b, e, n)
	dir := e.fs.PathJoin(e.Images(), Name(m.LSN))
	b.SetBytes(m.Bytes)
	for b.Loop() {
		if _, err := Load(dir, kv.New()); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFullImage takes full images of 200,000 keys of 100 bytes.
func BenchmarkFullImage(b *testing.B) {
	n := filled(200_000)
	for b.Loop() {
		e := engineAt(b, nil, b.TempDir())
		b.SetBytes(take(b, e, n).Bytes)
		if err := e.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkChangedImage takes images of a million keys of 100 bytes, of which one in a hundred was changed since the image before,
// drawn. What it reports is of an image.
func BenchmarkChangedImage(b *testing.B) {
	const keys = 1_000_000
	n, e := filled(keys), engineAt(b, nil, b.TempDir())
	take(b, e, n)
	change := n.changer(keys, 2)
	for b.Loop() {
		b.StopTimer()
		change(keys / 100)
		b.StartTimer()
		m := take(b, e, n)
		b.ReportMetric(float64(m.Written)/float64(m.Bytes)*100, "%written")
	}
	b.StopTimer()
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkImageBesideWrites takes images of a million keys of 100 bytes, of which one in ten was changed since the image before, while keys
// drawn from all go on changing: most rows that such a change meets have to be taken out of turn.
func BenchmarkImageBesideWrites(b *testing.B) {
	const keys = 1_000_000
	n, e := filled(keys), engineAt(b, nil, b.TempDir())
	take(b, e, n)
	change := n.changer(keys, 3)
	for b.Loop() {
		b.StopTimer()
		n.busy = nil
		change(keys / 10)
		n.busy = func() { change(200) }
		b.StartTimer()
		take(b, e, n)
	}
	b.StopTimer()
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
}
