package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstep/smr"
)

const (
	// Format is the number of the format that this version writes, and the highest that it reads.
	Format = 1
	// ManifestName is the name of the file that makes a directory an image.
	ManifestName = "image.json"
	// maxManifest bounds the size of that file, in bytes.
	maxManifest = 64 << 20
)

// What can be wrong with an image. Errors of this package wrap one of them.
var (
	// ErrNoImage: the directory has no image.json. It is not damaged; it never was an image.
	ErrNoImage = errors.New("no image")
	// ErrDamaged: torn or changed since it was written.
	ErrDamaged = errors.New("damaged image")
	// ErrForeign: of another cluster or group.
	ErrForeign = errors.New("image of another cluster or group")
	// ErrNewer: written by a newer version.
	ErrNewer = errors.New("image of a newer version")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// File describes one file of an image.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	CRC32C uint32 `json:"crc32c"`
}

// Manifest describes an image. Its fields are explained in the package comment.
type Manifest struct {
	Format  int       `json:"format"`
	Cluster string    `json:"cluster"`
	Group   string    `json:"group"`
	LSN     smr.LSN   `json:"lsn"`
	Stamp   int64     `json:"stamp"`
	Created time.Time `json:"created"`
	Base    []byte    `json:"base,omitempty"`
	Digest  string    `json:"digest"`
	Keys    int64     `json:"keys"`
	Rows    int64     `json:"rows"`
	Bytes   int64     `json:"bytes"`
	Written int64     `json:"written"`
	Overlay int64     `json:"overlay"`
	Files   []File    `json:"files"`
	Check   uint32    `json:"check"`
}

// Name returns the name of the directory of an image.
func Name(lsn smr.LSN) string { return fmt.Sprintf("%020d", uint64(lsn)) }

// ParseName returns the LSN that the name of an image's directory says; false if it is no such name.
func ParseName(name string) (smr.LSN, bool) {
	if len(name) != 20 {
		return 0, false
	}
	lsn := uint64(0)
	for _, digit := range []byte(name) {
		if digit < '0' || digit > '9' || lsn > (1<<64-1-uint64(digit-'0'))/10 {
			return 0, false
		}
		lsn = 10*lsn + uint64(digit-'0')
	}
	return smr.LSN(lsn), true
}

// Encode returns the content of image.json, Check included.
func (m *Manifest) Encode() ([]byte, error) {
	sealed := *m
	sealed.Check = 0
	sealed.Created = sealed.Created.UTC().Round(0)
	plain, err := json.Marshal(&sealed)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", ManifestName, err)
	}
	sealed.Check = crc32.Checksum(plain, castagnoli)
	encoded, err := json.Marshal(&sealed)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", ManifestName, err)
	}
	return append(encoded, '\n'), nil
}

// ParseManifest reads the content of an image.json and checks it. An error wraps ErrDamaged or ErrNewer.
func ParseManifest(encoded []byte) (*Manifest, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(encoded, &version); err != nil {
		return nil, fmt.Errorf("%w: %s is not JSON: %v", ErrDamaged, ManifestName, err)
	}
	if version.Format > Format {
		return nil, fmt.Errorf("%w: format %d, this version reads up to %d. Use a version at least as new as the one that wrote it",
			ErrNewer, version.Format, Format)
	}
	var m Manifest
	if err := json.Unmarshal(encoded, &m); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, ManifestName, err)
	}
	again, err := m.Encode()
	if err != nil || string(again) != string(encoded) {
		return nil, fmt.Errorf("%w: %s does not match its own checksum", ErrDamaged, ManifestName)
	}
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, ManifestName, err)
	}
	return &m, nil
}

// validate checks what the rest of the program relies on.
func (m *Manifest) validate() error {
	switch {
	case m.Format < 1:
		return fmt.Errorf("format %d", m.Format)
	case len(m.Digest) != digestDigits:
		return fmt.Errorf("digest %q has not %d digits", m.Digest, digestDigits)
	case m.Keys < 0, m.Rows < 0, m.Bytes < 0, m.Written < 0, m.Written > m.Bytes, m.Overlay < 0:
		return errors.New("a count is out of range")
	case !slices.IsSortedFunc(m.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) }):
		return errors.New("files are not sorted")
	}
	total := int64(0)
	for i, f := range m.Files {
		switch {
		case f.Name == "" || f.Name == ManifestName || f.Name != filepath.Base(f.Name) || strings.HasPrefix(f.Name, "."):
			return fmt.Errorf("file name %q", f.Name)
		case i > 0 && f.Name == m.Files[i-1].Name:
			return fmt.Errorf("file %q twice", f.Name)
		case f.Size < 0 || total+f.Size < total:
			return fmt.Errorf("file %q of %d bytes", f.Name, f.Size)
		}
		total += f.Size
	}
	if total != m.Bytes {
		return fmt.Errorf("files of %d bytes, not %d", total, m.Bytes)
	}
	return nil
}

// Of returns an error that wraps ErrForeign unless the image belongs to a cluster and group.
func (m *Manifest) Of(cluster, group string) error {
	if m.Cluster != cluster || m.Group != group {
		return fmt.Errorf("%w: it is of cluster %q, group %q; this node is of cluster %q, group %q. Give this node its own data directory",
			ErrForeign, m.Cluster, m.Group, cluster, group)
	}
	return nil
}

// ReadManifest reads the image.json of a directory and checks it. An error wraps ErrNoImage, ErrDamaged or ErrNewer, or is the
// file system's. It does not look at the other files: see Verify.
func ReadManifest(dir string) (*Manifest, error) { return readManifest(vfs.Default, dir) }

func readManifest(fs vfs.FS, dir string) (*Manifest, error) {
	path := fs.PathJoin(dir, ManifestName)
	info, err := fs.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("read image %s: %w: there is no %s", dir, ErrNoImage, ManifestName)
	case err != nil:
		return nil, fmt.Errorf("read image: %w", err)
	case info.Size() > maxManifest:
		return nil, fmt.Errorf("read image %s: %w: %s has %d bytes", dir, ErrDamaged, ManifestName, info.Size())
	}
	encoded, err := readFile(fs, path)
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	m, err := ParseManifest(encoded)
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", dir, err)
	}
	if lsn, ok := ParseName(fs.PathBase(dir)); ok && lsn != m.LSN {
		return nil, fmt.Errorf("read image %s: %w: it says LSN %d", dir, ErrDamaged, m.LSN)
	}
	return m, nil
}

// Image is a directory with the name of an image.
type Image struct {
	Dir      string
	LSN      smr.LSN // as its name says
	Manifest *Manifest
	Err      error // why Manifest is nil
}

// List returns the images of a directory, the newest first, those that cannot be read with the reason. A directory that does not
// exist has none.
func List(images string) ([]Image, error) { return list(vfs.Default, images) }

func list(fs vfs.FS, images string) ([]Image, error) {
	entries, err := fs.List(images)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list images: %w", err)
	}
	slices.Sort(entries)
	slices.Reverse(entries) // names have the same length
	var found []Image
	for _, name := range entries {
		lsn, ok := ParseName(name)
		if !ok {
			continue
		}
		image := Image{Dir: fs.PathJoin(images, name), LSN: lsn}
		image.Manifest, image.Err = readManifest(fs, image.Dir)
		found = append(found, image)
	}
	return found, nil
}

func readFile(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
