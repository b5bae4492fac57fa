package confmaster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"lockstep/internal/granter"
)

// Keys of the raft store. Numbers in keys are big endian, so that pebble's order is the order of the log.
//
//	"c"            compacted: index and term of the entry before the first one that is kept, 8 bytes each, big endian
//	"e" <index:8>  one entry, a marshalled raftpb.Entry
//	"h"            hard state, a marshalled raftpb.HardState
//	"n"            number of the last synced save, 8 bytes, big endian: see mark
//	"s"            newest snapshot, a marshalled raftpb.Snapshot
//
// pebble checksums every block and log record; what is checked here is that the parts fit together, and that nothing
// at the end is missing.
var (
	keyCompacted = []byte("c")
	keyHardState = []byte("h")
	keyNumber    = []byte("n")
	keySnapshot  = []byte("s")
)

const (
	entryPrefix = 'e'
	entryLimit  = entryPrefix + 1 // first key byte behind all entries
)

// errDamaged says that the raft store does not check. The confmaster must not take part with it: it might vote twice
// in one term.
var errDamaged = errors.New("raft store is damaged")

// storage is the raft.Storage of one confmaster: pebble on disk, with all kept entries in memory as well. There are
// few of them: compact drops what a snapshot covers.
//
// Only the raft loop calls it. What append has been given is durable when it returns, if it was told to sync.
//
// Invariants: entries are contiguous from compactedIndex+1; compactedIndex <= snapshot index <= hard state's commit
// <= last index.
type storage struct {
	db             *pebble.DB
	mark           *mark
	number         uint64 // of the last synced save
	hard           *raftpb.HardState
	snapshot       *raftpb.Snapshot
	compactedIndex uint64
	compactedTerm  uint64
	entries        []*raftpb.Entry // entries[i] has index compactedIndex+1+i
}

var _ raft.Storage = (*storage)(nil)

// openStorage opens the raft store in dir. If it has never been used it is filled with initial, from which every
// confmaster of a cluster starts: the fixed voters and the empty state.
func openStorage(dir string, fs vfs.FS, initial *raftpb.Snapshot, logger *slog.Logger) (*storage, error) {
	if fs == nil {
		fs = vfs.Default
	}
	mark, err := openMark(fs, dir+".mark")
	if err != nil {
		return nil, err
	}
	options := &pebble.Options{
		FS:                 fs,
		FormatMajorVersion: pebble.FormatValueSeparation, // a later one only with a feature level: the way back to an older program stays open
		Logger:             pebbleLogger{logger},
		MemTableSize:       4 << 20,
		CacheSize:          1 << 20,
	}
	options.Experimental.CompactionScheduler = granter.New()
	db, err := pebble.Open(dir, options)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open raft store %s: %w", dir, err), mark.close())
	}
	s := &storage{db: db, mark: mark}
	err = s.load()
	if err == nil {
		err = s.checkMark()
	}
	if err == nil && s.snapshot == nil {
		err = s.begin(initial)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raft store %s: %w", dir, err), s.close())
	}
	return s, nil
}

// checkMark compares the store with the mark beside it, and brings the mark up to date after a crash.
func (s *storage) checkMark() error {
	switch {
	case s.number < s.mark.saves && s.snapshot == nil:
		return fmt.Errorf("%w: it is empty, but %d saves were made: what this configuration master voted for is gone", errDamaged, s.mark.saves)
	case s.number < s.mark.saves:
		return fmt.Errorf("%w: it ends at save %d, but %d were made: what was decided since is gone", errDamaged, s.number, s.mark.saves)
	case s.number > s.mark.saves:
		return s.mark.raise(s.number)
	}
	return nil
}

// begin writes the state that a new confmaster starts from.
func (s *storage) begin(initial *raftpb.Snapshot) error {
	hard := &raftpb.HardState{
		Term:   new(initial.GetMetadata().GetTerm()),
		Commit: new(initial.GetMetadata().GetIndex()),
	}
	return s.save(hard, nil, initial, true)
}

