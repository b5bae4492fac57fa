package checkpoint

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// verifyBuffer is the size of one read while a file is verified, in bytes.
const verifyBuffer = 256 << 10

// Verify checks an image: image.json, and every file that it names against size and checksum. It returns the manifest; an error
// wraps ErrNoImage, ErrDamaged or ErrNewer, or is the file system's. It reads all of the image once.
func Verify(dir string) (*Manifest, error) { return verify(vfs.Default, dir) }

func verify(fs vfs.FS, dir string) (*Manifest, error) {
	m, err := readManifest(fs, dir)
	if err != nil {
		return nil, err
	}
	for _, f := range m.Files {
		if err := verifyFile(fs, dir, f); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// VerifyFile checks one file of an image in dir. The error is as that of Verify.
func VerifyFile(dir string, f File) error { return verifyFile(vfs.Default, dir, f) }

func verifyFile(fs vfs.FS, dir string, f File) error {
	size, sum, err := checksum(fs, fs.PathJoin(dir, f.Name))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("verify image %s: %w: %s is missing", dir, ErrDamaged, f.Name)
	case err != nil:
		return fmt.Errorf("verify image %s: %w", dir, err)
	case size != f.Size:
		return fmt.Errorf("verify image %s: %w: %s has %d bytes instead of %d", dir, ErrDamaged, f.Name, size, f.Size)
	case sum != f.CRC32C:
		return fmt.Errorf("verify image %s: %w: %s has checksum %08x instead of %08x", dir, ErrDamaged, f.Name, sum, f.CRC32C)
	}
	return nil
}

// checksum returns the size and the CRC32C of a file.
func checksum(fs vfs.FS, path string) (size int64, sum uint32, err error) {
	f, err := fs.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	hash := crc32.New(castagnoli)
	size, err = io.CopyBuffer(hash, struct{ io.Reader }{f}, make([]byte, verifyBuffer))
	return size, hash.Sum32(), err
}
