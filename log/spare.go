package log

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

const (
	lockName    = "lock"
	sparePrefix = "spare-"
	reserveName = "reserve"
	reserveSize = 64 << 10
	// Files are zeroed in pieces, each given to the device at once. For each byte that is appended zeroAhead are zeroed: the next file is
	// ready when the tail is half full, and the log's own syncs never wait for a whole file.
	zeroPiece = 256 << 10
	zeroAhead = 2
	// spareSpans is for how many further spans of History a spare file has room at least.
	spareSpans = 64
)

// spare is a file that is allocated, zeroed and durable, but has no LSN yet.
type spare struct {
	name string
	file File
	size int64 // of the whole file, bytes
}

// spares prepares files ahead of need. The owner of the Log calls all methods; unless Options.Synchronous, one
// goroutine prepares the next file between begin and end.
type spares struct {
	fs       FS
	dir      string
	fileSize int64 // length of the data part
	ready    []spare
	count    int // spares named so far in this process
	spans    int // of the longest History so far
	// With a helper goroutine: at most one order is under way.
	orders  chan order
	results chan spareResult
	ordered bool
	helper  sync.WaitGroup
	leave   leave
}

// leave is how many bytes of a file the helper may have zeroed by now. The zero value is no leave at all; a nil one is leave for everything.
type leave struct {
	bytes   atomic.Int64
	wanted  atomic.Int64  // how many the helper waits for, 0 if it does not
	refused atomic.Bool   // the file is not needed any more
	changed chan struct{} // 1
}

const allBytes = math.MaxInt64 / 2

// grant gives leave for more bytes.
func (l *leave) grant(more int64) {
	bytes := l.bytes.Add(more) // before wanted is looked at: either this sees who waits, or he sees this
	if wanted := l.wanted.Load(); wanted > 0 && bytes >= wanted {
		l.wake()
	}
}

// hurry gives leave for the whole file.
func (l *leave) hurry() {
	l.bytes.Store(allBytes)
	l.wake()
}

// refuse takes the order back.
func (l *leave) refuse() {
	l.refused.Store(true)
	l.wake()
}

func (l *leave) wake() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// await waits for leave to have zeroed so many bytes. It reports false if that is refused.
func (l *leave) await(bytes int64) bool {
	if l == nil {
		return true
	}
	l.wanted.Store(bytes)
	for l.bytes.Load() < bytes && !l.refused.Load() {
		<-l.changed
	}
	l.wanted.Store(0)
	return !l.refused.Load()
}

// order is for a file of that name and size.
type order struct {
	name string
	size int64
}

type spareResult struct {
	spare spare
	err   error
}

// begin takes the length of the History as it is.
func (s *spares) begin(fs FS, o Options, spans int) {
	s.fs, s.dir, s.fileSize, s.spans = fs, o.Dir, o.FileSize, spans
	if o.Synchronous {
		return
	}
	s.orders = make(chan order, 1)
	s.results = make(chan spareResult, 1)
	s.leave.changed = make(chan struct{}, 1)
	s.helper.Go(func() {
		for o := range s.orders {
			made, err := makeSpare(fs, o.name, o.size, s.fileSize, &s.leave)
			s.results <- spareResult{made, err}
		}
	})
	s.order()
	s.leave.hurry() // nobody knows how soon it is needed
}

// order asks the helper for a further file, which it makes in step with what is appended.
func (s *spares) order() {
	if s.orders == nil || s.ordered {
		return
	}
	s.ordered = true
	s.leave.bytes.Store(0)
	s.orders <- order{s.nextName(), s.spareSize()}
}

func (s *spares) nextName() string {
	s.count++
	return filepath.Join(s.dir, fmt.Sprintf("%s%d", sparePrefix, s.count))
}

// spareSize is how large a file is made: its History may grow a little until the file is used.
func (s *spares) spareSize() int64 {
	return layoutOf(s.fileSize).fileSize(min(s.spans+spareSpans, smr.MaxHistory))
}

// provide returns once count files are ready that have room for a History of so many spans, or why they cannot be. Whatever
// is written to them later finds its blocks on the device, written once already.
func (s *spares) provide(count, spans int) error {
	s.spans = max(s.spans, spans)
	needed := layoutOf(s.fileSize).fileSize(spans)
	for i := 0; i < count; {
		switch {
		case i < len(s.ready) && s.ready[i].size >= needed:
			i++
		case i < len(s.ready): // so many elections since it was made are rare
			if err := s.discard(i); err != nil {
				return err
			}
		case s.ordered:
			s.leave.hurry()
			result := <-s.results
			s.ordered = false
			if result.err != nil && !isFull(result.err) {
				return result.err
			}
			if result.err == nil {
				s.ready = append(s.ready, result.spare)
			} // else the device may have room again by now: a full one is asked once more below
		default:
			made, err := makeSpare(s.fs, s.nextName(), s.spareSize(), s.fileSize, nil)
			if err != nil {
				return err
			}
			s.ready = append(s.ready, made)
		}
	}
	return nil
}

