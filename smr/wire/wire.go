package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// Version of the wire format.
const Version = 3

const (
	// PrefixSize is the size of what stands before the checksummed rest: length and checksum.
	PrefixSize = 8
	// HeaderSize adds type and flags: no message is shorter.
	HeaderSize = PrefixSize + 2
	// appendFixed and proposeFixed are the bytes of a message around its frames or requests.
	appendFixed  = HeaderSize + 24
	proposeFixed = HeaderSize + 4
	// maxName bounds names and addresses, maxPath a directory, maxReason a Reject's text, in bytes.
	maxName   = 255
	maxPath   = 4096
	maxReason = 1024
	spanSize  = 16
	// maxBase bounds an encoded log.Base, which this package does not look into.
	maxBase = 1<<10 + spanSize*smr.MaxHistory
)

// Limits for Size and Reader, in bytes of a whole message.
const (
	// HelloLimit holds for a connection whose peer has not been checked yet. It fits every hello and every welcome
	// but MasterHello, and every message without frames, requests, sources or a base.
	HelloLimit = 8 << 10
	// HistoryLimit holds for a slave that waits for MasterHello.
	HistoryLimit = HelloLimit + spanSize*smr.MaxHistory
	// StreamLimit holds for a connection whose peer was accepted: the largest Append or Propose.
	StreamLimit = appendFixed + MaxBatch
	// LocalLimit holds for the KV node beside once it was accepted: a LocalBase with the longest History.
	LocalLimit = HelloLimit + maxBase
	// MaxBatch bounds Append.Frames and Propose.Requests: one frame or request of the largest size, or several
	// small ones.
	MaxBatch = smr.MaxFrame

	_ = uint(StreamLimit - proposeFixed - MaxBatch) // compile error unless a Propose fits too
)

var (
	// ErrBadMessage: bytes that are no message of this version, or one beyond the limit.
	ErrBadMessage = errors.New("bad message")
	// ErrVersion: a hello of another wire version. Answer it with smr.RejectVersion.
	ErrVersion = errors.New("wire version differs")
)

type kind uint8

const (
	kindReject        kind = 1
	kindSlaveHello    kind = 2
	kindMasterHello   kind = 3
	kindSlaveStart    kind = 4
	kindAppend        kind = 5
	kindHeartbeat     kind = 6
	kindAck           kind = 7
	kindClientHello   kind = 16
	kindClientWelcome kind = 17
	kindPropose       kind = 18
	kindReadIndex     kind = 19
	kindReadReady     kind = 20
	kindCountCopies   kind = 21
	kindCopiesCounted kind = 22
	kindLocalHello    kind = 32
	kindLocalWelcome  kind = 33
	kindStatus        kind = 34
	kindProgress      kind = 35
	kindImageSources  kind = 36
	kindLocalBase     kind = 37
	kindTransfer      kind = 38
)

var magic = [4]byte{'L', 'S', 'T', 'P'}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Size returns the size of the whole message that begins with header, of which at least PrefixSize bytes must be
// there. It fails if the message would be larger than limit: check it before memory is taken.
func Size(header []byte, limit int) (int, error) {
	if len(header) < PrefixSize {
		return 0, fmt.Errorf("%w: %d bytes of a header", ErrBadMessage, len(header))
	}
	rest := binary.LittleEndian.Uint32(header)
	size := uint64(rest) + PrefixSize
	if size < HeaderSize || size > uint64(limit) {
		return 0, fmt.Errorf("%w: size %d, possible here are %d to %d", ErrBadMessage, size, HeaderSize, limit)
	}
	return int(size), nil
}

// CheckHandshake compares what a peer said about itself with what is expected of it and returns the refusal to
// send, or nil. An empty want.Node stands for any node.
func CheckHandshake(got, want smr.Handshake) *smr.Reject {
	refuse := func(what, got, want string) *smr.Reject {
		return &smr.Reject{Code: smr.RejectForeign, Reason: fmt.Sprintf("you speak for %s %q, here is %q", what, got, want)}
	}
	switch {
	case got.Cluster != want.Cluster && !mutant.On(mutant.ClusterUnchecked):
		return refuse("cluster", got.Cluster, want.Cluster)
	case got.Group != want.Group:
		return refuse("group", got.Group, want.Group)
	case want.Node != "" && got.Node != want.Node:
		return refuse("node", string(got.Node), string(want.Node))
	}
	return nil
}
