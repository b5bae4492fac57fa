package confmaster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// mark is a lower bound of what the raft store has made durable, kept outside of it: the number of its synced saves.
// pebble cannot tell a damaged log record near the end of its log from one that a crash tore, and drops it and all
// that follow. To lose a torn one is right, it was never acted upon; to lose a synced one would be to forget a vote or
// a decision. A store that holds less than its mark says is damaged.
//
// The mark is written after each synced save, but not synced itself: a process that is killed leaves it exact, a power
// cut may leave it behind, which only makes it a weaker bound. Two slots are written in turn, so that a torn one never
// hides the other.
//
//	0   slot 0: saves, 8 bytes big endian; CRC32C of those, 4 bytes big endian; 4 bytes of zero
//	16  slot 1: the same
type mark struct {
	file  vfs.File
	saves uint64
}

const slotSize = 16

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openMark reads the mark at path; a missing one is made, and says nothing.
func openMark(filesystem vfs.FS, path string) (*mark, error) {
	m := &mark{}
	content, err := readAll(filesystem, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read mark of the raft store: %w", err)
	case len(content) > 0:
		if m.saves, err = newestSlot(content); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	if m.file, err = filesystem.OpenReadWrite(path, vfs.WriteCategoryUnspecified); err != nil {
		return nil, fmt.Errorf("open mark of the raft store: %w", err)
	}
	return m, nil
}

func readAll(filesystem vfs.FS, path string) ([]byte, error) {
	file, err := filesystem.Open(path)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, 2*slotSize+1))
	return content, errors.Join(err, file.Close())
}

// newestSlot returns the higher of the slots that check. A file of zeros, or of one torn slot, was cut by a power
// failure before the first mark was on disk: it says nothing.
func newestSlot(content []byte) (uint64, error) {
	if len(content) > 2*slotSize {
		return 0, fmt.Errorf("%w: its mark is longer than %d bytes", errDamaged, 2*slotSize)
	}
	var newest uint64
	bad := 0
	for at := 0; at < len(content); at += slotSize {
		slot := make([]byte, slotSize)
		copy(slot, content[at:])
		saves := binary.BigEndian.Uint64(slot)
		switch {
		case binary.BigEndian.Uint32(slot[8:]) == crc32.Checksum(slot[:8], castagnoli):
			newest = max(newest, saves)
		case [slotSize]byte(slot) != [slotSize]byte{}:
			bad++
		}
	}
	if bad == 2 {
		return 0, fmt.Errorf("%w: no slot of its mark checks", errDamaged)
	}
	return newest, nil
}

// raise notes that so many saves are durable in the store.
func (m *mark) raise(saves uint64) error {
	var slot [slotSize]byte
	binary.BigEndian.PutUint64(slot[:], saves)
	binary.BigEndian.PutUint32(slot[8:], crc32.Checksum(slot[:8], castagnoli))
	if _, err := m.file.WriteAt(slot[:], int64(saves%2)*slotSize); err != nil {
		return fmt.Errorf("write mark of the raft store: %w", err)
	}
	m.saves = saves
	return nil
}

func (m *mark) close() error { return errors.Join(m.file.Sync(), m.file.Close()) }
