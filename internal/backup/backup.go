package backup

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lockstep/internal/archive"
	"lockstep/internal/checkpoint"
	"lockstep/smr"
)

const (
	format = 1
	// maxManifest bounds a backup's manifest in bytes.
	maxManifest = 128 << 20
	// maxLabel bounds a label in bytes.
	maxLabel = 200
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Backup describes an image in an archive.
type Backup struct {
	Format  int       `json:"format"`
	Cluster string    `json:"cluster"`
	Group   string    `json:"group"`
	LSN     smr.LSN   `json:"lsn"`
	Stamp   int64     `json:"stamp"` // log time at LSN, Unix milliseconds
	Created time.Time `json:"created"`
	Label   string    `json:"label,omitempty"`
	Bytes   int64     `json:"bytes"`
	Image   []byte    `json:"image"` // image.json
	Check   uint32    `json:"check"`
}

// Archive is the archive of one group.
type Archive struct {
	Store          archive.Store
	Cluster, Group string
}

func (a Archive) folder() string { return archive.Folder(a.Cluster, a.Group) + "/images" }

func (a Archive) manifestName(lsn smr.LSN) string {
	return a.folder() + "/" + checkpoint.Name(lsn) + ".json"
}

func (a Archive) fileName(lsn smr.LSN, file string) string {
	return a.folder() + "/" + checkpoint.Name(lsn) + "/" + file
}

// Log returns the archived stream of the group.
func (a Archive) Log() *archive.Log { return archive.OpenLog(a.Store, a.Cluster, a.Group) }

// Create brings the image in dir into the archive. label is for people.
func (a Archive) Create(ctx context.Context, dir, label string) (Backup, error) {
	if len(label) > maxLabel {
		return Backup{}, fmt.Errorf("a label of %d bytes: use at most %d", len(label), maxLabel)
	}
	manifest, err := checkpoint.ReadManifest(dir)
	if err == nil {
		err = manifest.Of(a.Cluster, a.Group)
	}
	if err != nil {
		return Backup{}, fmt.Errorf("back up: %w", err)
	}
	if len(manifest.Base) == 0 {
		return Backup{}, fmt.Errorf("back up the image of LSN %d: it has no base for a log, so that nothing could be restored from it: take another image", manifest.LSN)
	}
	raw, err := os.ReadFile(filepath.Join(dir, checkpoint.ManifestName))
	if err != nil {
		return Backup{}, fmt.Errorf("back up: %w", err)
	}
	for _, file := range manifest.Files {
		if err := a.putFile(ctx, dir, manifest.LSN, file); err != nil {
			return Backup{}, fmt.Errorf("back up the image of LSN %d: %w", manifest.LSN, err)
		}
	}
	b := Backup{
		Format: format, Cluster: a.Cluster, Group: a.Group, LSN: manifest.LSN, Stamp: manifest.Stamp, Created: time.Now().UTC().Round(0), Label: label,
		Bytes: manifest.Bytes, Image: raw,
	}
	encoded, err := b.seal()
	if err != nil {
		return b, err
	}
	return b, a.Store.Put(ctx, a.manifestName(b.LSN), func(w io.Writer) error {
		_, err := w.Write(encoded)
		return err
	})
}

// putFile copies a file into the archive, unless it is not what the image says.
func (a Archive) putFile(ctx context.Context, dir string, lsn smr.LSN, file checkpoint.File) error {
	in, err := os.Open(filepath.Join(dir, file.Name))
	if err != nil {
		return err
	}
	defer in.Close()
	return a.Store.Put(ctx, a.fileName(lsn, file.Name), func(w io.Writer) error { return copyChecked(w, in, file) })
}

// copyChecked copies what has to be the content of file.
func copyChecked(w io.Writer, r io.Reader, file checkpoint.File) error {
	sum := crc32.New(castagnoli)
	n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(r, file.Size+1))
	switch {
	case err != nil:
		return err
	case n != file.Size || sum.Sum32() != file.CRC32C:
		return fmt.Errorf("%w: file %s has %d bytes with checksum %08x instead of %d with %08x", archive.ErrDamaged, file.Name, n, sum.Sum32(), file.Size, file.CRC32C)
	}
	return nil
}

