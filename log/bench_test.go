package log

import (
	"fmt"
	"math"
	"testing"

	"lockstep/smr"
)

func firstFrame() []byte {
	config := smr.Config{Epoch: 1, Reign: 1, Master: "n1", Copies: 1, Members: []smr.Member{{Node: "n1", Incarnation: 1}}}
	return smr.AppendFrame(nil, smr.Frame{Epoch: 1, Stamp: 1, Kind: smr.KindEpochStart, Body: smr.AppendConfig(nil, config)})
}

// BenchmarkAppendSync is one frame of 512 bytes and its sync. The durable mark after every sync (the default), after
// every 64 KiB, or never shows what the mark costs.
func BenchmarkAppendSync(b *testing.B) {
	for _, every := range []smr.LSN{math.MaxUint64, 64 << 10, 1} {
		name := fmt.Sprintf("mark=%d", every)
		if every == math.MaxUint64 {
			name = "mark=never"
		}
		b.Run(name, func(b *testing.B) {
			l, _, err := Open(Options{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			l.markEvery = every
			if err := l.Append(firstFrame()); err != nil {
				b.Fatal(err)
			}
			body := smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: 1, Payload: make([]byte, 512-smr.HeaderSize-smr.RequestHeaderSize)})
			frame := append(make([]byte, smr.HeaderSize), body...)
			b.ReportAllocs()
			b.SetBytes(512)
			for b.Loop() {
				smr.SealFrame(frame, smr.Frame{LSN: l.End(), Epoch: 1, Stamp: 1, Kind: smr.KindRequests, Count: 1})
				if err := l.Append(frame); err != nil {
					b.Fatal(err)
				}
				if err := l.Sync(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAppend is the append alone: frames of 512 bytes, 128 in a batch.
func BenchmarkAppend(b *testing.B) {
	l, _, err := Open(Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if err := l.Append(firstFrame()); err != nil {
		b.Fatal(err)
	}
	body := smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: 1, Payload: make([]byte, 512-smr.HeaderSize-smr.RequestHeaderSize)})
	batch := make([]byte, 128*512)
	for i := 0; i < len(batch); i += 512 {
		copy(batch[i+smr.HeaderSize:], body)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(batch)))
	for b.Loop() {
		for i := 0; i < len(batch); i += 512 {
			smr.SealFrame(batch[i:i+512], smr.Frame{LSN: l.End() + smr.LSN(i), Epoch: 1, Stamp: 1, Kind: smr.KindRequests, Count: 1})
		}
		if err := l.Append(batch); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScan visits every frame of a log of 128 MiB through a Reader; the bytes are in the page cache.
func BenchmarkScan(b *testing.B) {
	const size = 128 << 20
	dir := b.TempDir()
	l, _, err := Open(Options{Dir: dir, Sync: smr.SyncOS})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if err := l.Append(firstFrame()); err != nil {
		b.Fatal(err)
	}
	body := smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: 1, Payload: make([]byte, 512-smr.HeaderSize-smr.RequestHeaderSize)})
	for l.End() < size {
		batch := make([]byte, 0, 1<<20)
		for len(batch) < 1<<20 {
			batch = smr.AppendFrame(batch, smr.Frame{LSN: l.End() + smr.LSN(len(batch)), Epoch: 1, Stamp: 1, Kind: smr.KindRequests, Count: 1, Body: body})
		}
		if err := l.Append(batch); err != nil {
			b.Fatal(err)
		}
	}
	r, err := OpenReader(nil, dir)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(l.End()))
	b.ReportAllocs()
	for b.Loop() {
		frames := 0
		for next := smr.LSN(0); next < l.End(); {
			next, buf, err = r.Frames(buf, next, l.End(), func(smr.Frame, []byte) error { frames++; return nil })
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
