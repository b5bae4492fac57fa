package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"lockstep/smr"
)

// Decode decodes the one message that message holds from its first to its last byte, length and checksum included,
// and returns a pointer to a struct of smr/message.go. Of a Propose it checks that Count requests fill the batch
// exactly; the frames of an Append are left to the receiver. Append.Frames and Propose.Requests share memory with
// message.
func Decode(message []byte) (any, error) {
	size, err := Size(message, StreamLimit)
	if err != nil {
		return nil, err
	}
	if size != len(message) {
		return nil, fmt.Errorf("%w: size %d in %d bytes", ErrBadMessage, size, len(message))
	}
	if crc32.Checksum(message[PrefixSize:], castagnoli) != binary.LittleEndian.Uint32(message[4:]) {
		return nil, fmt.Errorf("%w: checksum differs", ErrBadMessage)
	}
	k := kind(message[PrefixSize])
	d := decoder{rest: message[HeaderSize:]}
	flags := message[PrefixSize+1]
	if flags == smr.MaxLevel || flags != 0 && !k.tellsLevel() {
		d.fail("flags %#x", flags)
	}
	if flags != 0 {
		d.level = int(flags) + 1
	}
	decoded := d.message(k)
	if d.err == nil && len(d.rest) != 0 {
		d.fail("%d bytes left over", len(d.rest))
	}
	if d.err != nil {
		return nil, fmt.Errorf("message of type %d and %d bytes: %w", k, size, d.err)
	}
	return decoded, nil
}

// decoder reads fields from the front of rest. After the first failure it returns zero values.
type decoder struct {
	rest  []byte
	level int // that the flags tell, 0 if they do not
	err   error
}

// tellsLevel reports whether the flags of a message of that type are a feature level less one.
func (k kind) tellsLevel() bool {
	switch k {
	case kindSlaveHello, kindMasterHello, kindClientHello, kindClientWelcome, kindLocalHello, kindLocalWelcome, kindStatus:
		return true
	}
	return false
}

func (d *decoder) message(k kind) any {
	switch {
	case k == kindReject:
		m := &smr.Reject{Code: smr.RejectCode(d.byte()), Epoch: smr.Epoch(d.uint64()), Reason: d.string(maxReason)}
		if d.err == nil && m.Code == 0 {
			d.fail("reject without a code")
		}
		return m
	case k >= kindSlaveHello && k <= kindAck:
		return d.slaveMessage(k)
	case k >= kindClientHello && k <= kindCopiesCounted:
		return d.clientMessage(k)
	case k >= kindLocalHello && k <= kindTransfer:
		return d.localMessage(k)
	}
	d.fail("unknown type")
	return nil
}

func (d *decoder) slaveMessage(k kind) any {
	switch k {
	case kindSlaveHello:
		return &smr.SlaveHello{Handshake: d.handshake(), Epoch: smr.Epoch(d.uint64()), Incarnation: smr.Incarnation(d.uint64())}
	case kindMasterHello:
		return &smr.MasterHello{Handshake: d.handshake(), Epoch: smr.Epoch(d.uint64()), Start: d.lsn(), End: d.lsn(), Config: d.config(), History: d.history()}
	case kindSlaveStart:
		return &smr.SlaveStart{Epoch: smr.Epoch(d.uint64()), From: d.lsn()}
	case kindAppend:
		return &smr.Append{Epoch: smr.Epoch(d.uint64()), Commit: d.lsn(), From: d.lsn(), Frames: d.batch()}
	case kindHeartbeat:
		return &smr.Heartbeat{Epoch: smr.Epoch(d.uint64()), Commit: d.lsn(), Round: d.uint64(), Writable: d.bool(), Lease: d.lease(), LeaseOver: d.bool()}
	case kindAck:
		return &smr.Ack{Epoch: smr.Epoch(d.uint64()), Durable: d.lsn(), Round: d.uint64(), Leased: d.uint64()}
	}
	panic("unreachable")
}

