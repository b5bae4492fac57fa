package wire

import (
	"bufio"
	"fmt"
	"io"

	"lockstep/smr"
)

const (
	readBuffer = 64 << 10
	// firstTake is how much memory a large message gets before its bytes have come; from there on, what has
	// arrived is at most doubled, so that a length alone costs a peer more than it costs us.
	firstTake = 256 << 10
)

// Reader reads messages from a stream. Not safe for concurrent use.
type Reader struct {
	source *bufio.Reader
	limit  int
}

// NewReader returns a Reader of source that refuses messages larger than limit bytes (HelloLimit, HistoryLimit or
// StreamLimit). It reads ahead.
func NewReader(source io.Reader, limit int) *Reader {
	return &Reader{source: bufio.NewReaderSize(source, readBuffer), limit: limit}
}

// Reset makes r read another source from its beginning, with the memory that it has.
func (r *Reader) Reset(source io.Reader) { r.source.Reset(source) }

// SetLimit changes the limit, as the peer is trusted with more.
func (r *Reader) SetLimit(limit int) { r.limit = limit }

// Next returns the next message, a pointer to a struct of smr/message.go, which belongs to the caller with all
// memory it refers to. The error is io.EOF if the stream ends between messages, io.ErrUnexpectedEOF if it ends inside
// one, an error of the source, or one that wraps ErrBadMessage or ErrVersion. After an error the stream is of no
// further use.
func (r *Reader) Next() (any, error) {
	header, err := r.source.Peek(HeaderSize)
	if err != nil {
		if err == io.EOF && len(header) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	size, err := Size(header, r.limit)
	if err != nil {
		return nil, err
	}
	k := kind(header[PrefixSize])
	if k == kindAppend || k == kindPropose || size > r.source.Size() {
		message, err := r.take(size)
		if err != nil {
			return nil, err
		}
		return Decode(message)
	}
	message, err := r.source.Peek(size)
	if err != nil {
		return nil, unexpected(err)
	}
	decoded, err := Decode(message)
	if err != nil {
		return nil, err
	}
	if _, err := r.source.Discard(size); err != nil {
		return nil, fmt.Errorf("skip a message that was read: %w", err)
	}
	return decoded, nil
}

// Buffered reports whether Next would return without reading from the source: more can be merged into a batch.
func (r *Reader) Buffered() bool {
	ready := r.source.Buffered()
	if ready < HeaderSize {
		return false
	}
	header, err := r.source.Peek(HeaderSize)
	if err != nil {
		return false
	}
	size, err := Size(header, r.limit)
	return err != nil || size <= ready
}

// take reads size bytes into fresh memory.
func (r *Reader) take(size int) ([]byte, error) {
	message := make([]byte, min(size, firstTake))
	filled := 0
	for {
		n, err := io.ReadFull(r.source, message[filled:])
		filled += n
		if err != nil {
			return nil, unexpected(err)
		}
		if filled == size {
			return message, nil
		}
		grown := make([]byte, min(size, 2*filled))
		copy(grown, message)
		message = grown
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Expect reads the answer to a hello: a message of type T (ClientWelcome, MasterHello, LocalWelcome …) or a Reject,
// which is returned as a *RejectedError.
func Expect[T any](r *Reader) (*T, error) {
	message, err := r.Next()
	if err != nil {
		return nil, err
	}
	switch m := message.(type) {
	case *T:
		return m, nil
	case *smr.Reject:
		return nil, &RejectedError{Reject: *m}
	}
	return nil, fmt.Errorf("%w: %T where %T is due", ErrBadMessage, message, new(T))
}

// RejectedError is a Reject as an error.
type RejectedError struct{ smr.Reject }

func (e *RejectedError) Error() string {
	return fmt.Sprintf("the peer refused us (code %d, its epoch %d): %s", e.Code, e.Epoch, e.Reason)
}
