package smr

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Kind of a frame.
type Kind uint8

const (
	// KindRequests: a batch of requests.
	KindRequests Kind = 1
	// KindEpochStart: the first frame of an epoch; its body is the Config.
	KindEpochStart Kind = 2
	// KindCommit carries nothing but its header's commit LSN, for an idle stream.
	KindCommit Kind = 3
	// KindTick carries nothing but its header's timestamp, so that log time moves when idle.
	KindTick Kind = 4
)

func (k Kind) String() string {
	switch k {
	case KindRequests:
		return "requests"
	case KindEpochStart:
		return "epoch-start"
	case KindCommit:
		return "commit"
	case KindTick:
		return "tick"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

const (
	// HeaderSize is the size of a frame header in bytes.
	HeaderSize = 48
	// RequestHeaderSize is the size of a request header in bytes.
	RequestHeaderSize = 24
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Frame is a decoded frame. Body points into the decoded bytes.
type Frame struct {
	LSN    LSN
	Epoch  Epoch
	Commit LSN
	Stamp  int64 // milliseconds since 1970 UTC
	Kind   Kind
	Count  int // requests in Body
	Body   []byte
}

// Size returns the length of the encoded frame in bytes.
func (f Frame) Size() int { return HeaderSize + len(f.Body) }

// End returns the LSN one past the frame's last byte.
func (f Frame) End() LSN { return f.LSN + LSN(f.Size()) }

// AppendFrame appends the encoding of f.
func AppendFrame(b []byte, f Frame) []byte {
	start := len(b)
	b = append(b, make([]byte, HeaderSize)...)
	b = append(b, f.Body...)
	SealFrame(b[start:], f)
	return b
}

// SealFrame writes the header of f over the first HeaderSize bytes of frame, whose body already stands
// behind them; f.Body is not looked at.
func SealFrame(frame []byte, f Frame) {
	binary.LittleEndian.PutUint32(frame[4:], uint32(len(frame)))
	binary.LittleEndian.PutUint64(frame[8:], uint64(f.LSN))
	binary.LittleEndian.PutUint64(frame[16:], uint64(f.Epoch))
	binary.LittleEndian.PutUint64(frame[24:], uint64(f.Commit))
	binary.LittleEndian.PutUint64(frame[32:], uint64(f.Stamp))
	frame[40] = byte(f.Kind)
	frame[41], frame[42], frame[43] = 0, 0, 0
	binary.LittleEndian.PutUint32(frame[44:], uint32(f.Count))
	binary.LittleEndian.PutUint32(frame, crc32.Checksum(frame[4:], castagnoli))
}

// ErrShortFrame wraps ErrBadFrame: the bytes end before the frame does.
var ErrShortFrame = fmt.Errorf("%w: cut short", ErrBadFrame)

// PeekFrame reads the length of the frame that begins at the front of b, from its header alone. It needs
// 8 bytes and checks only that the length is possible.
func PeekFrame(b []byte) (size int, err error) {
	if len(b) < 8 {
		return 0, ErrShortFrame
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n < HeaderSize || n > MaxFrame {
		return 0, fmt.Errorf("%w: length %d, possible are %d to %d", ErrBadFrame, n, HeaderSize, MaxFrame)
	}
	return int(n), nil
}

// DecodeFrame decodes and checks the frame at the front of b, which must carry the LSN lsn. It checks length,
// checksum, LSN, kind, the zero bytes, and that commit does not exceed the frame's own LSN; of a requests frame
// also that count requests fill the body exactly. Body shares memory with b.
func DecodeFrame(b []byte, lsn LSN) (Frame, error) {
	size, err := PeekFrame(b)
	if err != nil {
		return Frame{}, fmt.Errorf("frame at %d: %w", lsn, err)
	}
	if len(b) < size {
		return Frame{}, fmt.Errorf("frame at %d: %w", lsn, ErrShortFrame)
	}
	b = b[:size]
	if crc32.Checksum(b[4:], castagnoli) != binary.LittleEndian.Uint32(b) {
		return Frame{}, fmt.Errorf("frame at %d: %w: checksum differs", lsn, ErrBadFrame)
	}
	f := Frame{
		LSN:    LSN(binary.LittleEndian.Uint64(b[8:])),
		Epoch:  Epoch(binary.LittleEndian.Uint64(b[16:])),
		Commit: LSN(binary.LittleEndian.Uint64(b[24:])),
		Stamp:  int64(binary.LittleEndian.Uint64(b[32:])),
		Kind:   Kind(b[40]),
		Count:  int(binary.LittleEndian.Uint32(b[44:])),
		Body:   b[HeaderSize:],
	}
	switch {
	case f.LSN != lsn:
		return Frame{}, fmt.Errorf("frame at %d: %w: it carries LSN %d", lsn, ErrBadFrame, f.LSN)
	case f.Kind < KindRequests || f.Kind > KindTick || b[41]|b[42]|b[43] != 0:
		return Frame{}, fmt.Errorf("frame at %d: %w: unknown kind %d", lsn, ErrBadFrame, f.Kind)
	case f.Commit > f.LSN || f.Epoch == 0:
		return Frame{}, fmt.Errorf("frame at %d: %w: epoch %d commit %d", lsn, ErrBadFrame, f.Epoch, f.Commit)
	}
	return f, f.checkBody()
}

func (f Frame) checkBody() error {
	switch f.Kind {
	case KindRequests:
		rest := f.Body
		for range f.Count {
			var err error
			if _, rest, err = CutRequest(rest); err != nil {
				return fmt.Errorf("frame at %d: %w: %w", f.LSN, ErrBadFrame, err)
			}
		}
		if f.Count == 0 || len(rest) != 0 {
			return fmt.Errorf("frame at %d: %w: %d bytes behind %d requests", f.LSN, ErrBadFrame, len(rest), f.Count)
		}
	case KindEpochStart:
		c, rest, err := DecodeConfig(f.Body)
		if err != nil || len(rest) != 0 || c.Epoch != f.Epoch || f.Count != 0 {
			return fmt.Errorf("frame at %d: %w: epoch start of epoch %d: %v", f.LSN, ErrBadFrame, f.Epoch, err)
		}
	default:
		if len(f.Body) != 0 || f.Count != 0 {
			return fmt.Errorf("frame at %d: %w: %s with a body", f.LSN, ErrBadFrame, f.Kind)
		}
	}
	return nil
}

// Request is one decoded request. Payload shares memory with the bytes it was decoded from.
type Request struct {
	Session  SessionID
	Sequence uint64
	Slot     uint16
	Flags    uint8
	Payload  []byte
}

// AppendRequest appends the encoding of r.
func AppendRequest(b []byte, r Request) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.Payload)))
	b = binary.LittleEndian.AppendUint16(b, r.Slot)
	b = append(b, r.Flags, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Session))
	b = binary.LittleEndian.AppendUint64(b, r.Sequence)
	return append(b, r.Payload...)
}

// CutRequest decodes the request at the front of b and returns the bytes behind it.
func CutRequest(b []byte) (Request, []byte, error) {
	if len(b) < RequestHeaderSize {
		return Request{}, nil, fmt.Errorf("request cut short in its header: %d bytes", len(b))
	}
	n := binary.LittleEndian.Uint32(b)
	r := Request{
		Slot:     binary.LittleEndian.Uint16(b[4:]),
		Flags:    b[6],
		Session:  SessionID(binary.LittleEndian.Uint64(b[8:])),
		Sequence: binary.LittleEndian.Uint64(b[16:]),
	}
	switch {
	case n > MaxPayload || uint64(n) > uint64(len(b)-RequestHeaderSize):
		return Request{}, nil, fmt.Errorf("request payload of %d bytes, %d are there", n, len(b)-RequestHeaderSize)
	case b[7] != 0 || r.Session == 0 || r.Sequence == 0 || r.Slot >= Slots && r.Slot != NoSlot:
		return Request{}, nil, fmt.Errorf("request header with session %d sequence %d slot %d", r.Session, r.Sequence, r.Slot)
	}
	end := RequestHeaderSize + int(n)
	r.Payload = b[RequestHeaderSize:end:end]
	return r, b[end:], nil
}