// seal sets Check and returns the manifest's bytes.
func (b *Backup) seal() ([]byte, error) { return archive.Seal("backup", b, &b.Check) }

// Get reads a backup's manifest, and that of its image. Errors: archive.ErrDamaged, fs.ErrNotExist.
func (a Archive) Get(ctx context.Context, lsn smr.LSN) (Backup, *checkpoint.Manifest, error) {
	name := a.manifestName(lsn)
	in, err := a.Store.Open(ctx, name)
	if err != nil {
		return Backup{}, nil, fmt.Errorf("backup of LSN %d: %w", lsn, err)
	}
	defer in.Close()
	raw, err := io.ReadAll(io.LimitReader(in, maxManifest))
	if err != nil {
		return Backup{}, nil, fmt.Errorf("read %s: %w", name, err)
	}
	var b Backup
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, nil, fmt.Errorf("%w: %s: %w", archive.ErrDamaged, name, err)
	}
	if b.Format > format {
		return b, nil, fmt.Errorf("%s has format %d and this program knows %d: use a newer one", name, b.Format, format)
	}
	sealed := b
	if again, err := sealed.seal(); err != nil || !bytes.Equal(again, raw) {
		return b, nil, fmt.Errorf("%w: %s does not match its own checksum", archive.ErrDamaged, name)
	}
	manifest, err := checkpoint.ParseManifest(b.Image)
	if err == nil {
		err = manifest.Of(a.Cluster, a.Group)
	}
	if err != nil {
		return b, nil, fmt.Errorf("%s: %w", name, err)
	}
	if b.LSN != lsn || manifest.LSN != lsn {
		return b, nil, fmt.Errorf("%w: %s describes LSN %d", archive.ErrDamaged, name, manifest.LSN)
	}
	return b, manifest, nil
}

// List returns the backups, oldest first, and what is wrong with those that cannot be read.
func (a Archive) List(ctx context.Context) (list []Backup, problems []error, err error) {
	objects, err := a.Store.List(ctx, a.folder())
	if err != nil {
		return nil, nil, err
	}
	for _, object := range objects {
		text, isManifest := strings.CutSuffix(object.Name, ".json")
		lsn, ok := checkpoint.ParseName(text)
		if !isManifest || !ok {
			continue
		}
		b, _, err := a.Get(ctx, lsn)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b Backup) int { return cmp.Compare(a.LSN, b.LSN) })
	return list, problems, nil
}

// Fetch brings a backup's image out of the archive into a directory that does not exist yet.
func (a Archive) Fetch(ctx context.Context, lsn smr.LSN, dir string) (*checkpoint.Manifest, error) {
	b, manifest, err := a.Get(ctx, lsn)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("fetch the backup of LSN %d: %w", lsn, err)
	}
	for _, file := range manifest.Files {
		if err := a.getFile(ctx, dir, lsn, file); err != nil {
			return nil, fmt.Errorf("fetch the backup of LSN %d: %w", lsn, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, checkpoint.ManifestName), b.Image, 0o644); err != nil {
		return nil, fmt.Errorf("fetch the backup of LSN %d: %w", lsn, err)
	}
	return checkpoint.Verify(dir)
}

func (a Archive) getFile(ctx context.Context, dir string, lsn smr.LSN, file checkpoint.File) error {
	in, err := a.open(ctx, lsn, file)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(dir, file.Name))
	if err != nil {
		return err
	}
	return errors.Join(copyChecked(out, in, file), out.Close())
}

