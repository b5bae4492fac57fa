package smr

import (
	"fmt"
	"sort"
)

// Span is one entry of a History: from this LSN on, bytes were written in this epoch.
type Span struct {
	Epoch Epoch
	From  LSN
}

// History lists the epochs of a stream with the first LSN of each, rebuilt from epoch-start records.
//
// Invariant: Epoch strictly increases; From strictly increases (every epoch has its start record).
type History []Span

// Check reports how h breaks its invariant, for a History that came from outside.
func (h History) Check() error {
	for i := 1; i < len(h); i++ {
		if h[i].Epoch <= h[i-1].Epoch || h[i].From <= h[i-1].From {
			return fmt.Errorf("history entry %d (epoch %d from %d) does not follow epoch %d from %d",
				i, h[i].Epoch, h[i].From, h[i-1].Epoch, h[i-1].From)
		}
	}
	return nil
}

// EpochAt returns the epoch of the byte at lsn, or 0 if lsn lies before the first span.
func (h History) EpochAt(lsn LSN) Epoch {
	i := sort.Search(len(h), func(i int) bool { return h[i].From > lsn })
	if i == 0 {
		return 0
	}
	return h[i-1].Epoch
}

// PositionOf returns the Position of a log with this History that ends at end.
func (h History) PositionOf(end LSN) Position {
	if end == 0 {
		return Position{}
	}
	return Position{Epoch: h.EpochAt(end - 1), End: end}
}

// RewoundTo returns h without the spans that start at or after end. The result shares h's memory.
func (h History) RewoundTo(end LSN) History {
	i := sort.Search(len(h), func(i int) bool { return h[i].From >= end })
	return h[:i]
}

// Clone returns a copy that shares no memory with h.
func (h History) Clone() History { return append(History(nil), h...) }

// CommonEnd returns the end of the common prefix of two logs given by History and End: the highest LSN up
// to which both hold the same bytes. It relies on one writer per epoch: two logs that hold bytes of the
// same epoch from the same LSN agree up to the end of the shorter (rule S7).
func CommonEnd(a History, aEnd LSN, b History, bEnd LSN) LSN {
	var common LSN
	for i := 0; i < len(a) && i < len(b) && a[i] == b[i]; i++ {
		common = min(spanEnd(a, i, aEnd), spanEnd(b, i, bEnd))
	}
	return common
}

func spanEnd(h History, i int, end LSN) LSN {
	if i+1 < len(h) {
		return h[i+1].From
	}
	return end
}
