package log_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"lockstep/log"
)

// FuzzRecover edits the files of a good log and opens it. The first byte says whether the log was closed (bit 0),
// and whether the checksums of the metadata are made good after the edits (bit 1), which leads behind them. Then come
// edits of six bytes: file, offset (4, little endian; the highest bit cuts the file there instead), value.
//
// What could go wrong: a panic, an endless loop, memory without bound, an error that is none of the known ones, bytes that
// were never written, or a recovery that the next one does not agree with.
func FuzzRecover(f *testing.F) {
	closed := finished(f)
	open := finished(f)
	if name, err := open.play([]step{openStep, appendStep(500, 900), syncStep, appendStep(200), rewindStep(2), appendStep(40)}); err != nil {
		f.Fatalf("%s: %v", name, err)
	}
	edit := func(flags byte, edits ...uint32) []byte {
		b := []byte{flags}
		for i := 0; i+2 < len(edits); i += 3 {
			b = append(b, byte(edits[i]))
			b = binary.LittleEndian.AppendUint32(b, edits[i+1])
			b = append(b, byte(edits[i+2]))
		}
		return b
	}
	f.Add(edit(0))
	f.Add(edit(1, 0, 100, 1))
	f.Add(edit(0, 2, 1400, 1, 2, 1600, 0))
	f.Add(edit(3, 1, 20480+48, 0, 1, 20480+56, 9))     // where the frame across the base begins and ends
	f.Add(edit(2, 2, 4096+24, 0, 2, 8192+24, 0))       // durable marks
	f.Add(edit(2, 1, 4096+4, 0x77, 1, 8192+4, 0x77))   // a rewind intent
	f.Add(edit(3, 2, 20480+36, 200, 0, 1<<31|5000, 0)) // count of spans; a short file
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 || len(script) > 6*64 {
			return
		}
		base := closed
		if script[0]&1 == 0 {
			base = open
		}
		fs := base.fs.Clone()
		names := logFiles(fs)
		for edits := script[1:]; len(edits) >= 6; edits = edits[6:] {
			name := names[int(edits[0])%len(names)]
			content, err := fs.ReadFile(name)
			must(t, err)
			at := binary.LittleEndian.Uint32(edits[1:])
			if at&(1<<31) != 0 {
				content = content[:min(len(content), int(at&^(1<<31)))]
			} else if int(at) < len(content) {
				content[at] = edits[5]
			}
			fs.WriteFile(name, content)
		}
		if script[0]&2 != 0 {
			for _, name := range names {
				content, err := fs.ReadFile(name)
				must(t, err)
				fs.WriteFile(name, log.Resealed(content))
			}
		}
		l, report, err := log.Open(options(fs))
		if errors.Is(err, log.ErrForeign) || errors.Is(err, log.ErrNewerFormat) {
			return
		}
		must(t, err)
		end := l.End()
		if script[0]&2 == 0 && report.Damage == nil {
			must(t, base.w.check(fs, l))
		}
		must(t, l.Close())
		l, again, err := log.Open(options(fs))
		must(t, err)
		if (again.Damage != nil) != (report.Damage != nil) || l.End() != end {
			t.Fatalf("first %+v, then %+v", report, again)
		}
		must(t, l.Close())
	})
}
