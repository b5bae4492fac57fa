package smr

import (
	"errors"
	"fmt"
)

// LSN is the offset of a byte in the replication stream of a group. It starts at 0 and grows for ever.
// Ranges of LSNs are half open: from, end.
type LSN uint64

// Epoch numbers one configuration of a group. It is given out by the configuration master only, after
// raft has committed it, and is used once. 0 means "none".
type Epoch uint64

// NodeID is the name of a replica (one replicator plus the KV node beside it). See CheckNodeID.
type NodeID string

// Incarnation is a random non-zero id written into a replica's data directory when it is created.
// A replica that lost its log is a new incarnation.
type Incarnation uint64

// Life is a random non-zero number drawn when a replicator process starts. It ties a fence answer to
// the process that gave it (rule S3).
type Life uint64

// SessionID is a random non-zero number drawn when a KV node starts. With a sequence it is the identity
// of a request (rule S13).
type SessionID uint64

// Role of a replica.
type Role uint8

const (
	// RoleNone: no KV node is attached. Such a replica may still hold and acknowledge log bytes.
	RoleNone Role = iota
	// RoleFenced: promised to an election; serves nobody until it is told to lead or follow.
	RoleFenced
	// RoleMaster appends to the stream.
	RoleMaster
	// RoleSlave stores the master's stream and is a member.
	RoleSlave
	// RoleLearner is a slave that is not in the membership.
	RoleLearner
)

func (r Role) String() string {
	switch r {
	case RoleNone:
		return "none"
	case RoleFenced:
		return "fenced"
	case RoleMaster:
		return "master"
	case RoleSlave:
		return "slave"
	case RoleLearner:
		return "learner"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// SyncMode says when a replica counts a byte as durable.
type SyncMode uint8

const (
	// SyncAlways: after fdatasync. The default.
	SyncAlways SyncMode = iota
	// SyncInterval: after the write; fdatasync runs every so many milliseconds or bytes.
	SyncInterval
	// SyncOS: after the write; the operating system writes back when it likes.
	SyncOS
)

func (m SyncMode) String() string {
	switch m {
	case SyncAlways:
		return "always"
	case SyncInterval:
		return "interval"
	case SyncOS:
		return "os"
	}
	return fmt.Sprintf("sync(%d)", uint8(m))
}

// ParseSyncMode reads "always", "interval" or "os".
func ParseSyncMode(s string) (SyncMode, error) {
	for _, mode := range []SyncMode{SyncAlways, SyncInterval, SyncOS} {
		if mode.String() == s {
			return mode, nil
		}
	}
	return 0, fmt.Errorf("unknown sync mode %q: use always, interval or os", s)
}

// Limits of what comes from outside, in bytes unless said otherwise.
const (
	// MaxPayload bounds the payload of one request.
	MaxPayload = 64 << 20
	// MaxFrame bounds one frame: the largest request and its headers.
	MaxFrame = HeaderSize + RequestHeaderSize + MaxPayload
	// MaxNodeID bounds the length of a node's name.
	MaxNodeID = 63
	// MaxMembers bounds the number of members of a group.
	MaxMembers = 31
	// MaxHistory bounds the number of entries of a History that is accepted from outside.
	MaxHistory = 1 << 16
	// Slots is the number of hash slots of keys.
	Slots = 16384
	// NoSlot stands in a request that has no key, or keys of several slots.
	NoSlot = 0xffff
)

var (
	// ErrStaleEpoch: the message or order carries an epoch below the promise of the receiver.
	ErrStaleEpoch = errors.New("stale epoch")
	// ErrBadFrame: bytes that are no valid frame at that LSN.
	ErrBadFrame = errors.New("bad frame")
)

// CheckNodeID reports why s cannot name a node: 1 to MaxNodeID of a-z, 0-9, '-' and '.', starting with a
// letter or digit.
func CheckNodeID(s string) error {
	if len(s) == 0 || len(s) > MaxNodeID {
		return fmt.Errorf("node name %q has %d bytes: use 1 to %d", s, len(s), MaxNodeID)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '.') {
			return fmt.Errorf("node name %q: byte %d is %q: use a-z, 0-9, '-' and '.', starting with a letter or digit", s, i, c)
		}
	}
	return nil
}

// Position of a log: the epoch of its last byte, and its End. Compared epoch first; the LSN alone is
// wrong (rule S4). An empty log has the Position {0, 0}.
type Position struct {
	Epoch Epoch
	End   LSN
}

// Compare returns -1, 0 or +1 as p is below, equal to or above q.
func (p Position) Compare(q Position) int {
	switch {
	case p.Epoch < q.Epoch, p.Epoch == q.Epoch && p.End < q.End:
		return -1
	case p == q:
		return 0
	}
	return 1
}

func (p Position) String() string { return fmt.Sprintf("epoch %d end %d", p.Epoch, p.End) }