// load reads and checks everything. A store that was never used leaves snapshot nil.
func (s *storage) load() error {
	snapshot := &raftpb.Snapshot{}
	found, err := s.get(keySnapshot, func(b []byte) error { return proto.Unmarshal(b, snapshot) })
	if err != nil {
		return err
	}
	if !found {
		return s.checkUnused()
	}
	hard := &raftpb.HardState{}
	if found, err = s.get(keyHardState, func(b []byte) error { return proto.Unmarshal(b, hard) }); err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: a snapshot but no hard state", errDamaged)
	}
	found, err = s.get(keyCompacted, func(b []byte) error {
		if len(b) != 16 {
			return fmt.Errorf("%d bytes instead of 16", len(b))
		}
		s.compactedIndex, s.compactedTerm = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
		return nil
	})
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: no compaction mark", errDamaged)
	}
	found, err = s.get(keyNumber, func(b []byte) error {
		if len(b) != 8 {
			return fmt.Errorf("%d bytes instead of 8", len(b))
		}
		s.number = binary.BigEndian.Uint64(b)
		return nil
	})
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: it does not say how many saves were made", errDamaged)
	}
	if err := s.loadEntries(); err != nil {
		return err
	}
	s.snapshot, s.hard = snapshot, hard
	return s.check()
}

// checkUnused makes sure that a store without a snapshot holds nothing at all.
func (s *storage) checkUnused() error {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	some := it.First()
	if err := it.Close(); err != nil {
		return err
	}
	if some {
		return fmt.Errorf("%w: it has no snapshot but other contents", errDamaged)
	}
	return nil
}

func (s *storage) loadEntries() error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{entryPrefix}, UpperBound: []byte{entryLimit}})
	if err != nil {
		return err
	}
	defer it.Close()
	last, lastTerm := s.compactedIndex, s.compactedTerm
	for it.First(); it.Valid(); it.Next() {
		entry := &raftpb.Entry{}
		if err := proto.Unmarshal(it.Value(), entry); err != nil {
			return fmt.Errorf("%w: entry %x: %v", errDamaged, it.Key(), err)
		}
		key := it.Key()
		switch {
		case len(key) != 9 || binary.BigEndian.Uint64(key[1:]) != entry.GetIndex():
			return fmt.Errorf("%w: entry %d stands at key %x", errDamaged, entry.GetIndex(), key)
		case entry.GetIndex() != last+1:
			return fmt.Errorf("%w: entry %d is followed by %d", errDamaged, last, entry.GetIndex())
		case entry.GetTerm() < lastTerm:
			return fmt.Errorf("%w: entry %d has term %d after term %d", errDamaged, entry.GetIndex(), entry.GetTerm(), lastTerm)
		}
		last, lastTerm = entry.GetIndex(), entry.GetTerm()
		s.entries = append(s.entries, entry)
	}
	return it.Error()
}

// check compares the parts with each other.
func (s *storage) check() error {
	index, commit, last := s.snapshot.GetMetadata().GetIndex(), s.hard.GetCommit(), s.lastIndex()
	switch {
	case s.compactedIndex > index:
		return fmt.Errorf("%w: compacted to %d, beyond the snapshot at %d", errDamaged, s.compactedIndex, index)
	case index > commit:
		return fmt.Errorf("%w: snapshot at %d, beyond the commit at %d", errDamaged, index, commit)
	case commit > last:
		return fmt.Errorf("%w: commit at %d, beyond the last entry %d", errDamaged, commit, last)
	}
	if term, err := s.Term(index); err != nil || term != s.snapshot.GetMetadata().GetTerm() {
		return fmt.Errorf("%w: snapshot at %d has term %d, its entry %d", errDamaged, index, s.snapshot.GetMetadata().GetTerm(), term)
	}
	if term, _ := s.Term(last); term > s.hard.GetTerm() {
		return fmt.Errorf("%w: last entry has term %d, the hard state %d", errDamaged, term, s.hard.GetTerm())
	}
	return nil
}

// get hands the value at key to read; it reports false if there is none.
func (s *storage) get(key []byte, read func([]byte) error) (bool, error) {
	value, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer closer.Close()
	if err := read(value); err != nil {
		return false, fmt.Errorf("%w: key %q: %v", errDamaged, key, err)
	}
	return true, nil
}