func (d *decoder) clientMessage(k kind) any {
	switch k {
	case kindClientHello:
		m := &smr.ClientHello{Handshake: d.handshake(), Session: smr.SessionID(d.uint64())}
		if d.err == nil && m.Session == 0 {
			d.fail("hello without a session")
		}
		return m
	case kindClientWelcome:
		return &smr.ClientWelcome{Handshake: d.handshake(), Epoch: smr.Epoch(d.uint64())}
	case kindPropose:
		return d.propose()
	case kindReadIndex:
		return &smr.ReadIndex{ID: d.uint64()}
	case kindReadReady:
		return &smr.ReadReady{ID: d.uint64(), LSN: d.lsn()}
	case kindCountCopies:
		return &smr.CountCopies{ID: d.uint64(), LSN: d.lsn()}
	case kindCopiesCounted:
		m := &smr.CopiesCounted{ID: d.uint64(), Copies: int(d.uint32())}
		if m.Copies > smr.MaxMembers {
			d.fail("%d copies", m.Copies)
		}
		return m
	}
	panic("unreachable")
}

func (d *decoder) localMessage(k kind) any {
	switch k {
	case kindLocalHello:
		m := &smr.LocalHello{Handshake: d.handshake(), Session: smr.SessionID(d.uint64()), Pid: int(d.uint32()),
			KVAddr: d.string(maxName), AdminAddr: d.string(maxName), Applied: d.lsn(), Checkpoint: d.lsn()}
		if d.err == nil && m.Session == 0 {
			d.fail("hello without a session")
		}
		return m
	case kindLocalWelcome:
		return &smr.LocalWelcome{Handshake: d.handshake(), Incarnation: smr.Incarnation(d.uint64()), LogDir: d.string(maxPath), Page: d.string(maxPath)}
	case kindStatus:
		m := &smr.Status{Role: smr.Role(d.byte()), Epoch: smr.Epoch(d.uint64()), Master: smr.NodeID(d.string(maxName)),
			MasterAddr: d.string(maxName), Start: d.lsn(), Safe: d.lsn(), Commit: d.lsn(), Writable: d.bool(), NeedImage: d.lsn(), Level: d.level}
		if m.Role > smr.RoleLearner {
			d.fail("%s", m.Role)
		}
		if d.err == nil && m.Master != "" {
			d.node(m.Master)
		}
		return m
	case kindProgress:
		return &smr.Progress{Applied: d.lsn(), Checkpoint: d.lsn()}
	case kindImageSources:
		return d.sources()
	case kindLocalBase:
		m := &smr.LocalBase{Base: append([]byte(nil), d.rest...)}
		if len(d.rest) > maxBase {
			d.fail("base of %d bytes: %d are possible", len(d.rest), maxBase)
		}
		d.rest = nil
		return m
	case kindTransfer:
		return &smr.Transfer{Done: d.uint64(), Total: d.uint64(), PerSecond: d.uint64(), From: d.string(maxName)}
	}
	panic("unreachable")
}

// handshake fails with ErrVersion if all that is wrong is the version: a peer of that version deserves an answer.
func (d *decoder) handshake() smr.Handshake {
	if d.err == nil && (len(d.rest) < 6 || [4]byte(d.rest) != magic) {
		d.fail("no handshake")
	}
	if d.err != nil {
		return smr.Handshake{}
	}
	if version := binary.LittleEndian.Uint16(d.rest[4:]); version != Version {
		d.err = fmt.Errorf("%w: the peer's is %d, ours %d", ErrVersion, version, Version)
		return smr.Handshake{}
	}
	d.rest = d.rest[6:]
	h := smr.Handshake{Cluster: d.string(maxName), Group: d.string(maxName), Node: smr.NodeID(d.string(maxName)), Level: d.level}
	if d.err == nil {
		d.node(h.Node)
	}
	return h
}

func (d *decoder) node(node smr.NodeID) {
	if err := smr.CheckNodeID(string(node)); err != nil {
		d.fail("%v", err)
	}
}

