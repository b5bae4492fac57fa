package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
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
	// format 2 has Node, 3 has Folder.
	format = 3
	// maxManifest bounds a backup's manifest in bytes.
	maxManifest = 128 << 20
	// maxLabel bounds a label in bytes.
	maxLabel = 200
	// folderTime is how a folder's name has the second in which it was begun, in UTC.
	folderTime = "20060102T150405Z"
	// tidyTime bounds how long is tried to remove what a failure would leave behind.
	tidyTime = 10 * time.Second
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
	Node    string    `json:"node,omitempty"` // whose image it is; unknown of format 1
	Bytes   int64     `json:"bytes"`
	// Folder is where the files are, beside the manifest. Nobody else writes there: images of the same LSN have other files on each node. Of formats 1 and 2 it
	// is empty, and means the LSN.
	Folder string `json:"folder,omitempty"`
	Image  []byte `json:"image"` // image.json
	Check  uint32 `json:"check"`
}

// Head implements archive.Manifest.
func (b *Backup) Head() (int, *uint32) { return b.Format, &b.Check }

// Archive is the archive of one group.
type Archive struct {
	Store          archive.Store
	Cluster, Group string
	// Progress is told how far long work is: what it is, and how many of how many bytes are done. It is called by whoever does the work; nil: nobody
	// is told.
	Progress func(what string, done, total int64)
}

func (a Archive) progress(what string, done, total int64) {
	if a.Progress != nil {
		a.Progress(what, done, total)
	}
}

func (a Archive) folder() string { return archive.Folder(a.Cluster, a.Group) + "/images" }

func (a Archive) manifestName(lsn smr.LSN) string {
	return a.folder() + "/" + checkpoint.Name(lsn) + ".json"
}

// newFolder returns the name of a folder for the files of an image that nobody else has.
func newFolder(lsn smr.LSN, now time.Time) string {
	return fmt.Sprintf("%s-%s-%016x", checkpoint.Name(lsn), now.UTC().Format(folderTime), rand.Uint64()) // #nosec G404 -- drawn by the runtime, and no secret
}

// parseFolder reads the name of a folder that holds the files of an image. begun is zero of formats 1 and 2.
func parseFolder(name string) (lsn smr.LSN, begun time.Time, ok bool) {
	text, rest, own := strings.Cut(name, "-")
	lsn, ok = checkpoint.ParseName(text)
	if !ok || !own {
		return lsn, begun, ok
	}
	at, token, ok := strings.Cut(rest, "-")
	if begun, err := time.Parse(folderTime, at); ok && err == nil && len(token) == 16 && strings.Trim(token, "0123456789abcdef") == "" {
		return lsn, begun, true
	}
	return 0, time.Time{}, false
}

// place returns the name of the folder where the files are.
func (b *Backup) place() string {
	if b.Folder != "" {
		return b.Folder
	}
	return checkpoint.Name(b.LSN)
}

func (a Archive) fileName(b *Backup, file string) string {
	return a.folder() + "/" + b.place() + "/" + file
}

// Log returns the archived stream of the group.
func (a Archive) Log() *archive.Log { return archive.OpenLog(a.Store, a.Cluster, a.Group) }

// Source says what an image is that gets into the archive.
type Source struct {
	Dir   string // of the image
	Node  string // whose it is
	Label string // for people
	// Wait is told how many bytes were read and is called before they are written, if it is not nil: it may wait. Its error ends it.
	Wait func(ctx context.Context, bytes int) error
}

// Create brings an image into the archive.
func (a Archive) Create(ctx context.Context, from Source) (Backup, error) {
	dir, label := from.Dir, from.Label
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
	b := Backup{
		Format: format, Cluster: a.Cluster, Group: a.Group, LSN: manifest.LSN, Stamp: manifest.Stamp, Label: label, Node: from.Node,
		Bytes: manifest.Bytes, Folder: newFolder(manifest.LSN, time.Now()), Image: raw,
	}
	if err := a.putFiles(ctx, from, &b, manifest); err != nil {
		return b, fmt.Errorf("back up the image of LSN %d: %w", manifest.LSN, err)
	}
	b.Created = time.Now().UTC().Round(0)
	return b, archive.WriteManifest(ctx, a.Store, a.manifestName(b.LSN), &b) // if that fails nobody knows whether it is there: the files stay
}

