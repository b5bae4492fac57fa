package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

const (
	stateName      = "state"
	stateDraft     = "state.new"
	stateVersion   = 1
	stateFixed     = 72 // bytes of a state slot before its names
	maxBootID      = 64
	stateClean     = 1 << 0
	stateLogBegun  = 1 << 1
	stateFileBytes = 2 * BlockSize

	_ = uint(BlockSize - stateFixed - 4 - 2*maxName - smr.MaxNodeID - maxBootID)
)

var stateMagic = [8]byte{'l', 's', 't', 'p', 's', 't', 'a', 't'}

// State is the hard state of a replica: what it must never forget.
type State struct {
	// Promise is the highest epoch promised to an election or followed (rules S2 and S7).
	Promise smr.Epoch
	// Incarnation, Cluster, Group and Node say who this replica is.
	Incarnation    smr.Incarnation
	Cluster, Group string
	Node           smr.NodeID
	// Clean: the process ended in good order after this was saved. Saved false at every start.
	Clean bool
	// LogBegun: bytes were appended to the log. A replica with this mark and an empty log has lost its log.
	LogBegun bool
	// LogStart is how far the log may have been trimmed: whoever trims saves the LSN first. A log that begins above it
	// has lost its oldest files, which leaves no other trace.
	LogStart smr.LSN
	// BootID is that of the machine when this was saved: with Clean it tells whether a relaxed sync mode may have
	// lost bytes (rule S10).
	BootID string
	// LeaseHoldTicks is the longest read lease ever configured, in ticks of the replica core (rule S11).
	LeaseHoldTicks uint64
}

// StateFile holds a State in two slots. Save writes one, syncs, then the other, syncs; only then does anybody hear of
// it. So each slot that checks holds the last State that anybody heard of or a later one, and no single torn write or
// flipped bit can bring an older promise back.
type StateFile struct {
	fs       FS
	dir      string
	file     File // nil until the first Save made it
	sequence uint64
	damaged  bool
	failure  error
	block    stateBlock
}

// stateBlock is memory for one slot.
type stateBlock []byte

