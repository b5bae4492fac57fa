package archive

import (
	"context"
	"errors"
	"fmt"

	"lockstep/internal/mutant"
	"lockstep/log"
	"lockstep/smr"
)

// ListRounds is how often a replica looks how far the archive is when it has no other reason to, in rounds.
const ListRounds = 10

// Finding is what a look at the archive found.
type Finding int

// Findings. Of a replica that leads only Continues and Unreadable let it archive.
const (
	// Continues: the archive goes on in the log, or the replica does not lead and only wants to know how far the archive is.
	Continues Finding = iota
	// Unreadable: the newest range, or that part of the log, is damaged or gone. That tells nothing, and the archive goes on.
	Unreadable
	// Undecided: the newest range ends above what this replica knows to be committed, so it cannot be told yet.
	Undecided
	// Doubtful: the archive has what this log does not have, perhaps because another replica leads and this one has not heard of it yet. The next round tells.
	Doubtful
	// Broken: the archive has what this log does not have.
	Broken
)

// Reach is how far the archive is, as one replica of the group knows it, and whether that replica may archive behind it: it may once the newest range was held against its log,
// in this reign. One archive keeps one history. The zero value knows nothing. One goroutine uses it.
type Reach struct {
	end        smr.LSN // of the archive
	known      bool    // end was looked up
	settled    bool    // in this reign: the archive goes on in this log
	continuity continuity
	doubts     int // looks, one behind the other, that found Doubtful or Broken
	rounds     int
}

// End returns the LSN up to which the archive reaches: 0 if it was never looked at, and if it keeps another history.
func (r *Reach) End() smr.LSN { return r.end }

// Known reports whether End is that of an archive that does not keep another history.
func (r *Reach) Known() bool { return r.known }

// Due begins a round and reports whether Look has to come first.
func (r *Reach) Due(leading bool) bool {
	if !leading {
		r.settled, r.continuity = false, continuity{} // by the next reign the folder may be another one
	}
	due := !r.known || leading && !r.settled && !mutant.On(mutant.ArchiveUnsettled) || r.rounds%ListRounds == 0
	r.rounds++
	return due
}

// Look looks how far the archive is, and whether it goes on in the replica's own log if that leads. An error says that it cannot be told now; with Unreadable it says what
// is damaged.
func (r *Reach) Look(ctx context.Context, l *Log, leading bool, own Own) (Finding, Span, error) {
	newest, err := l.Newest(ctx)
	if err != nil {
		return Undecided, newest, err
	}
	if !leading {
		r.end, r.known, r.doubts = newest.End, true, 0
		return Continues, newest, nil
	}
	f, err := r.continuity.judge(ctx, l, newest, own)
	switch {
	case errors.Is(err, ErrDamaged), errors.Is(err, log.ErrCorrupt), errors.Is(err, log.ErrTrimmed):
		r.continuity.accept(newest)
		f = Unreadable
	case err != nil:
		r.settled = false
		return Undecided, newest, fmt.Errorf("compare the log with the archive: %w", err)
	}
	r.settled = f == Continues || f == Unreadable
	switch {
	case r.settled:
		r.end, r.known, r.doubts = newest.End, true, 0 // less than before if the folder was moved away
		return f, newest, err
	case f == Undecided:
		r.doubts = 0
		return f, newest, nil
	}
	r.known = false
	if r.doubts++; r.doubts == 1 {
		return Doubtful, newest, nil
	}
	r.end = 0
	return Broken, newest, nil
}

// Appended notes that a range was archived.
func (r *Reach) Appended(s Span) {
	r.end = s.End
	r.continuity.accept(s)
}
