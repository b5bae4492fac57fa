package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
)

// Manifest is a pointer to what describes an object: it is stored as JSON, with a checksum of itself.
type Manifest interface {
	// Head returns the format that the manifest has, and where its checksum is.
	Head() (format int, check *uint32)
}

// WriteManifest stores a manifest, durably on return. It sets the checksum: the CRC32C of the JSON in which that field is 0.
func WriteManifest(ctx context.Context, store Store, name string, m Manifest) error {
	encoded, err := seal(m)
	if err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	return putBytes(ctx, store, name, encoded)
}

// ReadManifest fills m with a manifest of at most limit bytes, whose format is at most newest. Errors: ErrDamaged, fs.ErrNotExist.
func ReadManifest(ctx context.Context, store Store, name string, limit int64, newest int, m Manifest) error {
	raw, err := readObject(ctx, store, name, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, m); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	format, check := m.Head()
	if format > newest {
		return fmt.Errorf("%s has format %d and this program knows %d: use a newer one", name, format, newest)
	}
	found := *check
	again, err := seal(m)
	*check = found
	if err != nil || !bytes.Equal(again, raw) {
		return fmt.Errorf("%w: %s does not match its own checksum", ErrDamaged, name)
	}
	return nil
}

// seal sets the checksum of a manifest and returns its bytes, JSON and a newline.
func seal(m Manifest) ([]byte, error) {
	_, check := m.Head()
	*check = 0
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a manifest: %w", err)
	}
	*check = crc32.Checksum(plain, castagnoli)
	encoded, err := json.Marshal(m)
	return append(encoded, '\n'), err
}
