package acl

import "slices"

// groupWindow is how long, in milliseconds, equal entries of the log are counted together.
const groupWindow = 60_000

// Entry is one thing that was denied.
type Entry struct {
	Reason  Denial
	Context string // toplevel, multi, lua
	Object  string
	User    string
	Client  string // a line of CLIENT LIST

	ID      int64
	Count   int64
	Created int64 // milliseconds since 1970 UTC
	Updated int64 // of the last equal one
}

// Log keeps what was denied last, newest first. Its owner serializes calls.
type Log struct {
	entries []*Entry
	next    int64
}

// Add notes a denial at time now, in milliseconds since 1970 UTC; at most limit entries are kept.
func (l *Log) Add(e Entry, now int64, limit int) {
	i := slices.IndexFunc(l.entries, func(o *Entry) bool {
		return o.Reason == e.Reason && o.Context == e.Context && o.Object == e.Object && o.User == e.User && now-o.Updated <= groupWindow
	})
	if i >= 0 {
		found := l.entries[i]
		found.Count, found.Updated, found.Client = found.Count+1, now, e.Client
		l.entries = slices.Insert(slices.Delete(l.entries, i, i+1), 0, found)
		return
	}
	e.ID, e.Count, e.Created, e.Updated = l.next, 1, now, now
	l.next++
	l.entries = slices.Insert(l.entries, 0, &e)
	l.entries = l.entries[:min(len(l.entries), max(limit, 0))]
}

// Entries returns copies of the newest count entries.
func (l *Log) Entries(count int) []Entry {
	count = max(0, min(count, len(l.entries)))
	list := make([]Entry, count)
	for i := range list {
		list[i] = *l.entries[i]
	}
	return list
}

// Reset forgets all entries.
func (l *Log) Reset() { l.entries = nil }
