package log_test

import (
	"testing"

	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"
)

// The bytes of a file's metadata part, so that the drawing in doc.go cannot lie: the second file of a log, full and sealed,
// whose base lies inside a frame.
func TestFileBytes(t *testing.T) {
	fs := simfs.New()
	l, _, err := log.Open(options(fs))
	must(t, err)
	w := &twin{}
	must(t, l.Append(w.epoch()))
	must(t, l.Append(w.frame(100)))
	must(t, l.Sync())
	must(t, l.Append(w.frame(4000)))
	must(t, l.Append(w.epoch()))
	must(t, l.Sync())
	must(t, l.Append(w.frame(5000)))
	must(t, l.Close())
	content, err := fs.ReadFile(dir + "/00000000000000004096")
	must(t, err)
	if len(content) != 6*4096 {
		t.Fatalf("%d bytes", len(content))
	}
	compareBytes(t, "slot 0", content[4096:4096+64], slot0)
	compareBytes(t, "slot 1", content[8192:8192+64], slot1)
	compareBytes(t, "seal", content[12288:12288+100], sealBytes)
	compareBytes(t, "History", content[16384:16384+32], historyBytes)
	compareBytes(t, "header", content[20480:20480+182], headerBytes)
	if h := w.historyAt(4096); len(h) != 1 || h[0] != (smr.Span{Epoch: 1}) {
		t.Errorf("History at the base is %v", h)
	}
}

const (
	slot0 = `
		4c be 33 5f 6d 61 72 6b 02 00 00 00 00 00 00 00
		00 10 00 00 00 00 00 00 38 11 00 00 00 00 00 00
		38 11 00 00 00 00 00 00 00 00 00 00 00 00 00 00
		00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`
	slot1 = `
		89 ae 29 73 63 6f 6e 74 03 00 00 00 00 00 00 00
		00 10 00 00 00 00 00 00 38 11 00 00 00 00 00 00
		38 11 00 00 00 00 00 00 00 00 00 00 00 00 00 00
		00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`
	sealBytes = `
		08 61 5a 44 01 00 00 00 00 10 00 00 00 00 00 00
		78 78 68 06 bb aa 1b 1e 18 ab 40 77 fb 50 51 7f
		d7 82 c5 50 f1 e4 59 9e 41 76 0a 1c 38 c5 59 03
		bd 75 82 c8 00 20 00 00 00 00 00 00 00 00 00 00
		00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
		00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
		04 99 8e c1`
	historyBytes = `
		01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
		00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`
	headerBytes = `
		6c 6f 63 6b 73 74 65 70 01 00 00 00 6f 7c 24 49
		00 10 00 00 00 00 00 00 00 10 00 00 00 00 00 00
		00 10 00 00 01 00 00 00 d7 f7 5c 5a 40 c3 30 c4
		fe 00 00 00 00 00 00 00 e6 10 00 00 00 00 00 00
		09 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
		df af fb 54 b6 50 10 f9 78 78 68 06 87 3f e4 29
		cb e4 c2 b1 58 ac 2f ac 95 55 bc c8 cd 6e b4 ac
		ba df 45 8b 56 89 2d c8 44 c9 ba 7b 00 10 00 00
		00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
		00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
		00 00 00 00 00 00 00 00 07 63 6c 75 73 74 65 72
		02 67 31 00 00 00`
)
