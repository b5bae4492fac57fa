package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"lockstep/smr"

	"github.com/cespare/xxhash/v2"
)

// Base is all that a log needs to begin at an LSN above 0: what the stream below that LSN amounts to. It travels with an
// image of the state at the same LSN. Everything below the LSN is committed: nobody makes a Base of anything else.
type Base struct {
	Cluster, Group string
	// LSN is a frame boundary.
	LSN smr.LSN
	// Stamp is the timestamp of the last frame below LSN, Commit the highest commit LSN that a header below it carries.
	Stamp  int64
	Commit smr.LSN
	// History lists the epochs that begin below LSN.
	History smr.History
	// digest is the running digest of all bytes below LSN.
	digest [digestSize]byte
}

const (
	baseVersion = 1
	baseFixed   = 120
	// MaxBaseSize bounds the encoding of a Base in bytes.
	MaxBaseSize = baseFixed + 2 + 2*maxName + smr.MaxHistory*spanSize
)

var baseMagic = [8]byte{'l', 's', 't', 'p', 'b', 'a', 's', 'e'}

// Position returns the Position of a log that ends where this Base begins one.
func (b *Base) Position() smr.Position { return b.History.PositionOf(b.LSN) }

// Digest returns the running digest (xxhash64) of all bytes below LSN: that of Log.Digest there.
func (b *Base) Digest() uint64 {
	d, err := unmarshalDigest(b.digest)
	assert(err == nil, "a Base is checked when it is made")
	return d.Sum64()
}

// AppendBinary appends the encoding of b, drawn in doc.go. The error is always nil.
func (b *Base) AppendBinary(to []byte) ([]byte, error) {
	from := len(to)
	to = append(to, make([]byte, baseFixed)...)
	p := to[from:]
	copy(p, baseMagic[:])
	binary.LittleEndian.PutUint32(p[8:], baseVersion)
	binary.LittleEndian.PutUint64(p[16:], uint64(b.LSN))
	binary.LittleEndian.PutUint64(p[24:], uint64(b.Stamp))
	binary.LittleEndian.PutUint64(p[32:], uint64(b.Commit))
	binary.LittleEndian.PutUint32(p[40:], uint32(len(b.History)))
	copy(p[44:], b.digest[:])
	for _, name := range []string{b.Cluster, b.Group} {
		to = append(to, byte(len(name)))
		to = append(to, name...)
	}
	for _, span := range b.History {
		to = binary.LittleEndian.AppendUint64(to, uint64(span.Epoch))
		to = binary.LittleEndian.AppendUint64(to, uint64(span.From))
	}
	binary.LittleEndian.PutUint32(to[from+12:], blockSum(to[from:]))
	return to, nil
}

// ParseBase reads what AppendBinary wrote, all of p. It keeps nothing of p. Errors: ErrNewerFormat, ErrCorrupt.
func ParseBase(p []byte) (Base, error) {
	bad := func(format string, a ...any) (Base, error) {
		return Base{}, fmt.Errorf("base of a log: %w: %s", ErrCorrupt, fmt.Sprintf(format, a...))
	}
	switch {
	case len(p) < baseFixed || len(p) > MaxBaseSize || [8]byte(p[:8]) != baseMagic:
		return bad("%d bytes that are none", len(p))
	case blockSum(p) != binary.LittleEndian.Uint32(p[12:]):
		return bad("its checksum differs")
	}
	if v := binary.LittleEndian.Uint32(p[8:]); v > baseVersion {
		return Base{}, fmt.Errorf("base of a log: %w: version %d, this program knows %d", ErrNewerFormat, v, baseVersion)
	} else if v == 0 {
		return bad("version 0")
	}
	b := Base{
		LSN:    smr.LSN(binary.LittleEndian.Uint64(p[16:])),
		Stamp:  int64(binary.LittleEndian.Uint64(p[24:])),
		Commit: smr.LSN(binary.LittleEndian.Uint64(p[32:])),
		digest: [digestSize]byte(p[44:]),
	}
	spans := int(binary.LittleEndian.Uint32(p[40:]))
	rest := p[baseFixed:]
	var ok bool
	if b.Cluster, rest, ok = cutString(rest); !ok {
		return bad("cluster name")
	}
	if b.Group, rest, ok = cutString(rest); !ok {
		return bad("group name")
	}
	if spans > smr.MaxHistory || len(rest) != spans*spanSize {
		return bad("%d bytes for %d spans of History", len(rest), spans)
	}
	b.History = make(smr.History, spans)
	for i := range b.History {
		b.History[i].Epoch = smr.Epoch(binary.LittleEndian.Uint64(rest[i*spanSize:]))
		b.History[i].From = smr.LSN(binary.LittleEndian.Uint64(rest[i*spanSize+8:]))
	}
	if err := b.check(); err != nil {
		return bad("%v", err)
	}
	return b, nil
}

// check tells why no log can begin at b.
func (b *Base) check() error {
	if err := b.History.Check(); err != nil {
		return err
	}
	if _, err := unmarshalDigest(b.digest); err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	n := len(b.History)
	switch {
	case b.LSN > 0 && (n == 0 || b.History[0].From != 0 || b.History[0].Epoch == 0), b.LSN == 0 && n > 0:
		return fmt.Errorf("History %v at %d", b.History, b.LSN)
	case n > 0 && b.History[n-1].From >= b.LSN:
		return fmt.Errorf("History at %d names LSN %d", b.LSN, b.History[n-1].From)
	case b.Commit > b.LSN:
		return fmt.Errorf("commit %d above LSN %d", b.Commit, b.LSN)
	}
	return nil
}