// save stores what a raft.Ready hands out, in one atomic batch, and only then changes what the readers see. Entries
// replace those of the same and higher indices; a snapshot replaces everything before it.
func (s *storage) save(hard *raftpb.HardState, entries []*raftpb.Entry, snapshot *raftpb.Snapshot, sync bool) error {
	batch := s.db.NewBatch()
	defer batch.Close()
	if !raft.IsEmptySnap(snapshot) {
		if err := s.putSnapshot(batch, snapshot, true); err != nil {
			return err
		}
		sync = true
	}
	if err := s.putEntries(batch, entries, snapshot); err != nil {
		return err
	}
	if !raft.IsEmptyHardState(hard) {
		if err := put(batch, keyHardState, hard); err != nil {
			return err
		}
	}
	if batch.Empty() {
		return nil
	}
	if err := s.commit(batch, sync); err != nil {
		return err
	}
	if !raft.IsEmptySnap(snapshot) {
		s.snapshot = proto.Clone(snapshot).(*raftpb.Snapshot)
		s.compactedIndex, s.compactedTerm = snapshot.GetMetadata().GetIndex(), snapshot.GetMetadata().GetTerm()
		s.entries = nil
	}
	if len(entries) > 0 {
		kept := entries[0].GetIndex() - s.compactedIndex - 1
		// The full slice expression makes append copy: raft may still hold slices of the old entries.
		s.entries = append(s.entries[:kept:kept], entries...)
	}
	if !raft.IsEmptyHardState(hard) {
		s.hard = proto.Clone(hard).(*raftpb.HardState)
	}
	return nil
}

// putSnapshot notes a snapshot in batch. If it replaces the log, all entries go.
func (s *storage) putSnapshot(batch *pebble.Batch, snapshot *raftpb.Snapshot, replacesLog bool) error {
	if err := put(batch, keySnapshot, snapshot); err != nil {
		return err
	}
	if !replacesLog {
		return nil
	}
	if err := batch.DeleteRange([]byte{entryPrefix}, []byte{entryLimit}, nil); err != nil {
		return err
	}
	return batch.Set(keyCompacted, compactedValue(snapshot.GetMetadata().GetIndex(), snapshot.GetMetadata().GetTerm()), nil)
}

func (s *storage) putEntries(batch *pebble.Batch, entries []*raftpb.Entry, snapshot *raftpb.Snapshot) error {
	if len(entries) == 0 {
		return nil
	}
	first, last := s.compactedIndex+1, s.lastIndex()
	if !raft.IsEmptySnap(snapshot) {
		first, last = snapshot.GetMetadata().GetIndex()+1, snapshot.GetMetadata().GetIndex()
	}
	if from := entries[0].GetIndex(); from < first || from > last+1 {
		return fmt.Errorf("append entry %d to a raft log from %d to %d", from, first, last)
	}
	for i, entry := range entries {
		if entry.GetIndex() != entries[0].GetIndex()+uint64(i) {
			return fmt.Errorf("append entry %d after %d", entry.GetIndex(), entries[0].GetIndex()+uint64(i)-1)
		}
		if err := put(batch, entryKey(entry.GetIndex()), entry); err != nil {
			return err
		}
	}
	if end := entries[len(entries)-1].GetIndex() + 1; end <= last {
		return batch.DeleteRange(entryKey(end), []byte{entryLimit}, nil)
	}
	return nil
}

// saveSnapshot stores a snapshot of the state at index, which must have been applied, and drops entries that it
// covers, except for the newest keep of them: a follower that lags a little then needs no snapshot.
func (s *storage) saveSnapshot(index uint64, conf *raftpb.ConfState, state []byte, keep uint64) error {
	if index <= s.snapshot.GetMetadata().GetIndex() {
		return nil
	}
	term, err := s.Term(index)
	if err != nil {
		return fmt.Errorf("snapshot at entry %d: %w", index, err)
	}
	snapshot := &raftpb.Snapshot{
		Data:     state,
		Metadata: &raftpb.SnapshotMetadata{ConfState: conf, Index: new(index), Term: new(term)},
	}
	compacted := s.compactedIndex
	if index > keep && index-keep > compacted {
		compacted = index - keep
	}
	compactedTerm, err := s.Term(compacted)
	if err != nil {
		return fmt.Errorf("compact to entry %d: %w", compacted, err)
	}
	batch := s.db.NewBatch()
	defer batch.Close()
	if err := s.putSnapshot(batch, snapshot, false); err != nil {
		return err
	}
	if err := batch.DeleteRange([]byte{entryPrefix}, entryKey(compacted+1), nil); err != nil {
		return err
	}
	if err := batch.Set(keyCompacted, compactedValue(compacted, compactedTerm), nil); err != nil {
		return err
	}
	if s.hard.GetCommit() < index { // the commit index is written lazily, the snapshot must not be ahead of it
		hard := proto.Clone(s.hard).(*raftpb.HardState)
		hard.Commit = new(index)
		if err := put(batch, keyHardState, hard); err != nil {
			return err
		}
		s.hard = hard
	}
	if err := s.commit(batch, true); err != nil {
		return err
	}
	s.entries = append([]*raftpb.Entry(nil), s.entries[compacted-s.compactedIndex:]...)
	s.compactedIndex, s.compactedTerm, s.snapshot = compacted, compactedTerm, snapshot
	return nil
}

