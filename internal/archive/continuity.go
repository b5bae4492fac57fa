package archive

import (
	"bytes"
	"context"
	"errors"

	"lockstep/smr"
)

// Reader reads a replica's own log: log.Reader.
type Reader interface {
	ReadAt(p []byte, lsn, limit smr.LSN) (int, error)
	Frames(buf []byte, from, limit smr.LSN, visit func(f smr.Frame, raw []byte) error) (next smr.LSN, buffer []byte, err error)
}

// Own is the log of a replica: [Start, End), of which all below Safe is committed.
type Own struct {
	Reader           Reader
	Start, Safe, End smr.LSN
}

// continuity tells whether what is archived goes on in a replica's log: whether the newest range is a part of it, or of another history, which a recovery by force has given
// up. It holds for one archive while one replica leads; the zero value has seen nothing.
type continuity struct {
	fits, alien Span // ranges that are known to be a part of the log, and not to be
}

// accept notes that a range is a part of the log.
func (c *continuity) accept(s Span) { c.fits = s }

// judge says whether the newest range is a part of the log: Continues, Undecided or Broken. An error, of the archive or of own.Reader, says that it cannot be told.
func (c *continuity) judge(ctx context.Context, l *Log, newest Span, own Own) (Finding, error) {
	switch {
	case newest.End == 0 || newest == c.fits:
		return Continues, nil
	case newest.End > own.End:
		return Broken, nil
	case newest.End > own.Safe:
		return Undecided, nil
	case newest == c.alien:
		return Broken, nil
	}
	differs, err := l.differs(ctx, newest, own)
	switch {
	case err != nil:
		return Undecided, err
	case differs:
		c.alien = newest
		return Broken, nil
	}
	c.fits = newest
	return Continues, nil
}

var errSeen = errors.New("enough was seen")

// differs reports whether a range that ends at or below own.Safe has other bytes than the log. Only whole frames of that count: where its bytes are other ones because they
// are damaged, its error is returned.
func (l *Log) differs(ctx context.Context, s Span, own Own) (differs bool, err error) {
	_, content, err := l.Read(ctx, s)
	if err != nil {
		return false, err
	}
	from := max(s.From, own.Start)
	if from >= s.End {
		return false, nil
	}
	mine := make([]byte, s.End-from)
	if _, err := own.Reader.ReadAt(mine, from, s.End); err == nil && bytes.Equal(mine, content[from-s.From:]) {
		return false, nil
	}
	// From the beginning, since none of its frames has to begin where the range does.
	buffer := make([]byte, 1<<20)
	for at := own.Start; at < s.End; {
		next, grown, err := own.Reader.Frames(buffer, at, own.Safe, func(f smr.Frame, raw []byte) error {
			low, high := max(f.LSN, s.From), min(f.End(), s.End)
			differs = low < high && !bytes.Equal(raw[low-f.LSN:high-f.LSN], content[low-s.From:high-s.From])
			if differs || f.End() >= s.End {
				return errSeen
			}
			return nil
		})
		if errors.Is(err, errSeen) {
			return differs, nil
		}
		if err != nil || next == at {
			return false, err
		}
		at, buffer = next, grown
	}
	return false, nil
}
