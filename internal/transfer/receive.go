package transfer

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/status"

	"lockstep/internal/checkpoint"
	"lockstep/proto"
)

// partSuffix ends the name of a file that is not complete.
const partSuffix = ".part"

// spareBytes is what must be left of the disk beside an image.
const spareBytes = 64 << 20

// receiver receives one image from one source into the incoming directory.
type receiver struct {
	o        Options
	client   proto.KVNodeClient
	lease    uint64
	limiter  *rate.Limiter
	manifest *checkpoint.Manifest
	raw      []byte
}

// receive completes the incoming directory and makes it an image.
func (r *receiver) receive(ctx context.Context) error {
	err := r.fill(ctx)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w for the image of %d bytes in %s: make room, or move the node to a larger disk (%w)", ErrNoSpace, r.manifest.Bytes, r.o.Incoming, err)
	}
	if errors.Is(err, ErrNoSpace) {
		return errors.Join(err, removeIncoming(r.o.Incoming))
	}
	if err != nil {
		return err
	}
	return r.publish()
}

func removeIncoming(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove what was fetched: %w", err)
	}
	return nil
}

// fill brings every file that is not there.
func (r *receiver) fill(ctx context.Context) error {
	if err := os.MkdirAll(r.o.Incoming, 0o700); err != nil {
		return err
	}
	missing, err := r.survey(ctx)
	if err != nil {
		return err
	}
	need := int64(0)
	for _, file := range missing {
		need += file.Size - partSize(r.path(file)+partSuffix)
	}
	if err := checkSpace(r.o.Incoming, need); err != nil {
		return err
	}
	for _, file := range missing {
		if err := r.file(ctx, file); err != nil {
			return fmt.Errorf("file %s of the image of LSN %d: %w", file.Name, r.manifest.LSN, err)
		}
	}
	return nil
}

func (r *receiver) path(file checkpoint.File) string { return filepath.Join(r.o.Incoming, file.Name) }

func partSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// checkSpace reports whether dir's disk can take so many bytes more.
func checkSpace(dir string, need int64) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	free := int64(disk.Bavail) * disk.Bsize
	if free < need+spareBytes {
		return fmt.Errorf("%w: the image needs %d bytes more, and %s has %d free, of which %d must stay: make room, or move the node to a larger disk", ErrNoSpace, need, dir, free, spareBytes)
	}
	return nil
}

// survey removes what does not belong into the image and returns what is missing. A complete file is kept if its content is what
// the image wants, whichever image it was fetched for.
func (r *receiver) survey(ctx context.Context) ([]checkpoint.File, error) {
	wanted := make(map[string]checkpoint.File)
	for _, file := range r.manifest.Files {
		wanted[file.Name] = file
		wanted[file.Name+partSuffix] = file
	}
	entries, err := os.ReadDir(r.o.Incoming)
	if err != nil {
		return nil, err
	}
	have := make(map[string]bool)
	for _, entry := range entries {
		path := filepath.Join(r.o.Incoming, entry.Name())
		file, ok := wanted[entry.Name()]
		if ok && entry.Type().IsRegular() {
			info, err := entry.Info()
			if err != nil {
				return nil, err
			}
			if entry.Name() == file.Name {
				ok, err = hasContent(ctx, path, file)
				have[file.Name] = ok
			} else {
				ok = info.Size() <= file.Size
			}
			if err != nil {
				return nil, err
			}
		}
		if ok && entry.Type().IsRegular() {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return nil, err
		}
	}
	var missing []checkpoint.File
	for _, file := range r.manifest.Files {
		if have[file.Name] {
			r.o.Meter.found(file.Size)
			if err := removePart(r.path(file)); err != nil {
				return nil, err
			}
			continue
		}
		missing = append(missing, file)
	}
	return missing, nil
}

