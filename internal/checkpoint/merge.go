package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"lockstep/internal/kv"
)

const (
	// earlyBytes is how much that was taken out of turn is gathered, in bytes, until it is brought into the store, where memory has no bound.
	earlyBytes = 8 << 20
	// hurryBytes of rows that were taken out of turn within one slice say that they come faster than they are written: there are no rests
	// then, so that they do not fill the memory.
	hurryBytes = 4 << 20
	// batchBytes is how much is brought into the store at once. pebble keeps the memory of batches of up to 1 MiB for the next one.
	batchBytes = 256 << 10
	// spaceEvery is how many bytes are written between two looks at the room on the disk.
	spaceEvery = 8 << 20
)

// merge is what a store knows of the image whose rows are brought into it.
type merge struct {
	full bool // all rows come: it began with none
	// first: nothing was brought yet.
	first    bool
	gathered kv.ImageRows // were taken out of turn, and are not yet in the store
	hash     hasher
	before   before // reads what the store held before the image
	// unsettled: something was written that before does not see.
	unsettled bool
	batch     *pebble.Batch
	written   int64 // bytes applied since the room on the disk was looked at
	// released are the large objects that a key mentions no more, used those that one mentions, of this image.
	released, used map[uint64]struct{}
	cold           *coldRows // of which values come whose keys alone are in memory; nil: there are none
	pace           pace
}

// begin prepares for the rows of an image upon the one before, whose rows the store holds; nil: of a full one. cold has the values that are not in memory.
func (s *store) begin(before *Manifest, cold *coldRows) error {
	if before == nil {
		if err := s.openEmpty(); err != nil {
			return err
		}
	}
	s.merge = merge{full: before == nil, cold: cold, pace: s.newPace(), first: true, released: make(map[uint64]struct{}), used: make(map[uint64]struct{})}
	return nil
}

// bring brings rows of the image into the store, or what comes of them: those that were taken out of turn, and those behind them. last: there are no more. What
// is given may be used again when it returns.
func (s *store) bring(ctx context.Context, early, ordered *kv.ImageRows, last bool) error {
	s.gathered.Append(early)
	s.pace.hurried = s.options.Hurried || early.Len() >= hurryBytes
	if s.first || last || int64(s.gathered.Len()) >= s.within(earlyBytes) {
		if err := s.bringEarly(ctx); err != nil {
			return err
		}
	}
	s.first = false
	err := ordered.Each(func(op kv.RowOp, key, value []byte) error {
		if op == kv.RowDeleteRange || op == kv.RowCheck || op == kv.RowCheckFront { // they are about what came before
			if err := s.bringEarly(ctx); err != nil {
				return err
			}
		}
		return s.apply(op, key, value)
	})
	if err == nil {
		err = s.commit(ctx, last)
	}
	if err == nil && last {
		err = errors.Join(s.removeReleased(), s.before.close())
	}
	s.pace.rest(ctx)
	return err
}

// bringEarly brings what was gathered into the store, in the order of the keys: they come from everywhere, and looked for one by one each would read a block
// of it.
func (s *store) bringEarly(ctx context.Context) error {
	err := s.gathered.EachByKey(func(op kv.RowOp, key, value []byte) error {
		s.pace.rest(ctx)
		return errors.Join(s.apply(op, key, value), s.commit(ctx, false))
	})
	s.gathered.Reset()
	return err
}

