package checkpoint

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// before reads what the store held when the rows of an image began to be written. Most of them come in the order of their keys: looked
// for in that order, with an iterator, each block of the store is read once, where a search for each row would read one for each.
type before struct {
	spaces map[byte]*pebble.Iterator // by the first byte of a key: rows of keys and of their objects come in turns
}

// find returns what the store held under a key; it is valid until the next call. What was written since the last close it may
// see or not.
func (b *before) find(db *pebble.DB, key []byte) (value []byte, found bool, err error) {
	it := b.spaces[key[0]]
	if it == nil {
		options := &pebble.IterOptions{LowerBound: []byte{key[0]}, UpperBound: []byte{key[0] + 1}}
		if it, err = db.NewIter(options); err != nil {
			return nil, false, fmt.Errorf("read the store of images: %w", err)
		}
		if b.spaces == nil {
			b.spaces = make(map[byte]*pebble.Iterator)
		}
		b.spaces[key[0]] = it
	}
	if it.SeekGE(key); it.Valid() && string(it.Key()) == string(key) {
		value, err = it.ValueAndErr()
		found = true
	}
	if err = errors.Join(err, it.Error()); err != nil {
		return nil, false, fmt.Errorf("read the store of images: %w", err)
	}
	return value, found, nil
}

// close forgets what was read. The next find sees what was written until then.
func (b *before) close() (err error) {
	for space, it := range b.spaces {
		err = errors.Join(err, it.Close())
		delete(b.spaces, space)
	}
	if err != nil {
		return fmt.Errorf("read the store of images: %w", err)
	}
	return nil
}