// putFiles copies the files of an image into the archive, or leaves none there.
func (a Archive) putFiles(ctx context.Context, from Source, b *Backup, m *checkpoint.Manifest) (err error) {
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
		defer cancel()
		_ = a.empty(ctx, b.place()) // what stays Plan will find
	}()
	done := int64(0)
	for _, file := range m.Files {
		if err := a.putFile(ctx, from, b, file); err != nil {
			return err
		}
		done += file.Size
		a.progress("copying into the archive", done, m.Bytes)
	}
	return a.whole(ctx, b, m) // somebody may have taken a file of an image without a manifest for a leftover
}

// putFile copies a file into the archive, unless it is not what the image says.
func (a Archive) putFile(ctx context.Context, from Source, b *Backup, file checkpoint.File) error {
	in, err := os.Open(filepath.Join(from.Dir, file.Name))
	if err != nil {
		return err
	}
	defer in.Close()
	return a.Store.Put(ctx, a.fileName(b, file.Name), func(w io.Writer) error {
		return copyChecked(w, &waitingReader{in, ctx, from.Wait}, file)
	})
}

// waitingReader lets somebody say how fast is read, and ends with its context.
type waitingReader struct {
	io.Reader
	ctx  context.Context
	wait func(ctx context.Context, bytes int) error
}

// Read implements io.Reader.
func (r *waitingReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.Reader.Read(b)
	if n > 0 && r.wait != nil {
		if problem := r.wait(r.ctx, n); problem != nil {
			return n, problem
		}
	}
	return n, err
}

