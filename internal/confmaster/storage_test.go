package confmaster

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"lockstep/internal/steady"
)

var _ = steady.Draws()

func quietLogger() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func firstSnapshot() *raftpb.Snapshot {
	return &raftpb.Snapshot{
		Data: []byte("state at 1"),
		Metadata: &raftpb.SnapshotMetadata{
			ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}},
			Index:     new(uint64(1)), Term: new(uint64(1)),
		},
	}
}

// twin is the naive model: raft's own memory storage, and the hard state beside it.
type twin struct {
	*raft.MemoryStorage
	hard *raftpb.HardState
}

func newTwin(t *rapid.T) *twin {
	m := &twin{MemoryStorage: raft.NewMemoryStorage()}
	if err := m.ApplySnapshot(firstSnapshot()); err != nil {
		t.Fatal(err)
	}
	m.hard = &raftpb.HardState{Term: new(uint64(1)), Commit: new(uint64(1))}
	return m
}

// What could go wrong: an index is off by one, an overwritten tail comes back after a restart, a compaction drops
// too much, a crash loses what was synced. Random operations run against raft's own memory storage as a twin, with
// clean restarts and crashes that lose everything unsynced in between; after each step every readable answer must
// be the same.
func TestStorageIsLikeMemoryStorage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewCrashableMem()
		open := func() *storage {
			s, err := openStorage("raft", fs, firstSnapshot(), quietLogger())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s, model := open(), newTwin(t)
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"append", "append", "commit", "compact", "install", "restart", "crash"}).Draw(t, "op") {
			case "append":
				appendSome(t, s, model)
			case "commit":
				last, _ := model.LastIndex()
				model.hard = proto.Clone(model.hard).(*raftpb.HardState)
				model.hard.Commit = new(rapid.Uint64Range(model.hard.GetCommit(), last).Draw(t, "commit"))
				if err := s.save(model.hard, nil, nil, true); err != nil {
					t.Fatal(err)
				}
			case "compact":
				compactSome(t, s, model)
			case "install":
				installSnapshot(t, s, model)
			case "restart":
				if err := s.close(); err != nil {
					t.Fatal(err)
				}
				s = open()
			case "crash":
				next := fs.CrashClone(vfs.CrashCloneCfg{})
				if err := s.close(); err != nil {
					t.Fatal(err)
				}
				fs = next
				s = open()
			}
			compare(t, s, model)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	})
}

func appendSome(t *rapid.T, s *storage, model *twin) {
	last, _ := model.LastIndex()
	from := rapid.Uint64Range(model.hard.GetCommit()+1, last+1).Draw(t, "from") // never over what is committed
	term := model.hard.GetTerm() + rapid.Uint64Range(0, 2).Draw(t, "newer")
	var entries []*raftpb.Entry
	for i := range rapid.Uint64Range(1, 6).Draw(t, "count") {
		entries = append(entries, &raftpb.Entry{Index: new(from + i), Term: new(term), Data: fmt.Appendf(nil, "%d/%d", term, from+i)})
	}
	model.hard = &raftpb.HardState{Term: new(term), Vote: new(uint64(2)), Commit: model.hard.Commit}
	if err := s.save(model.hard, entries, nil, true); err != nil {
		t.Fatal(err)
	}
	if err := model.Append(entries); err != nil {
		t.Fatal(err)
	}
}

func compactSome(t *rapid.T, s *storage, model *twin) {
	old, _ := model.MemoryStorage.Snapshot()
	index := rapid.Uint64Range(old.GetMetadata().GetIndex(), model.hard.GetCommit()).Draw(t, "index")
	if index == old.GetMetadata().GetIndex() {
		return
	}
	keep := rapid.Uint64Range(0, 5).Draw(t, "keep")
	state := fmt.Appendf(nil, "state at %d", index)
	if err := s.saveSnapshot(index, old.GetMetadata().GetConfState(), state, keep); err != nil {
		t.Fatal(err)
	}
	if _, err := model.CreateSnapshot(index, nil, state); err != nil {
		t.Fatal(err)
	}
	if first, _ := model.FirstIndex(); index > keep && index-keep > first-1 {
		if err := model.Compact(index - keep); err != nil {
			t.Fatal(err)
		}
	}
}

func installSnapshot(t *rapid.T, s *storage, model *twin) {
	last, _ := model.LastIndex()
	index, term := last+rapid.Uint64Range(1, 4).Draw(t, "ahead"), model.hard.GetTerm()
	snapshot := &raftpb.Snapshot{
		Data:     fmt.Appendf(nil, "state at %d", index),
		Metadata: &raftpb.SnapshotMetadata{ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, Index: new(index), Term: new(term)},
	}
	model.hard = &raftpb.HardState{Term: new(term), Commit: new(index)}
	if err := s.save(model.hard, nil, snapshot, false); err != nil {
		t.Fatal(err)
	}
	if err := model.ApplySnapshot(snapshot); err != nil {
		t.Fatal(err)
	}
}

