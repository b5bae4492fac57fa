package checkpoint

import (
	"errors"
	"sync"

	"lockstep/internal/place"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// aheadBytes is about how much of an image one batch holds, aheadBatches how many batches there are.
	aheadBytes   = 256 << 10
	aheadBatches = 4
)

// rowBatch is some rows that follow each other.
type rowBatch struct {
	bytes  []byte
	ends   []int  // of key and value in turns
	digest Digest // of these rows
}

func (b *rowBatch) rows() int { return len(b.ends) / 2 }

// row returns a row; it is valid as long as the batch.
func (b *rowBatch) row(i int) (key, value []byte) {
	begin := 0
	if i > 0 {
		begin = b.ends[2*i-1]
	}
	return b.bytes[begin:b.ends[2*i]], b.bytes[b.ends[2*i]:b.ends[2*i+1]]
}

func (b *rowBatch) add(key, value []byte) {
	b.bytes = append(b.bytes, key...)
	b.ends = append(b.ends, len(b.bytes))
	b.bytes = append(b.bytes, value...)
	b.ends = append(b.ends, len(b.bytes))
}

func (b *rowBatch) reset() { b.bytes, b.ends, b.digest = b.bytes[:0], b.ends[:0], Digest{} }

var errGivenUp = errors.New("given up")

// readAhead gives visit all rows of a store in the order of their keys, in batches that are valid during the call, until visit returns an
// error. They are read and hashed by a goroutine that has ended when readAhead returns, on any processor (place.Roam).
func readAhead(db *pebble.DB, visit func(b *rowBatch) error) error {
	read, free, stop := make(chan *rowBatch, aheadBatches), make(chan *rowBatch, aheadBatches), make(chan struct{})
	for range aheadBatches {
		free <- &rowBatch{}
	}
	var readErr error // read when the channel is closed
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(read)
		defer place.Roam()()
		readErr = readBatches(db, read, free, stop)
	})
	var err error
	for b := range read {
		if err = visit(b); err != nil {
			break
		}
		b.reset()
		free <- b // there is room for all of them
	}
	close(stop)
	reader.Wait()
	if err != nil {
		return err
	}
	return readErr
}

// readBatches fills batches until there are no more rows or stop is closed.
func readBatches(db *pebble.DB, read chan<- *rowBatch, free <-chan *rowBatch, stop <-chan struct{}) error {
	var hash hasher
	var b *rowBatch
	next := func() error {
		select {
		case b = <-free:
			return nil
		case <-stop:
			return errGivenUp
		}
	}
	err := eachRow(db, nil, nil, func(key, value []byte) error {
		if b != nil && len(b.bytes) >= aheadBytes {
			read <- b // there is room for all of them
			b = nil
		}
		if b == nil {
			if err := next(); err != nil {
				return err
			}
		}
		b.digest.add(hash.of(key, value))
		b.add(key, value)
		return nil
	})
	if b != nil && err == nil {
		read <- b
	}
	return err
}
