package transfer

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/checkpoint"
	"lockstep/proto"
	"lockstep/smr"
)

const (
	// maxChunk bounds what one message of Fetch carries, in bytes.
	maxChunk = 256 << 10
	// defaultSenders and defaultLease are the defaults of SourceOptions.
	defaultSenders = 2
	defaultLease   = time.Minute
	// MinRate is the least that a bound of bytes a second may be: below it, a chunk would take too long to be told from a silence.
	MinRate = 64 << 10
)

// castagnoli is the polynomial of all checksums here.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SourceOptions says what a Source lends.
type SourceOptions struct {
	Images         string        // directory of the images
	Lent           string        // directory for what is lent, on the same file system; it is emptied at the start
	Senders        int           // leases out at once; 0 is 2
	BytesPerSecond int64         // of all senders together; 0 is no bound, others are at least 64 KiB
	Lease          time.Duration // without a Fetch; 0 is a minute
}

// Source lends images to peers. It is safe for concurrent use.
type Source struct {
	o       SourceOptions
	limiter *rate.Limiter // nil without a bound
	chunk   int

	mu     sync.Mutex
	leases map[uint64]*lease
}

// lease is an image that is lent.
type lease struct {
	id       uint64
	borrower string
	dir      string
	manifest *checkpoint.Manifest
	raw      []byte // image.json
	meter    *Meter
	sending  int       // streams that run
	used     time.Time // when the last stream ended
}

// NewSource returns a Source, and removes what a former life left lent. The caller runs Run.
func NewSource(o SourceOptions) (*Source, error) {
	if o.Senders == 0 {
		o.Senders = defaultSenders
	}
	if o.Lease == 0 {
		o.Lease = defaultLease
	}
	if o.Senders < 0 || o.Lease < 0 || o.BytesPerSecond < 0 || o.BytesPerSecond > 0 && o.BytesPerSecond < MinRate {
		return nil, fmt.Errorf("%d senders with %d bytes a second and leases of %v: use positive numbers, and at least %d bytes a second", o.Senders, o.BytesPerSecond, o.Lease, MinRate)
	}
	if err := os.RemoveAll(o.Lent); err != nil {
		return nil, fmt.Errorf("remove what was lent before: %w", err)
	}
	s := &Source{o: o, chunk: maxChunk, leases: make(map[uint64]*lease)}
	s.limiter, s.chunk = limiterOf(o.BytesPerSecond)
	return s, nil
}

// limiterOf returns what bounds a transfer, nil for no bound, and the size of its chunks: several a second.
func limiterOf(bytesPerSecond int64) (*rate.Limiter, int) {
	if bytesPerSecond == 0 {
		return nil, maxChunk
	}
	chunk := int(min(maxChunk, bytesPerSecond/4))
	return rate.NewLimiter(rate.Limit(bytesPerSecond), chunk), chunk
}

// Run ends leases whose time has passed, and all of them when ctx ends; no stream may run then.
func (s *Source) Run(ctx context.Context) {
	ticker := time.NewTicker(max(s.o.Lease/8, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.endLeases(func(l *lease) bool { return s.expired(l) })
		case <-ctx.Done():
			s.endLeases(func(*lease) bool { return true })
			return
		}
	}
}

func (s *Source) expired(l *lease) bool { return l.sending == 0 && time.Since(l.used) > s.o.Lease }

// endLeases removes the leases that match.
func (s *Source) endLeases(match func(*lease) bool) {
	s.mu.Lock()
	var ended []string
	for id, l := range s.leases {
		if match(l) {
			ended = append(ended, l.dir)
			delete(s.leases, id)
		}
	}
	s.mu.Unlock()
	for _, dir := range ended {
		_ = os.RemoveAll(dir) // what stays is removed at the next start
	}
}

// Transfers lists what is lent, in the order of the borrowers' names.
func (s *Source) Transfers() []*proto.ImageTransfer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*proto.ImageTransfer
	for _, l := range s.leases {
		list = append(list, l.meter.transfer(l.borrower))
	}
	slices.SortFunc(list, func(a, b *proto.ImageTransfer) int {
		switch {
		case a.Peer < b.Peer:
			return -1
		case a.Peer > b.Peer:
			return 1
		}
		return 0
	})
	return list
}

// Hold implements the call of that name; the caller has checked the target.
func (s *Source) Hold(_ context.Context, in *proto.HoldRequest) (*proto.HoldReply, error) {
	if err := smr.CheckNodeID(in.GetBorrower()); err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "borrower: %v", err)
	}
	s.endLeases(func(l *lease) bool { return s.expired(l) || l.borrower == in.GetBorrower() && l.sending == 0 })
	l, err := s.reserve(in.GetBorrower())
	if err != nil {
		return nil, err
	}
	if err := s.lend(l, smr.LSN(in.GetLsn()), smr.LSN(in.GetAtLeast())); err != nil {
		s.endLeases(func(other *lease) bool { return other == l })
		return nil, err
	}
	return &proto.HoldReply{Lease: l.id, LeaseMs: uint32(s.o.Lease / time.Millisecond), Manifest: l.raw}, nil
}