// whole reports what of an image is not in the archive, by name and size.
func (a Archive) whole(ctx context.Context, b *Backup, m *checkpoint.Manifest) error {
	objects, err := a.Store.List(ctx, a.folder()+"/"+b.place())
	if err != nil {
		return err
	}
	sizes := make(map[string]int64, len(objects))
	for _, object := range objects {
		sizes[object.Name] = object.Size
	}
	for _, file := range m.Files {
		if size, found := sizes[file.Name]; !found || size != file.Size {
			return fmt.Errorf("%w: file %s of the image of LSN %d is missing, or has %d bytes instead of %d", archive.ErrDamaged, file.Name, m.LSN, size, file.Size)
		}
	}
	return nil
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

// Get reads a backup's manifest, and that of its image. Errors: archive.ErrDamaged, fs.ErrNotExist.
func (a Archive) Get(ctx context.Context, lsn smr.LSN) (Backup, *checkpoint.Manifest, error) {
	name := a.manifestName(lsn)
	var b Backup
	switch err := archive.ReadManifest(ctx, a.Store, name, maxManifest, format, &b); {
	case errors.Is(err, fs.ErrNotExist):
		return Backup{}, nil, fmt.Errorf("there is no backup of LSN %d in the archive (`smrctl backup list` shows those that are): %w", lsn, fs.ErrNotExist)
	case err != nil:
		return Backup{}, nil, fmt.Errorf("backup of LSN %d: %w", lsn, err)
	}
	manifest, err := checkpoint.ParseManifest(b.Image)
	if err == nil {
		err = manifest.Of(a.Cluster, a.Group)
	}
	if err != nil {
		return b, nil, fmt.Errorf("%s: %w", name, err)
	}
	if place, _, ok := parseFolder(b.place()); b.LSN != lsn || manifest.LSN != lsn || place != lsn || !ok {
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
		lsn, ok := manifestOf(object.Name)
		if !ok {
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

// Newest returns the newest backup, nil if there is none, and how many there are.
func (a Archive) Newest(ctx context.Context) (newest *Backup, count int, err error) {
	objects, err := a.Store.List(ctx, a.folder())
	if err != nil {
		return nil, 0, err
	}
	last := smr.LSN(0)
	for _, object := range objects {
		if lsn, ok := manifestOf(object.Name); ok {
			last = max(last, lsn)
			count++
		}
	}
	if count == 0 {
		return nil, 0, nil
	}
	b, _, err := a.Get(ctx, last)
	return &b, count, err
}

// manifestOf returns the LSN of the backup whose manifest has that name.
func manifestOf(name string) (smr.LSN, bool) {
	text, isManifest := strings.CutSuffix(name, ".json")
	lsn, ok := checkpoint.ParseName(text)
	return lsn, isManifest && ok
}

// GapBehind returns what is missing of the archived log between an LSN and its end, nil if nothing is.
func (a Archive) GapBehind(ctx context.Context, lsn smr.LSN) (gap, err error) {
	w, err := a.walkFrom(ctx, lsn)
	if err != nil {
		return nil, err
	}
	return w.gap, nil
}

// Fetch brings a backup's image out of the archive into a directory that does not exist yet.
func (a Archive) Fetch(ctx context.Context, lsn smr.LSN, dir string) (*checkpoint.Manifest, error) {
	return a.fetch(ctx, lsn, dir, createFile)
}

func (a Archive) fetch(ctx context.Context, lsn smr.LSN, dir string, create func(string) (io.WriteCloser, error)) (*checkpoint.Manifest, error) {
	b, manifest, err := a.Get(ctx, lsn)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("fetch the backup of LSN %d: %w", lsn, err)
	}
	done := int64(0)
	for _, file := range manifest.Files {
		if err := a.getFile(ctx, &b, file, func() (io.WriteCloser, error) { return create(filepath.Join(dir, file.Name)) }); err != nil {
			return nil, fmt.Errorf("fetch the backup of LSN %d: %w", lsn, err)
		}
		done += file.Size
		a.progress("fetching the backup", done, manifest.Bytes)
	}
	if err := os.WriteFile(filepath.Join(dir, checkpoint.ManifestName), b.Image, 0o600); err != nil {
		return nil, fmt.Errorf("fetch the backup of LSN %d: %w", lsn, err)
	}
	return checkpoint.Verify(dir)
}

func (a Archive) getFile(ctx context.Context, b *Backup, file checkpoint.File, create func() (io.WriteCloser, error)) error {
	in, err := a.open(ctx, b, file)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := create()
	if err != nil {
		return err
	}
	return errors.Join(copyChecked(out, in, file), out.Close())
}

func (a Archive) open(ctx context.Context, b *Backup, file checkpoint.File) (io.ReadCloser, error) {
	in, err := a.Store.Open(ctx, a.fileName(b, file.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: file %s of the image is missing", archive.ErrDamaged, file.Name)
	}
	return in, err
}

// Delete removes a backup: its manifest first, so that it is never there in part.
func (a Archive) Delete(ctx context.Context, lsn smr.LSN) error {
	b, _, err := a.Get(ctx, lsn)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	places := []place{{name: b.place(), lsn: lsn}}
	if err != nil { // a damaged one goes too, with all that may be its
		if places, err = a.places(ctx); err != nil {
			return err
		}
	}
	err = a.Store.Remove(ctx, a.manifestName(lsn))
	for _, p := range places {
		if p.lsn == lsn {
			err = errors.Join(err, a.empty(ctx, p.name))
		}
	}
	return err
}

// place is a folder with the files of an image.
type place struct {
	name  string
	lsn   smr.LSN
	begun time.Time // zero of formats 1 and 2
}

// places lists the folders of images, whether a manifest names them or not.
func (a Archive) places(ctx context.Context) (places []place, err error) {
	objects, err := a.Store.List(ctx, a.folder())
	for _, object := range objects {
		name, isFolder := strings.CutSuffix(object.Name, "/")
		if lsn, begun, ok := parseFolder(name); ok && isFolder {
			places = append(places, place{name, lsn, begun})
		}
	}
	return places, err
}

// files lists what is in a folder of an image, by names in the store.
func (a Archive) files(ctx context.Context, place string) (names []string, err error) {
	folder := a.folder() + "/" + place
	objects, err := a.Store.List(ctx, folder)
	for _, object := range objects {
		names = append(names, folder+"/"+object.Name)
	}
	return names, err
}

// empty removes the files of a folder.
func (a Archive) empty(ctx context.Context, place string) error {
	names, err := a.files(ctx, place)
	for _, name := range names {
		err = errors.Join(err, a.Store.Remove(ctx, name))
	}
	return err
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
		in, err := a.open(ctx, &b, file)
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

// end is where the log that can be walked ends, 0 if there is none.
func (w *logWalk) end() (end smr.LSN) {
	for _, span := range w.chain {
		end = max(end, span.End)
	}
	return end
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
			if f.End() <= at { // ranges may overlap, and the first may begin before the image
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