// BaseAt returns the Base of the frame boundary lsn, from which another log may begin. lsn is at or below the caller's
// Safe. The file that holds lsn is read and checked from its beginning. Errors: ErrTrimmed if the log no longer
// reaches back to lsn, ErrNoBorder if a frame lies across it, ErrCorrupt.
func (r *Reader) BaseAt(lsn smr.LSN) (Base, error) {
	if r.closed {
		return Base{}, ErrClosed
	}
	if lsn == 0 {
		return r.zeroBase()
	}
	// The file with the last byte below lsn: there need not be one that holds lsn itself.
	f, err := r.locate(lsn - 1)
	if errors.Is(err, ErrTrimmed) || err == nil && f.firstFrame > lsn && f.first {
		f, err = r.locate(lsn)
	}
	if err != nil {
		return Base{}, fmt.Errorf("base at %d: %w", lsn, err)
	}
	if f.firstFrame > lsn {
		if f.first {
			return Base{}, fmt.Errorf("base at %d: %w: the log starts at %d", lsn, ErrTrimmed, f.firstFrame)
		}
		return Base{}, fmt.Errorf("base at %d: %w", lsn, ErrNoBorder)
	}
	return r.baseIn(f, lsn)
}

// across says what to make of a frame at that goes on behind its file, where a boundary was asked for: it lies across it if it is whole and checks.
// (Its length alone proves nothing: a bit of it may have flipped.)
func (r *Reader) across(f *readFile, at smr.LSN) error {
	next, err := r.locate(f.end())
	if err != nil {
		return fmt.Errorf("%w: the frame at %d should go on: %w", ErrCorrupt, at, err)
	}
	end := next.firstFrame
	if end-at > smr.MaxFrame {
		return fmt.Errorf("%w: the frame at %d should end at %d", ErrCorrupt, at, end)
	}
	frame := make([]byte, end-at)
	if _, err := r.readAt(frame, at, end, false); err != nil {
		return err
	}
	if size, err := smr.PeekFrame(frame); err != nil || size != len(frame) {
		return fmt.Errorf("%w: the frame at %d says that it has %d bytes, and the next one begins behind %d", ErrCorrupt, at, size, len(frame))
	}
	if _, err := smr.DecodeFrame(frame, at); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return ErrNoBorder
}

// baseIn counts from the beginning of the file up to lsn.
func (r *Reader) baseIn(f *readFile, lsn smr.LSN) (Base, error) {
	headFits, err := headChecks(f.file, LabelReaderRead, f.found, min(f.firstFrame, f.end()))
	switch {
	case err != nil:
		return Base{}, fmt.Errorf("base at %d: %w", lsn, err)
	case !headFits:
		return Base{}, fmt.Errorf("base at %d: %w: the frame across the beginning of %s does not check", lsn, ErrCorrupt, fileName(f.base))
	}
	c := cursorAfter(&f.header)
	_, cause, err := scanFrames(f.file, LabelReaderRead, f.found, lsn, &c)
	switch {
	case err != nil:
		return Base{}, fmt.Errorf("base at %d: %w", lsn, err)
	case errors.Is(cause, smr.ErrShortFrame):
		return Base{}, fmt.Errorf("base at %d: %w", lsn, r.across(f, c.next))
	case cause != nil:
		return Base{}, fmt.Errorf("base at %d: %w: %w", lsn, ErrCorrupt, cause)
	case c.next != lsn:
		return Base{}, fmt.Errorf("base at %d: %w", lsn, ErrNoBorder)
	}
	digest, err := unmarshalDigest(f.digest)
	if err != nil {
		return Base{}, fmt.Errorf("base at %d: %w: digest: %w", lsn, ErrCorrupt, err)
	}
	buf := make([]byte, min(f.dataSize, 1<<20))
	err = eachPiece(f.file, LabelReaderRead, 0, int64(lsn-f.base), buf, func(piece []byte, _ int64) error {
		_, _ = digest.Write(piece) // never fails
		return nil
	})
	if err != nil {
		return Base{}, fmt.Errorf("base at %d: %w", lsn, err)
	}
	return Base{
		Cluster: f.cluster, Group: f.group,
		LSN: lsn, Stamp: c.stamp, Commit: c.commit, History: c.history, digest: marshalDigest(&digest),
	}, nil
}

// zeroBase is the Base of the beginning of the stream, which every log may begin at anyway.
func (r *Reader) zeroBase() (Base, error) {
	var digest xxhash.Digest
	digest.Reset()
	b := Base{digest: marshalDigest(&digest)}
	files, err := Survey(r.fs, r.dir)
	if err != nil {
		return Base{}, fmt.Errorf("base at 0: %w", err)
	}
	if len(files) > 0 {
		b.Cluster, b.Group = files[0].Cluster, files[0].Group
	}
	return b, nil
}

// header describes the file that begins at b.
func (b *Base) header(dataSize int64) *header {
	return &header{
		base: b.LSN, dataSize: dataSize, frameStart: b.LSN, firstFrame: b.LSN, headSum: crc32.Checksum(nil, castagnoli),
		stamp: b.Stamp, commit: b.Commit, history: b.History, digest: b.digest, cluster: b.Cluster, group: b.Group,
	}
}
