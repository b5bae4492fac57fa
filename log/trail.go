package log

import (
	"lockstep/smr"

	"github.com/cespare/xxhash/v2"
)

// Trail is what the stream below an LSN amounts to for somebody who executes it: it is carried along frame by frame, and
// tells whether a log is of the same stream. It belongs to one goroutine.
type Trail struct {
	lsn     smr.LSN
	history smr.History
	digest  xxhash.Digest
}

// NewTrail returns the Trail of the beginning of every stream.
func NewTrail() *Trail {
	t := &Trail{}
	t.digest.Reset()
	return t
}

// Trail returns the Trail of the stream below the Base.
func (b *Base) Trail() *Trail {
	digest, err := unmarshalDigest(b.digest)
	assert(err == nil, "a Base is checked when it is made")
	return &Trail{lsn: b.LSN, history: b.History.Clone(), digest: digest}
}

// LSN is the end of what the Trail has seen.
func (t *Trail) LSN() smr.LSN { return t.lsn }

// Follow takes in the next frame and its encoding, as Reader.Frames passes them; it keeps neither.
func (t *Trail) Follow(f smr.Frame, raw []byte) {
	assert(f.LSN == t.lsn, "frames are followed in order")
	if n := len(t.history); n == 0 || t.history[n-1].Epoch != f.Epoch {
		t.history = append(t.history, smr.Span{Epoch: f.Epoch, From: f.LSN})
	}
	_, _ = t.digest.Write(raw) // never fails
	t.lsn += smr.LSN(len(raw))
}

// Fits reports whether a log that has the Base can be of the stream that was followed: at the same LSN every byte must be
// the same; at a lower one the last byte must be of the same epoch.
func (t *Trail) Fits(b *Base) bool {
	switch {
	case b.LSN > t.lsn:
		return false
	case b.LSN == t.lsn:
		return t.digest.Sum64() == b.Digest()
	case b.LSN == 0:
		return true
	}
	return t.history.EpochAt(b.LSN-1) == b.History.EpochAt(b.LSN-1)
}