func (d *decoder) sources() *smr.ImageSources {
	n := int(d.uint16())
	if n > smr.MaxImageSources {
		d.fail("%d sources of images: %d are possible", n, smr.MaxImageSources)
	}
	m := &smr.ImageSources{}
	for i := 0; i < n && d.err == nil; i++ {
		source := smr.ImageSource{Node: smr.NodeID(d.string(maxName)), Addr: d.string(maxName)}
		if d.err == nil {
			d.node(source.Node)
		}
		m.Sources = append(m.Sources, source)
	}
	return m
}

// config reads what appendConfig wrote.
func (d *decoder) config() smr.Config {
	n := int(d.uint16())
	if n == 0 || !d.has(n) {
		return smr.Config{}
	}
	c, rest, err := smr.DecodeConfig(d.rest[:n])
	if err != nil || len(rest) != 0 {
		d.fail("configuration: %d bytes left over, %v", len(rest), err)
	}
	d.rest = d.rest[n:]
	return c
}

func (d *decoder) history() smr.History {
	count := int(d.uint32())
	if d.err == nil && (count > smr.MaxHistory || len(d.rest) != count*spanSize) {
		d.fail("history of %d epochs in %d bytes", count, len(d.rest))
	}
	if d.err != nil || count == 0 {
		return nil
	}
	history := make(smr.History, count)
	for i := range history {
		history[i] = smr.Span{Epoch: smr.Epoch(d.uint64()), From: d.lsn()}
	}
	if err := history.Check(); err != nil {
		d.fail("%v", err)
	}
	return history
}

func (d *decoder) propose() *smr.Propose {
	m := &smr.Propose{Count: int(d.uint32()), Requests: d.batch()}
	rest := m.Requests
	for i := 0; d.err == nil && i < m.Count; i++ {
		var err error
		if _, rest, err = smr.CutRequest(rest); err != nil {
			d.fail("request %d of %d: %v", i, m.Count, err)
		}
	}
	if d.err == nil && (m.Count == 0 || len(rest) != 0) {
		d.fail("%d bytes behind %d requests", len(rest), m.Count)
	}
	return m
}

// batch takes all bytes that are left.
func (d *decoder) batch() []byte {
	batch := d.rest
	d.rest = nil
	if d.err != nil || len(batch) == 0 {
		return nil
	}
	if len(batch) > MaxBatch {
		d.fail("batch of %d bytes: %d are possible", len(batch), MaxBatch)
	}
	return batch
}

func (d *decoder) byte() byte {
	if !d.has(1) {
		return 0
	}
	v := d.rest[0]
	d.rest = d.rest[1:]
	return v
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail("bool of %d", v)
	}
	return v == 1
}

func (d *decoder) uint16() uint16 {
	if !d.has(2) {
		return 0
	}
	v := binary.LittleEndian.Uint16(d.rest)
	d.rest = d.rest[2:]
	return v
}

func (d *decoder) uint32() uint32 {
	if !d.has(4) {
		return 0
	}
	v := binary.LittleEndian.Uint32(d.rest)
	d.rest = d.rest[4:]
	return v
}

func (d *decoder) uint64() uint64 {
	if !d.has(8) {
		return 0
	}
	v := binary.LittleEndian.Uint64(d.rest)
	d.rest = d.rest[8:]
	return v
}

// lease bounds what a peer may ask for, so that no mistake of its can keep a group without a master for long.
func (d *decoder) lease() uint64 {
	ticks := d.uint64()
	if ticks > smr.MaxLeaseTicks {
		d.fail("a lease of %d ticks: %d are possible", ticks, smr.MaxLeaseTicks)
	}
	return ticks
}

func (d *decoder) lsn() smr.LSN { return smr.LSN(d.uint64()) }

func (d *decoder) string(limit int) string {
	if !d.has(2) {
		return ""
	}
	n := int(binary.LittleEndian.Uint16(d.rest))
	d.rest = d.rest[2:]
	if n > limit {
		d.fail("string of %d bytes: %d are possible", n, limit)
	}
	if !d.has(n) {
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) has(n int) bool {
	if d.err == nil && len(d.rest) < n {
		d.fail("cut short: %d bytes where %d are needed", len(d.rest), n)
	}
	return d.err == nil
}

func (d *decoder) fail(format string, arguments ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrBadMessage, fmt.Sprintf(format, arguments...))
	}
}
