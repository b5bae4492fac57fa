package log

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

const (
	maxReaderFiles = 4 // files that a Reader keeps open
	minReadBuffer  = 4 << 10
	maxMetaKept    = 64 << 10 // bytes of metadata for which a Reader keeps memory
)

// Reader reads the stream beside the writer, also from another process. One goroutine at a time uses it. It holds no
// lock: what it may read is told by limit, and what is trimmed or rewound meanwhile is found out.
type Reader struct {
	fs     FS
	dir    string
	files  []*readFile // the one used last comes first
	page   []byte
	meta   []byte // memory for the metadata of a file that is opened
	closed bool
}

// readFile is an open log file.
type readFile struct {
	*found
	file     File
	first    bool // no file was in front of it when it was opened
	verified []uint64
}

// OpenReader returns a Reader of the log in dir, which need not hold anything yet. A nil fs is the operating system's.
func OpenReader(fs FS, dir string) (*Reader, error) {
	if fs == nil {
		fs = OS{}
	}
	if _, err := fs.List(LabelList, dir); err != nil {
		return nil, fmt.Errorf("open log reader: %w", err)
	}
	return &Reader{fs: fs, dir: dir}, nil
}

// ReadAt fills p with the bytes [lsn, min(lsn+len(p), limit)) and returns how many these are. limit must be known to
// be written: the reader cannot tell bytes from what is no byte yet. Bytes of full files are checked against the page
// checksums; those of the last file are as they are: whoever uses them checks the frames. Errors: ErrTrimmed,
// ErrCorrupt.
func (r *Reader) ReadAt(p []byte, lsn, limit smr.LSN) (int, error) {
	return r.readAt(p, lsn, limit, true)
}

func (r *Reader) readAt(p []byte, lsn, limit smr.LSN, checkPages bool) (int, error) {
	if r.closed {
		return 0, ErrClosed
	}
	if lsn >= limit {
		return 0, nil
	}
	p = p[:min(uint64(len(p)), uint64(limit-lsn))]
	for done := 0; done < len(p); {
		at := lsn + smr.LSN(done)
		f, err := r.find(at)
		if err != nil {
			return done, err
		}
		part := p[done:]
		part = part[:min(uint64(len(part)), uint64(f.end()-at))]
		if checkPages && f.seal == nil && limit >= f.end() {
			f.loadSeal()
		}
		if checkPages && f.seal != nil {
			err = r.readChecked(f, part, int64(at-f.base))
		} else {
			_, err = f.file.ReadAt(LabelReaderRead, part, int64(at-f.base))
		}
		if err != nil {
			return done, fmt.Errorf("read log at %d: %w", at, err)
		}
		done += len(part)
	}
	return len(p), nil
}