// commit writes a batch. A synced one gets the next number, and the mark follows when it is durable.
func (s *storage) commit(batch *pebble.Batch, sync bool) error {
	if !sync {
		return writeError(batch.Commit(pebble.NoSync))
	}
	if err := batch.Set(keyNumber, binary.BigEndian.AppendUint64(nil, s.number+1), nil); err != nil {
		return writeError(err)
	}
	if err := batch.Commit(pebble.Sync); err != nil {
		return writeError(err)
	}
	s.number++
	return s.mark.raise(s.number)
}

func writeError(err error) error {
	if err != nil {
		return fmt.Errorf("write raft store: %w", err)
	}
	return nil
}

func (s *storage) close() error { return errors.Join(s.db.Close(), s.mark.close()) }

// InitialState implements raft.Storage.
func (s *storage) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return s.hard, s.snapshot.GetMetadata().GetConfState(), nil
}

// Entries implements raft.Storage.
func (s *storage) Entries(from, end, maxSize uint64) ([]*raftpb.Entry, error) {
	if from <= s.compactedIndex {
		return nil, raft.ErrCompacted
	}
	if end > s.lastIndex()+1 || from > end {
		return nil, raft.ErrUnavailable
	}
	entries := s.entries[from-s.compactedIndex-1 : end-s.compactedIndex-1]
	var size uint64
	for i, entry := range entries {
		size += uint64(proto.Size(entry))
		if i > 0 && size > maxSize {
			entries = entries[:i]
			break
		}
	}
	return entries[:len(entries):len(entries)], nil
}

// Term implements raft.Storage.
func (s *storage) Term(index uint64) (uint64, error) {
	switch {
	case index < s.compactedIndex:
		return 0, raft.ErrCompacted
	case index == s.compactedIndex:
		return s.compactedTerm, nil
	case index > s.lastIndex():
		return 0, raft.ErrUnavailable
	}
	return s.entries[index-s.compactedIndex-1].GetTerm(), nil
}

func (s *storage) lastIndex() uint64 { return s.compactedIndex + uint64(len(s.entries)) }

// LastIndex implements raft.Storage.
func (s *storage) LastIndex() (uint64, error) { return s.lastIndex(), nil }

// FirstIndex implements raft.Storage.
func (s *storage) FirstIndex() (uint64, error) { return s.compactedIndex + 1, nil }

// Snapshot implements raft.Storage.
func (s *storage) Snapshot() (*raftpb.Snapshot, error) {
	return proto.Clone(s.snapshot).(*raftpb.Snapshot), nil
}

func put(batch *pebble.Batch, key []byte, message proto.Message) error {
	value, err := proto.Marshal(message)
	if err != nil {
		return fmt.Errorf("marshal for key %q: %w", key, err)
	}
	return batch.Set(key, value, nil)
}

func entryKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{entryPrefix}, index)
}

func compactedValue(index, term uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, index), term)
}

// limitless is the size limit for raft calls that want everything.
const limitless = math.MaxUint64

// pebbleLogger passes on what pebble has to say. Its infos are about compactions and of no interest to an operator.
type pebbleLogger struct{ logger *slog.Logger }

func (l pebbleLogger) Infof(format string, args ...any) {
	l.logger.Debug("pebble", "text", fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.logger.Warn("pebble", "text", fmt.Sprintf(format, args...))
}

// Fatalf is called by pebble when a write or sync of its own log fails: nothing that follows could be trusted.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	panic("pebble: " + fmt.Sprintf(format, args...))
}