// OpenState reads the hard state in dir, which is made if missing. found is false if there is none. On ErrCorrupt the
// StateFile is usable all the same: the caller takes a new incarnation, and Save keeps the damaged file beside the new one.
// ErrNewerFormat: nothing was touched.
func OpenState(fsys FS, dir string) (s *StateFile, st State, found bool, err error) {
	if fsys == nil {
		fsys = OS{}
	}
	if err := fsys.MkdirAll(LabelStateOpen, dir); err != nil {
		return nil, State{}, false, fmt.Errorf("open hard state: %w", err)
	}
	s = &StateFile{fs: fsys, dir: dir}
	file, err := fsys.Open(LabelStateOpen, s.path(stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return s, State{}, false, nil
	}
	if err != nil {
		return nil, State{}, false, fmt.Errorf("open hard state: %w", err)
	}
	// The name may be there in memory only: what is shown to the caller must stay.
	if err := fsys.SyncDir(LabelStateName, dir); err != nil {
		_ = file.Close()
		return nil, State{}, false, fmt.Errorf("open hard state: %w", err)
	}
	st, err = s.read(file)
	switch {
	case errors.Is(err, ErrCorrupt):
		_ = file.Close()
		s.damaged = true
		return s, State{}, false, fmt.Errorf("open hard state %s: %w", s.path(stateName), err)
	case err != nil:
		_ = file.Close()
		return nil, State{}, false, fmt.Errorf("open hard state %s: %w", s.path(stateName), err)
	}
	s.file = file
	return s, st, true, nil
}

func (s *StateFile) path(name string) string { return filepath.Join(s.dir, name) }

// read returns the newer of the slots that check, and makes both the same again if they are not.
func (s *StateFile) read(file File) (State, error) {
	// A failed sync of an earlier process may have left in memory what is not on the disk.
	if err := file.Sync(LabelStateSync); err != nil {
		return State{}, err
	}
	if !mutant.On(mutant.CacheTrusted) {
		if err := file.DropCache(LabelDropCache); err != nil {
			return State{}, err
		}
	}
	size, err := file.Size(LabelStateRead)
	if err != nil {
		return State{}, err
	}
	if size != stateFileBytes {
		return State{}, fmt.Errorf("%w: it has %d bytes", ErrCorrupt, size)
	}
	b := make([]byte, stateFileBytes)
	if _, err := file.ReadAt(LabelStateRead, b, 0); err != nil {
		return State{}, err
	}
	first, firstSequence, firstErr := decodeState(b[:BlockSize], 0)
	second, secondSequence, secondErr := decodeState(b[BlockSize:], 1)
	switch {
	case errors.Is(firstErr, ErrNewerFormat):
		return State{}, firstErr
	case errors.Is(secondErr, ErrNewerFormat):
		return State{}, secondErr
	case firstErr != nil && secondErr != nil:
		return State{}, fmt.Errorf("%w: both copies: %w", ErrCorrupt, firstErr)
	}
	newest := first
	s.sequence = firstSequence
	if firstErr != nil || secondErr == nil && (secondSequence > firstSequence) != mutant.On(mutant.StateOlderWins) {
		newest, s.sequence = second, secondSequence
	}
	if firstErr != nil || secondErr != nil || first != second {
		return newest, s.write(file, newest)
	}
	return newest, nil
}

// Save replaces the state, durably on return. An error is for good: nobody knows which state the disk holds.
func (s *StateFile) Save(st State) error {
	if s.failure != nil {
		return s.failure
	}
	if err := st.check(); err != nil {
		return fmt.Errorf("save hard state: %w", err)
	}
	var err error
	if s.file == nil {
		err = s.create(st)
	} else {
		err = s.write(s.file, st)
	}
	if err != nil {
		s.failure = fmt.Errorf("save hard state: %w", err)
	}
	return s.failure
}

func (st *State) check() error {
	if len(st.Cluster) > maxName || len(st.Group) > maxName || len(st.Node) > smr.MaxNodeID || len(st.BootID) > maxBootID {
		return errors.New("a name is too long")
	}
	return nil
}

// write writes both slots, one after the other, each as the next sequence. A sequence has its slot, so that the first
// write never hits the newest copy, which may be the only good one.
func (s *StateFile) write(file File, st State) error {
	for range 2 {
		s.sequence++
		at := int64(s.sequence%2) * BlockSize
		if err := file.WriteAt(LabelStateWrite, s.block.encode(st, s.sequence), at); err != nil {
			return err
		}
		if mutant.On(mutant.StateUnsynced) {
			continue
		}
		if err := file.Sync(LabelStateSync); err != nil {
			return err
		}
		if mutant.On(mutant.StateOlderWins) {
			break
		}
	}
	return nil
}

// create makes the file under another name first, so that it is there as a whole or not at all.
func (s *StateFile) create(st State) error {
	if s.damaged {
		if err := s.keepDamaged(); err != nil {
			return err
		}
	}
	if err := s.fs.Remove(LabelStateName, s.path(stateDraft)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := s.fs.Create(LabelStateOpen, s.path(stateDraft))
	if err != nil {
		return err
	}
	if err := file.Allocate(LabelStateWrite, stateFileBytes); err != nil {
		_ = file.Close()
		return err
	}
	if err := s.write(file, st); err != nil {
		_ = file.Close()
		return err
	}
	s.file = file
	if err := s.fs.Rename(LabelStateName, s.path(stateDraft), s.path(stateName)); err != nil {
		return err
	}
	return s.fs.SyncDir(LabelStateName, s.dir)
}

// keepDamaged moves the damaged file away only by copying its name: until the new file takes its place, an OpenState
// must go on finding damage, not nothing.
func (s *StateFile) keepDamaged() error {
	source, err := s.fs.OpenRead(LabelStateOpen, s.path(stateName))
	if err != nil {
		return err
	}
	defer source.Close()
	size, err := source.Size(LabelStateRead)
	if err != nil {
		return err
	}
	b := make([]byte, min(size, stateFileBytes))
	if len(b) > 0 {
		if _, err := source.ReadAt(LabelStateRead, b, 0); err != nil {
			return err
		}
	}
	names, err := s.fs.List(LabelStateOpen, s.dir)
	if err != nil {
		return err
	}
	next := 1
	for _, name := range names {
		var n int
		if _, err := fmt.Sscanf(name, stateName+".damaged-%d", &n); err == nil && n >= next {
			next = n + 1
		}
	}
	target, err := s.fs.Create(LabelStateOpen, s.path(fmt.Sprintf("%s.damaged-%d", stateName, next)))
	if err != nil {
		return err
	}
	defer target.Close()
	if err := target.WriteAt(LabelStateWrite, b, 0); err != nil {
		return err
	}
	return target.Sync(LabelStateSync)
}

// Close gives the file back.
func (s *StateFile) Close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	if s.failure == nil {
		s.failure = ErrClosed
	}
	return err
}

// encode returns one slot, drawn in doc.go. It is overwritten by the next one.
func (k *stateBlock) encode(st State, sequence uint64) []byte {
	if *k == nil {
		*k = make([]byte, BlockSize)
	}
	clear(*k)
	b := (*k)[:stateFixed]
	copy(b, stateMagic[:])
	binary.LittleEndian.PutUint32(b[8:], stateVersion)
	binary.LittleEndian.PutUint64(b[16:], sequence)
	binary.LittleEndian.PutUint64(b[24:], uint64(st.Promise))
	binary.LittleEndian.PutUint64(b[32:], uint64(st.Incarnation))
	binary.LittleEndian.PutUint64(b[40:], st.LeaseHoldTicks)
	var flags uint64
	if st.Clean {
		flags |= stateClean
	}
	if st.LogBegun {
		flags |= stateLogBegun
	}
	binary.LittleEndian.PutUint64(b[48:], flags)
	binary.LittleEndian.PutUint64(b[56:], uint64(st.LogStart))
	for _, name := range []string{st.Cluster, st.Group, string(st.Node), st.BootID} {
		b = append(b, byte(len(name)))
		b = append(b, name...)
	}
	b = b[:BlockSize]
	binary.LittleEndian.PutUint32(b[12:], blockSum(b))
	return b
}

// decodeState reads the slot of that index. Errors: ErrNewerFormat, or why it does not check.
func decodeState(b []byte, index uint64) (State, uint64, error) {
	if [8]byte(b[:8]) != stateMagic || blockSum(b) != binary.LittleEndian.Uint32(b[12:]) && !mutant.On(mutant.StateUnchecked) {
		return State{}, 0, errors.New("its checksum differs")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v > stateVersion {
		return State{}, 0, fmt.Errorf("%w: version %d, this program knows %d", ErrNewerFormat, v, stateVersion)
	}
	flags := binary.LittleEndian.Uint64(b[48:])
	st := State{
		Promise:        smr.Epoch(binary.LittleEndian.Uint64(b[24:])),
		Incarnation:    smr.Incarnation(binary.LittleEndian.Uint64(b[32:])),
		LeaseHoldTicks: binary.LittleEndian.Uint64(b[40:]),
		LogStart:       smr.LSN(binary.LittleEndian.Uint64(b[56:])),
		Clean:          flags&stateClean != 0,
		LogBegun:       flags&stateLogBegun != 0,
	}
	var node string
	rest := b[stateFixed:]
	for _, name := range []*string{&st.Cluster, &st.Group, &node, &st.BootID} {
		var ok bool
		if *name, rest, ok = cutString(rest); !ok {
			return State{}, 0, errors.New("a name is cut short")
		}
	}
	st.Node = smr.NodeID(node)
	sequence := binary.LittleEndian.Uint64(b[16:])
	if sequence%2 != index || flags&^(stateClean|stateLogBegun) != 0 {
		return State{}, 0, fmt.Errorf("sequence %d, flags %#x in slot %d", sequence, flags, index)
	}
	return st, sequence, st.check()
}