// Frames reads about len(buf) bytes from the frame boundary from on, at most up to limit, checks the whole frames among
// them and visits each; raw is the frame's encoding. Neither may be kept. limit is a frame boundary too, as every End,
// Durable, Commit and Safe is: a frame that reaches beyond it is damaged. Frames returns where the next call continues,
// and the buffer for it: a bigger one if a single frame needed it. next = from means that from has reached limit. An error
// of visit stops it and is returned as it is; next is then that frame. Other errors: ErrTrimmed, ErrCorrupt.
func (r *Reader) Frames(buf []byte, from, limit smr.LSN, visit func(f smr.Frame, raw []byte) error) (next smr.LSN, buffer []byte, err error) {
	if len(buf) < minReadBuffer {
		buf = make([]byte, minReadBuffer)
	}
	for next = from; ; {
		n, err := r.readAt(buf, from, limit, false)
		if err != nil {
			return next, buf, err
		}
		window := buf[:n]
		size := 0
		for len(window) > 0 {
			size, err = smr.PeekFrame(window)
			if size > len(window) && smr.LSN(size) <= limit-next || len(window) < smr.HeaderSize && smr.LSN(len(window)) < limit-next {
				break
			}
			var f smr.Frame
			if err == nil {
				f, err = smr.DecodeFrame(window, next)
			}
			if err != nil {
				return next, buf, fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			if err := visit(f, window[:size:size]); err != nil {
				return next, buf, err
			}
			next += smr.LSN(size)
			window = window[size:]
		}
		if next > from || size <= len(buf) {
			return next, buf, nil
		}
		buf = make([]byte, size) // one frame is bigger than the buffer; its size was checked
	}
}

// find returns the open file that holds the byte at lsn.
func (r *Reader) find(lsn smr.LSN) (*readFile, error) {
	f, err := r.locate(lsn)
	if err != nil {
		return nil, err
	}
	return f, r.checkStart(f, lsn)
}

// locate is find for bytes in front of the first whole frame, too.
func (r *Reader) locate(lsn smr.LSN) (*readFile, error) {
	for i, f := range r.files {
		if lsn < f.base || lsn >= f.end() {
			continue
		}
		// A file of the same name may stand in its place by now, with other bytes (rewind), or none (trim).
		removed, err := f.file.Removed(LabelReaderRead)
		if err != nil {
			return nil, err
		}
		if removed {
			_ = f.file.Close()
			r.files = append(r.files[:i], r.files[i+1:]...)
			break
		}
		copy(r.files[1:i+1], r.files[:i])
		r.files[0] = f
		return f, nil
	}
	const tries = 8 // files may come and go between listing and opening
	for range tries {
		f, err := r.open(lsn)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(r.files) == maxReaderFiles {
			_ = r.files[maxReaderFiles-1].file.Close()
			r.files = r.files[:maxReaderFiles-1]
		}
		r.files = append([]*readFile{f}, r.files...)
		return f, nil
	}
	return nil, fmt.Errorf("read log at %d: its file comes and goes", lsn)
}

// checkStart refuses what lies in front of the first whole frame of the first file.
func (r *Reader) checkStart(f *readFile, lsn smr.LSN) error {
	if f.first && lsn < f.firstFrame {
		return fmt.Errorf("read log at %d: %w: it starts at %d", lsn, ErrTrimmed, f.firstFrame)
	}
	return nil
}

func (r *Reader) open(lsn smr.LSN) (*readFile, error) {
	names, err := r.fs.List(LabelList, r.dir)
	if err != nil {
		return nil, fmt.Errorf("read log at %d: %w", lsn, err)
	}
	name, first := "", true
	var base smr.LSN
	for _, candidate := range names { // sorted
		if at, ok := parseFileName(candidate); ok && at <= lsn {
			first = name == ""
			name, base = candidate, at
		}
	}
	if name == "" {
		return nil, fmt.Errorf("read log at %d: %w", lsn, ErrTrimmed)
	}
	file, err := r.fs.OpenRead(LabelReaderOpen, filepath.Join(r.dir, name))
	if err != nil {
		return nil, err
	}
	f, meta, err := readHeader(file, LabelReaderOpen, base, r.meta)
	r.meta = meta[:min(cap(meta), maxMetaKept)]
	if err == nil && lsn >= f.end() {
		err = fmt.Errorf("no file holds it; %s ends at %d", name, f.end())
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("read log at %d: %w", lsn, err)
	}
	return &readFile{found: f, file: file, first: first, verified: make([]uint64, (f.layout.pages+63)/64)}, nil
}

// loadSeal looks whether the file has been sealed since, or sealed anew.
func (f *readFile) loadSeal() {
	f.seal = nil
	blocks := make([]byte, f.layout.sealBlocks())
	if _, err := f.file.ReadAt(LabelReaderRead, blocks, f.layout.sealAt); err == nil {
		f.seal = decodeSeal(blocks, f.base, f.layout.pages)
	}
}

// readChecked fills p from offset at of a sealed file. A page is checked when it is first read.
func (r *Reader) readChecked(f *readFile, p []byte, at int64) error {
	for len(p) > 0 {
		page := at / f.layout.pageSize
		skip := at - page*f.layout.pageSize
		n := min(int64(len(p)), f.layout.pageSize-skip)
		if f.verified[page/64]&(1<<(page%64)) != 0 {
			if _, err := f.file.ReadAt(LabelReaderRead, p[:n], at); err != nil {
				return err
			}
		} else if err := r.readPage(f, page, p[:n], skip); err != nil {
			return err
		}
		p, at = p[n:], at+n
	}
	return nil
}

// readPage reads and checks one page and copies the part from skip on into p.
func (r *Reader) readPage(f *readFile, page int64, p []byte, skip int64) error {
	whole := p
	if int64(len(p)) < f.layout.pageSize {
		if r.page == nil {
			r.page = make([]byte, maxPageSize)
		}
		whole = r.page[:f.layout.pageSize]
	}
	if _, err := f.file.ReadAt(LabelReaderRead, whole, page*f.layout.pageSize); err != nil {
		return err
	}
	sum := crc32.Checksum(whole, castagnoli)
	if sum != f.seal.pages[page] && !mutant.On(mutant.PageUnchecked) {
		// The writer may have rewound into this file and filled it again.
		f.loadSeal()
		clear(f.verified)
		if f.seal != nil && sum != f.seal.pages[page] {
			return fmt.Errorf("%w: page %d of %s", ErrCorrupt, page, fileName(f.base))
		}
	}
	if f.seal != nil {
		f.verified[page/64] |= 1 << (page % 64)
	}
	if int64(len(p)) < f.layout.pageSize {
		copy(p, whole[skip:])
	}
	return nil
}

// Close gives the files back.
func (r *Reader) Close() error {
	for _, f := range r.files {
		_ = f.file.Close()
	}
	r.files, r.closed = nil, true
	return nil
}