// reserve takes a place among the leases, so that no more than the bound are ever linked.
func (s *Source) reserve(borrower string) (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.leases) >= s.o.Senders {
		return nil, status.Errorf(codes.ResourceExhausted, "%d images are being sent already: try another node, or later", len(s.leases))
	}
	var b [8]byte
	rand.Read(b[:])
	id := binary.LittleEndian.Uint64(b[:])
	l := &lease{id: id, borrower: borrower, dir: filepath.Join(s.o.Lent, strconv.FormatUint(id, 16)), meter: NewMeter(), used: time.Now(), sending: 1}
	s.leases[id] = l
	return l, nil
}

// lend links the image into the lease's directory. The lease counts as sending until then.
func (s *Source) lend(l *lease, lsn, atLeast smr.LSN) error {
	const tries = 5 // images may be replaced while they are linked
	var err error
	for range tries {
		var found string
		if found, err = s.find(lsn, atLeast); err != nil {
			return err
		}
		if err = s.link(l, found); err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return status.Errorf(codes.Unavailable, "lend an image: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.sending, l.used = 0, time.Now()
	l.meter.begin(l.manifest.LSN, l.manifest.Bytes)
	return nil
}

// find returns the directory of the image that is asked for.
func (s *Source) find(lsn, atLeast smr.LSN) (string, error) {
	images, err := checkpoint.List(s.o.Images)
	if err != nil {
		return "", status.Errorf(codes.Unavailable, "list the images: %v", err)
	}
	newest := smr.LSN(0)
	for _, image := range images { // newest first
		if image.Err != nil {
			continue
		}
		newest = max(newest, image.LSN)
		if (lsn == 0 || image.LSN == lsn) && image.LSN >= atLeast {
			return image.Dir, nil
		}
	}
	if newest == 0 {
		return "", status.Error(codes.NotFound, "this node has no image yet: `smrctl checkpoint` makes it take one")
	}
	return "", status.Errorf(codes.NotFound, "no image of LSN %d, at least %d, here: the newest is of LSN %d", lsn, atLeast, newest)
}

func (s *Source) link(l *lease, from string) error {
	if err := errors.Join(os.RemoveAll(l.dir), os.MkdirAll(l.dir, 0o700)); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(from, checkpoint.ManifestName))
	if err != nil {
		return err
	}
	manifest, err := checkpoint.ParseManifest(raw)
	if err != nil {
		return err
	}
	for _, file := range manifest.Files {
		if err := os.Link(filepath.Join(from, file.Name), filepath.Join(l.dir, file.Name)); err != nil {
			return err
		}
	}
	l.manifest, l.raw = manifest, raw
	return nil
}

// borrow notes that a stream of the lease begins.
func (s *Source) borrow(id uint64) (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if l == nil {
		return nil, status.Error(codes.NotFound, "this lease has ended: ask for the image again")
	}
	l.sending++
	return l, nil
}

func (s *Source) giveBack(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.sending--
	l.used = time.Now()
}

// Fetch implements the call of that name: it sends a file of a lent image from an offset on.
func (s *Source) Fetch(in *proto.FetchRequest, out grpc.ServerStreamingServer[proto.Chunk]) error {
	l, err := s.borrow(in.GetLease())
	if err != nil {
		return err
	}
	defer s.giveBack(l)
	at := slices.IndexFunc(l.manifest.Files, func(f checkpoint.File) bool { return f.Name == in.GetFile() })
	if at < 0 {
		return status.Errorf(codes.NotFound, "the image of LSN %d has no file %q", l.manifest.LSN, in.GetFile())
	}
	if in.GetOffset() > uint64(l.manifest.Files[at].Size) {
		return status.Errorf(codes.FailedPrecondition, "offset %d of file %s, which has %d bytes", in.GetOffset(), in.GetFile(), l.manifest.Files[at].Size)
	}
	file, err := os.Open(filepath.Join(l.dir, l.manifest.Files[at].Name))
	if err != nil {
		return status.Errorf(codes.Unavailable, "read the image: %v", err)
	}
	defer file.Close()
	buffer := make([]byte, s.chunk)
	for offset := int64(in.GetOffset()); ; {
		n, err := file.ReadAt(buffer, offset)
		if n > 0 {
			if s.limiter != nil {
				if err := s.limiter.WaitN(out.Context(), n); err != nil {
					return status.FromContextError(err).Err()
				}
			}
			chunk := &proto.Chunk{Offset: uint64(offset), Content: buffer[:n], Crc32C: crc32.Checksum(buffer[:n], castagnoli)}
			if err := out.Send(chunk); err != nil {
				return err
			}
			offset += int64(n)
			l.meter.add(int64(n))
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return status.Errorf(codes.DataLoss, "read file %s of the image of LSN %d: %v", in.GetFile(), l.manifest.LSN, err)
		}
	}
}

// Release implements the call of that name.
func (s *Source) Release(_ context.Context, in *proto.ReleaseRequest) (*proto.ReleaseReply, error) {
	s.endLeases(func(l *lease) bool { return l.id == in.GetLease() })
	return &proto.ReleaseReply{}, nil
}