// apply brings one change into the store.
func (s *store) apply(op kv.RowOp, key, value []byte) error {
	if s.batch == nil {
		s.batch = s.db.NewBatch()
	}
	s.unsettled = s.unsettled || op != kv.RowCheck && op != kv.RowCheckFront
	switch op {
	case kv.RowPut:
		if !s.full {
			if err := s.forget(key); err != nil {
				return err
			}
		}
		if object, ok := kv.RowObject(key, value); ok {
			s.used[object] = struct{}{}
		}
		s.digest.add(s.hash.of(key, value))
		s.rows++
		return s.batch.Set(key, value, nil)
	case kv.RowFront:
		return s.applyFront(key, value)
	case kv.RowDelete:
		if err := s.forget(key); err != nil {
			return err
		}
		return s.batch.Delete(key, nil)
	case kv.RowDeleteRange:
		return s.removeRange(key, value)
	case kv.RowCheck, kv.RowCheckFront: // of a row that this image may have written
		if err := s.settle(); err != nil {
			return err
		}
		held, found, err := s.before.find(s.db, key)
		if err != nil {
			return fmt.Errorf("compare the row %x of an earlier image: %w", key, err)
		}
		if op == kv.RowCheckFront && found {
			if value, err = kv.JoinRow(nil, value, held); err != nil {
				return fmt.Errorf("compare the row %x of an earlier image: %w", key, err)
			}
		}
		if !found || !bytes.Equal(held, value) {
			return fmt.Errorf("the row %x of an earlier image is not what the state has, though nothing changed it: a bug, please report it", key)
		}
		return nil
	}
	return fmt.Errorf("a row of an image comes with the unknown operation %d", op)
}

// settle makes held see all that was written.
func (s *store) settle() error {
	if !s.unsettled {
		return nil
	}
	s.unsettled = false
	return errors.Join(s.commit(context.Background(), true), s.before.close())
}

// forget takes a row out of the digest, if it is there.
func (s *store) forget(key []byte) error {
	held, found, err := s.before.find(s.db, key)
	if found && err == nil {
		s.drop(key, held)
	}
	return err
}

// drop takes a row that is there out of the digest.
func (s *store) drop(key, held []byte) {
	s.digest.remove(s.hash.of(key, held))
	s.rows--
	if object, ok := kv.RowObject(key, held); ok {
		s.released[object] = struct{}{}
	}
}

func (s *store) removeRange(from, end []byte) error {
	// What was applied before may lie in the range.
	if err := s.commit(context.Background(), true); err != nil {
		return err
	}
	err := eachRow(s.db, from, end, func(key, value []byte) error {
		s.drop(key, value)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the store of images: %w", err)
	}
	if err := s.before.close(); err != nil { // what it would find in the range is gone
		return err
	}
	if s.batch == nil {
		s.batch = s.db.NewBatch()
	}
	return s.batch.DeleteRange(from, end, nil)
}

// removeReleased removes the parts of large objects that no key holds any more. (One that was renamed is held by another key.)
func (s *store) removeReleased() error {
	gone := make([]uint64, 0, len(s.released))
	for object := range s.released {
		if _, held := s.used[object]; !held {
			gone = append(gone, object)
		}
	}
	slices.Sort(gone)
	for _, object := range gone {
		from, end := kv.ObjectRows(object)
		if err := s.removeRange(from, end); err != nil {
			return err
		}
	}
	return s.commit(context.Background(), true)
}

// commit brings the batch into the store when it is large enough, or at any rate.
func (s *store) commit(ctx context.Context, whole bool) error {
	if s.batch == nil || s.batch.Len() < batchBytes && !whole {
		return ctx.Err()
	}
	size := int64(s.batch.Len())
	if s.written += size; s.written >= spaceEvery {
		if err := s.room(size); err != nil {
			return err
		}
		s.written = 0
	}
	batch := s.batch
	s.batch = nil
	defer batch.Close()
	if err := batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write the store of images: %w", err)
	}
	select {
	case <-s.broken.done:
		return s.broken.err
	default:
		return ctx.Err()
	}
}

// room reports ErrNoSpace if the disk would not hold so many bytes more than the reserve.
func (s *store) room(bytes int64) error {
	usage, err := s.fs.GetDiskUsage(s.options.Dir)
	if err != nil || usage.AvailBytes >= uint64(bytes)+reserve {
		return nil // a file system that does not tell answers when it is full
	}
	return fmt.Errorf("%w: %s has %d MiB left, %d MiB are kept free. Make room; images are tried again", ErrNoSpace, s.options.Dir,
		usage.AvailBytes>>20, reserve>>20)
}