// discard removes a file that is ready.
func (s *spares) discard(i int) error {
	unused := s.ready[i]
	s.ready = slices.Delete(s.ready, i, i+1)
	_ = unused.file.Close()
	return s.fs.Remove(LabelSpareRemove, unused.name)
}

// take hands a file out that provide has got ready.
func (s *spares) take() spare {
	assert(len(s.ready) > 0, "provide was called before take")
	taken := s.ready[0]
	s.ready = append(s.ready[:0], s.ready[1:]...)
	return taken
}

// appended takes note of what was appended.
func (s *spares) appended(bytes int) {
	if s.ordered {
		s.leave.grant(zeroAhead * int64(bytes))
	}
}

// refill has the next file prepared if none is ready: behind the syncs that take a file into use, so that they do not wait for its zeros.
func (s *spares) refill() {
	if len(s.ready) == 0 {
		s.order()
	}
}

// end stops the helper and removes what was not used.
func (s *spares) end() error {
	if s.orders != nil {
		s.leave.refuse()
		close(s.orders)
		s.helper.Wait()
		if s.ordered {
			if result := <-s.results; result.err == nil {
				s.ready = append(s.ready, result.spare)
			}
		}
		s.orders = nil
	}
	var first error
	for len(s.ready) > 0 {
		if err := s.discard(0); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// makeSpare allocates a file, writes zeros over all of it (an extent that was only reserved would have to be converted
// by each first write, a change of file-system metadata that fdatasync waits for) and syncs it, all as far as it has leave.
func makeSpare(fs FS, name string, size, dataSize int64, leave *leave) (spare, error) {
	file, err := fs.Create(LabelSpareCreate, name)
	if err != nil {
		return spare{}, err
	}
	if err = zeroFile(file, size, leave); err != nil {
		_ = file.Close()
		_ = fs.Remove(LabelSpareRemove, name) // gives the space back; a leftover is removed by the next Open
		return spare{}, err
	}
	if mutant.On(mutant.SpareRecycled) {
		if err := recycle(fs, file, filepath.Dir(name), dataSize); err != nil {
			return spare{}, err
		}
	}
	return spare{name: name, file: file, size: size}, nil
}

// recycle is a mutant at work: it fills the data part of a spare file with that of the oldest log file.
func recycle(fs FS, file File, dir string, dataSize int64) error {
	names, err := fs.List(LabelList, dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := parseFileName(name); !ok {
			continue
		}
		old, err := fs.OpenRead(LabelOpen, filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer old.Close()
		b := make([]byte, dataSize)
		if _, err := old.ReadAt(LabelOpen, b, 0); err != nil {
			return err
		}
		if err := file.WriteAt(LabelSpareZero, b, 0); err != nil {
			return err
		}
		return file.Sync(LabelSpareSync)
	}
	return nil
}

// errRefused: the file is not needed any more.
var errRefused = errors.New("the log is closed")

func zeroFile(file File, size int64, leave *leave) error {
	if err := file.Allocate(LabelSpareAllocate, size); err != nil {
		return err
	}
	for at := int64(0); at < size; at += zeroPiece {
		if !leave.await(at) {
			return errRefused
		}
		if err := file.WriteZeros(LabelSpareZero, at, min(size-at, zeroPiece)); err != nil {
			return err
		}
	}
	return file.Sync(LabelSpareSync)
}

// removeLeftovers removes the spare files of an earlier process: nobody knows how far their zeros are durable.
func removeLeftovers(fs FS, dir string, names []string) error {
	for _, name := range names {
		if strings.HasPrefix(name, sparePrefix) {
			if err := fs.Remove(LabelSpareRemove, filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// holdReserve makes sure that the reserve is there: a little space that is freed when the device is full and metadata
// must be written all the same. Without room for it the log works too.
func holdReserve(fs FS, dir string, names []string) error {
	for _, name := range names {
		if name == reserveName {
			return nil
		}
	}
	file, err := fs.Create(LabelReserve, filepath.Join(dir, reserveName))
	if err == nil {
		err = file.Allocate(LabelReserve, reserveSize)
		_ = file.Close()
	}
	if isFull(err) {
		return nil
	}
	return err
}

// withReserve calls write, and if the device is full once more after it has freed the reserve.
func withReserve(fs FS, dir string, write func() error) error {
	err := write()
	if !isFull(err) {
		return err
	}
	if freeErr := fs.Remove(LabelFreeReserve, filepath.Join(dir, reserveName)); freeErr != nil {
		return err
	}
	return write()
}