func compare(t *rapid.T, s *storage, model *twin) {
	hard, conf, _ := s.InitialState()
	if !proto.Equal(hard, model.hard) || len(conf.GetVoters()) != 3 {
		t.Fatalf("hard state %v, voters %v; want %v", hard, conf, model.hard)
	}
	got, _ := s.Snapshot()
	want, _ := model.MemoryStorage.Snapshot()
	// An unset auto_leave and a false one mean the same; raft sets it in the snapshots that it is given.
	got.GetMetadata().GetConfState().AutoLeave, want.GetMetadata().GetConfState().AutoLeave = nil, nil
	if !proto.Equal(got, want) {
		t.Fatalf("snapshot %v, want %v", got, want)
	}
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	wantFirst, _ := model.FirstIndex()
	wantLast, _ := model.LastIndex()
	if first != wantFirst || last != wantLast {
		t.Fatalf("entries %d to %d, want %d to %d", first, last, wantFirst, wantLast)
	}
	for i := range last + 3 {
		term, err := s.Term(i)
		wantTerm, wantErr := model.Term(i)
		if term != wantTerm || !errors.Is(err, wantErr) {
			t.Fatalf("term of %d: %d %v, want %d %v", i, term, err, wantTerm, wantErr)
		}
	}
	maxSize := rapid.SampledFrom([]uint64{0, 10, 30, limitless}).Draw(t, "maxSize")
	from := rapid.Uint64Range(1, last+1).Draw(t, "read from")
	end := rapid.Uint64Range(from, last+1).Draw(t, "read end")
	if from == end {
		return
	}
	entries, err := s.Entries(from, end, maxSize)
	wantEntries, wantErr := model.Entries(from, end, maxSize)
	if !errors.Is(err, wantErr) || len(entries) != len(wantEntries) {
		t.Fatalf("entries [%d,%d): %d %v, want %d %v", from, end, len(entries), err, len(wantEntries), wantErr)
	}
	for i := range entries {
		if !proto.Equal(entries[i], wantEntries[i]) {
			t.Fatalf("entry %v, want %v", entries[i], wantEntries[i])
		}
	}
}

// What could go wrong: a store whose parts contradict each other is used, and the confmaster votes twice or forgets a
// decision. Each kind of contradiction is written behind the storage's back; opening must say "damaged".
func TestDamagedStoreIsRefused(t *testing.T) {
	set := func(key, value []byte) func(*pebble.DB) error {
		return func(db *pebble.DB) error { return db.Set(key, value, pebble.Sync) }
	}
	remove := func(key []byte) func(*pebble.DB) error {
		return func(db *pebble.DB) error { return db.Delete(key, pebble.Sync) }
	}
	marshal := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, damage := range map[string]func(*pebble.DB) error{
		"hole":             remove(entryKey(3)),
		"lost tail":        remove(entryKey(4)),
		"no hard state":    remove(keyHardState),
		"no compaction":    remove(keyCompacted),
		"no snapshot":      remove(keySnapshot),
		"bad entry":        set(entryKey(3), []byte{0xff}),
		"wrong index":      set(entryKey(3), marshal(&raftpb.Entry{Index: new(uint64(9)), Term: new(uint64(2))})),
		"term goes back":   set(entryKey(4), marshal(&raftpb.Entry{Index: new(uint64(4)), Term: new(uint64(1))})),
		"bad hard state":   set(keyHardState, []byte{0xff}),
		"bad snapshot":     set(keySnapshot, []byte{0xff}),
		"short compaction": set(keyCompacted, []byte{1}),
		"old hard state":   set(keyHardState, marshal(&raftpb.HardState{Term: new(uint64(1)), Commit: new(uint64(2))})),
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			s, err := openStorage("raft", fs, firstSnapshot(), quietLogger())
			if err != nil {
				t.Fatal(err)
			}
			var entries []*raftpb.Entry
			for i := uint64(2); i <= 4; i++ {
				entries = append(entries, &raftpb.Entry{Index: new(i), Term: new(uint64(2))})
			}
			if err := s.save(&raftpb.HardState{Term: new(uint64(2)), Commit: new(uint64(4))}, entries, nil, true); err != nil {
				t.Fatal(err)
			}
			if err := damage(s.db); err != nil {
				t.Fatal(err)
			}
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
			if _, err := openStorage("raft", fs, firstSnapshot(), quietLogger()); !errors.Is(err, errDamaged) {
				t.Fatalf("opened with %v", err)
			}
		})
	}
}

// What could go wrong: a flipped bit in pebble's files is read as data. Every file of a closed store is damaged in
// turn; opening must either fail or, where the byte is of no consequence, give the same contents.
func TestFlippedBytesNeverChangeWhatIsRead(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, "raft")
	s, err := openStorage(dir, vfs.Default, firstSnapshot(), quietLogger())
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(2); i <= 40; i++ {
		entry := &raftpb.Entry{Index: new(i), Term: new(uint64(2)), Data: make([]byte, 100)}
		if err := s.save(&raftpb.HardState{Term: new(uint64(2)), Commit: new(i)}, []*raftpb.Entry{entry}, nil, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	files = append(files, dir+".mark")
	refused := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, len(content) / 3, len(content) / 2, len(content) - 30} {
			if at < 0 || at >= len(content) {
				continue
			}
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(home)); err != nil {
				t.Fatal(err)
			}
			changed := append([]byte(nil), content...)
			changed[at] ^= 0x40
			name, err := filepath.Rel(home, file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(copied, name), changed, 0o644); err != nil {
				t.Fatal(err)
			}
			s, err := openQuietly(filepath.Join(copied, "raft"))
			if err != nil {
				refused++
				continue
			}
			if last := s.lastIndex(); last != 40 || s.hard.GetCommit() != 40 {
				t.Errorf("%s damaged at %d of %d: opened with last %d commit %d", filepath.Base(file), at, len(content), last, s.hard.GetCommit())
			}
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if refused == 0 {
		t.Fatal("no damage was noticed")
	}
}

// openQuietly turns a panic of pebble into an error.
func openQuietly(dir string) (s *storage, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return openStorage(dir, vfs.Default, firstSnapshot(), quietLogger())
}
