package checkpoint

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// digestDigits is the length of a digest in image.json.
const digestDigits = 32

// Digest is that of a set of rows: see the package comment. The zero value is that of no row.
type Digest struct{ first, second uint64 }

// add puts a row into the set.
func (d *Digest) add(row Digest) { d.first, d.second = d.first+row.first, d.second+row.second }

// remove takes a row out of the set.
func (d *Digest) remove(row Digest) { d.first, d.second = d.first-row.first, d.second-row.second }

func (d Digest) String() string { return fmt.Sprintf("%016x%016x", d.first, d.second) }

// parseDigest reads what String returns.
func parseDigest(text string) (d Digest, err error) {
	if len(text) == digestDigits {
		if d.first, err = strconv.ParseUint(text[:digestDigits/2], 16, 64); err == nil {
			d.second, err = strconv.ParseUint(text[digestDigits/2:], 16, 64)
		}
		if err == nil {
			return d, nil
		}
	}
	return Digest{}, fmt.Errorf("%w: %q is no digest", ErrDamaged, text)
}

// hasher computes the digests of rows; it keeps its memory.
type hasher struct {
	second *xxhash.Digest
	row    []byte
}

func (h *hasher) of(key, value []byte) Digest {
	if h.second == nil {
		h.second = xxhash.NewWithSeed(1)
	}
	h.row = append(append(binary.AppendUvarint(h.row[:0], uint64(len(key))), key...), value...)
	h.second.ResetWithSeed(1)
	_, _ = h.second.Write(h.row) // never fails
	return Digest{xxhash.Sum64(h.row), h.second.Sum64()}
}