func removePart(path string) error {
	if err := os.Remove(path + partSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// hasContent reports whether path has size and checksum of file.
func hasContent(ctx context.Context, path string, file checkpoint.File) (bool, error) {
	if partSize(path) != file.Size {
		return false, nil
	}
	sum, _, err := sumOf(ctx, path)
	return sum == file.CRC32C, err
}

// sumOf returns the checksum of what is in path, and how many bytes these are. A file that is not there has none.
func sumOf(ctx context.Context, path string) (sum uint32, size int64, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	buffer := make([]byte, maxChunk)
	for {
		n, err := file.Read(buffer)
		sum, size = crc32.Update(sum, castagnoli, buffer[:n]), size+int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return sum, size, nil
		case err != nil:
			return sum, size, err
		case ctx.Err() != nil:
			return sum, size, ctx.Err()
		}
	}
}

// file brings one file, beginning where its part ends.
func (r *receiver) file(ctx context.Context, file checkpoint.File) error {
	part := r.path(file) + partSuffix
	sum, size, err := sumOf(ctx, part)
	if err != nil {
		return err
	}
	r.o.Meter.found(size)
	out, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close() // again after the one below, which counts
	size, sum, err = r.stream(ctx, file, out, size, sum)
	if err != nil {
		r.o.Meter.add(-size)
		return err
	}
	if sum != file.CRC32C {
		r.o.Meter.add(-size)
		return errors.Join(fmt.Errorf("its %d bytes do not have their checksum: the copy at the source is damaged, or what was here from before was", size), os.Remove(part))
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Rename(part, r.path(file))
}

// stream appends what the source sends, until the file is complete. It returns size and checksum of what is there.
func (r *receiver) stream(ctx context.Context, file checkpoint.File, out io.Writer, size int64, sum uint32) (int64, uint32, error) {
	if size == file.Size {
		return size, sum, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(r.o.Silence, cancel)
	defer silence.Stop()
	stream, err := r.client.Fetch(ctx, &proto.FetchRequest{Lease: r.lease, File: file.Name, Offset: uint64(size)})
	if err != nil {
		return size, sum, errors.New(status.Convert(err).Message())
	}
	for size < file.Size {
		chunk, err := stream.Recv()
		if err != nil {
			return size, sum, r.broken(ctx, err, file, size)
		}
		silence.Stop() // what follows is our own doing
		switch content := chunk.GetContent(); {
		case chunk.GetOffset() != uint64(size):
			return size, sum, fmt.Errorf("the source sent offset %d where %d was due", chunk.GetOffset(), size)
		case len(content) == 0 || int64(len(content)) > file.Size-size:
			return size, sum, fmt.Errorf("the source sent %d bytes where %d are left", len(content), file.Size-size)
		case crc32.Checksum(content, castagnoli) != chunk.GetCrc32C():
			return size, sum, fmt.Errorf("the bytes from offset %d on were changed on their way", size)
		default:
			if r.limiter != nil {
				if err := r.limiter.WaitN(ctx, min(len(content), r.limiter.Burst())); err != nil {
					return size, sum, err
				}
			}
			if n, err := out.Write(content); err != nil {
				return size + int64(n), sum, err
			}
			size += int64(len(content))
			sum = crc32.Update(sum, castagnoli, content)
			r.o.Meter.add(int64(len(content)))
		}
		silence.Reset(r.o.Silence)
	}
	return size, sum, nil
}

// broken says why a stream ended too early.
func (r *receiver) broken(ctx context.Context, err error, file checkpoint.File, size int64) error {
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the source has only %d of its %d bytes", size, file.Size)
	case ctx.Err() != nil:
		return fmt.Errorf("the source sent nothing for %v at offset %d", r.o.Silence, size)
	}
	return fmt.Errorf("broken off at offset %d: %s", size, status.Convert(err).Message())
}

// publish writes the manifest, verifies the image, and gives it its name.
func (r *receiver) publish() error {
	if err := writeFile(filepath.Join(r.o.Incoming, checkpoint.ManifestName), r.raw); err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	if err := errors.Join(os.MkdirAll(r.o.Images, 0o700), syncDir(r.o.Incoming)); err != nil {
		return err
	}
	if _, err := checkpoint.Verify(r.o.Incoming); err != nil {
		// Every file has its checksum: this image is no good wherever it comes from.
		return errors.Join(fmt.Errorf("the image that was fetched does not verify: %w", err), removeIncoming(r.o.Incoming))
	}
	final := imageDir(r.o.Images, r.manifest.LSN)
	if err := os.RemoveAll(final); err != nil { // no image, or one that is damaged: fetchFrom has looked
		return fmt.Errorf("remove what is no image: %w", err)
	}
	if err := os.Rename(r.o.Incoming, final); err != nil {
		return fmt.Errorf("give the image its name: %w", err)
	}
	return errors.Join(syncDir(r.o.Images), syncDir(filepath.Dir(r.o.Incoming)))
}

// writeFile writes a file durably.
func writeFile(path string, content []byte) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