func (a Archive) open(ctx context.Context, lsn smr.LSN, file checkpoint.File) (io.ReadCloser, error) {
	in, err := a.Store.Open(ctx, a.fileName(lsn, file.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: file %s of the image is missing", archive.ErrDamaged, file.Name)
	}
	return in, err
}

// Delete removes a backup: its manifest first, so that it is never there in part.
func (a Archive) Delete(ctx context.Context, lsn smr.LSN) error {
	if _, _, err := a.Get(ctx, lsn); errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := a.Store.Remove(ctx, a.manifestName(lsn)) // a damaged one goes too
	folder := a.folder() + "/" + checkpoint.Name(lsn)
	objects, listErr := a.Store.List(ctx, folder)
	err = errors.Join(err, listErr)
	for _, object := range objects {
		err = errors.Join(err, a.Store.Remove(ctx, folder+"/"+object.Name))
	}
	return err
}

// DropLog removes the archived log that no backup needs: what ends at or below the oldest of them. It returns how many ranges it removed.
// Without a backup it removes nothing.
func (a Archive) DropLog(ctx context.Context) (removed int, err error) {
	list, problems, err := a.List(ctx)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	if len(problems) > 0 {
		return 0, fmt.Errorf("nothing of the archived log was removed, because backups cannot be read: %w", errors.Join(problems...))
	}
	l := a.Log()
	spans, err := l.Spans(ctx)
	for _, span := range spans {
		if span.End > list[0].LSN {
			continue
		}
		if err := l.Remove(ctx, span); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, err
}

// Verified is what Verify found.
type Verified struct {
	Backup Backup
	Files  int
	// LogEnd is up to where the archived log follows the image without a gap; LogStamp the time of its last frame, Unix
	// milliseconds: the latest that can be restored.
	LogEnd   smr.LSN
	LogStamp int64
	Ranges   int
	Frames   int
	// Gap says why the log ends there although there is more of it; nil if there is not.
	Gap error
}

// Verify reads everything of a backup, and the archived log behind it.
func (a Archive) Verify(ctx context.Context, lsn smr.LSN) (Verified, error) {
	b, manifest, err := a.Get(ctx, lsn)
	if err != nil {
		return Verified{}, err
	}
	v := Verified{Backup: b, LogEnd: lsn, LogStamp: b.Stamp}
	for _, file := range manifest.Files {
		in, err := a.open(ctx, lsn, file)
		if err != nil {
			return v, fmt.Errorf("backup of LSN %d: %w", lsn, err)
		}
		err = errors.Join(copyChecked(io.Discard, in, file), in.Close())
		if err != nil {
			return v, fmt.Errorf("backup of LSN %d: %w", lsn, err)
		}
		v.Files++
	}
	w, err := a.walkFrom(ctx, lsn)
	if err != nil {
		return v, err
	}
	v.Gap = w.gap
	err = w.each(ctx, func(f smr.Frame, _ []byte) error {
		v.Frames++
		v.LogEnd, v.LogStamp = f.End(), f.Stamp
		return nil
	})
	v.Ranges = len(w.chain)
	return v, err
}

// logWalk is the archived log from an LSN on, as far as it goes without a gap.
type logWalk struct {
	log   *archive.Log
	from  smr.LSN
	chain []archive.Span
	gap   error // there is more behind a gap
}

func (a Archive) walkFrom(ctx context.Context, from smr.LSN) (*logWalk, error) {
	w := &logWalk{log: a.Log(), from: from}
	spans, err := w.log.Spans(ctx)
	if err != nil {
		return nil, err
	}
	last := from
	for _, s := range spans {
		last = max(last, s.End)
	}
	w.chain, w.gap = archive.Chain(spans, from, last)
	return w, nil
}

// each visits every frame from w.from on, checked. raw is its encoding. An error of visit ends it.
func (w *logWalk) each(ctx context.Context, visit func(f smr.Frame, raw []byte) error) error {
	at := w.from
	for _, span := range w.chain {
		_, content, err := w.log.Read(ctx, span)
		if err != nil {
			return err
		}
		for lsn := span.From; len(content) > 0; {
			f, err := smr.DecodeFrame(content, lsn)
			if err != nil {
				return fmt.Errorf("%w: the frame at %d: %w", archive.ErrDamaged, lsn, err)
			}
			raw := content[:f.Size()]
			content, lsn = content[f.Size():], f.End()
			if f.LSN < at { // ranges may overlap, and the first may begin before the image
				continue
			}
			if f.LSN != at {
				return fmt.Errorf("%w: no frame begins at %d", archive.ErrDamaged, at)
			}
			at = f.End()
			if err := visit(f, raw); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}
