package smr

import (
	"encoding/binary"
	"fmt"
	"sort"
	"strings"
)

// Member is a replica that counts: by name and incarnation (rule S10).
type Member struct {
	Node        NodeID
	Incarnation Incarnation
}

// Config is a group's configuration.
//
// Invariants: Reign <= Epoch; Members sorted by Node, without duplicates, Master among them;
// 1 <= Copies <= len(Members). The zero Config (Epoch 0) means "none".
type Config struct {
	Epoch   Epoch
	Reign   Epoch
	Master  NodeID
	Copies  int
	Members []Member
}

// Check reports which invariant c breaks.
func (c Config) Check() error {
	if c.Epoch == 0 || c.Reign == 0 || c.Reign > c.Epoch {
		return fmt.Errorf("config of epoch %d has reign %d", c.Epoch, c.Reign)
	}
	if len(c.Members) == 0 || len(c.Members) > MaxMembers {
		return fmt.Errorf("config of epoch %d has %d members: 1 to %d are possible", c.Epoch, len(c.Members), MaxMembers)
	}
	if c.Copies < 1 || c.Copies > len(c.Members) {
		return fmt.Errorf("config of epoch %d asks for %d copies of %d members", c.Epoch, c.Copies, len(c.Members))
	}
	for i, m := range c.Members {
		if err := CheckNodeID(string(m.Node)); err != nil {
			return fmt.Errorf("config of epoch %d: %w", c.Epoch, err)
		}
		if m.Incarnation == 0 {
			return fmt.Errorf("config of epoch %d: member %s has no incarnation", c.Epoch, m.Node)
		}
		if i > 0 && c.Members[i-1].Node >= m.Node {
			return fmt.Errorf("config of epoch %d: members are not sorted by name at %s", c.Epoch, m.Node)
		}
	}
	if _, ok := c.Find(c.Master); !ok {
		return fmt.Errorf("config of epoch %d: master %q is no member", c.Epoch, c.Master)
	}
	return nil
}

// Describe is c for people.
func (c Config) Describe() string {
	var members []string
	for _, m := range c.Members {
		members = append(members, fmt.Sprintf("%s/%016x", m.Node, uint64(m.Incarnation)))
	}
	return fmt.Sprintf("reign %d master %s copies %d members %s", c.Reign, c.Master, c.Copies, strings.Join(members, " "))
}

// Find returns the member of that name.
func (c Config) Find(node NodeID) (Member, bool) {
	i := sort.Search(len(c.Members), func(i int) bool { return c.Members[i].Node >= node })
	if i < len(c.Members) && c.Members[i].Node == node {
		return c.Members[i], true
	}
	return Member{}, false
}

// Has reports whether m is a member, by name and incarnation.
func (c Config) Has(m Member) bool {
	found, ok := c.Find(m.Node)
	return ok && found == m
}

// Clone returns a copy that shares no memory with c.
func (c Config) Clone() Config {
	c.Members = append([]Member(nil), c.Members...)
	return c
}

// Equal reports whether two configurations are the same.
func (c Config) Equal(d Config) bool {
	if c.Epoch != d.Epoch || c.Reign != d.Reign || c.Master != d.Master || c.Copies != d.Copies || len(c.Members) != len(d.Members) {
		return false
	}
	for i := range c.Members {
		if c.Members[i] != d.Members[i] {
			return false
		}
	}
	return true
}

// AppendConfig appends the encoding of c drawn in the package comment.
func AppendConfig(b []byte, c Config) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(c.Epoch))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.Reign))
	b = binary.LittleEndian.AppendUint16(b, uint16(c.Copies))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(c.Members)))
	b = append(b, byte(len(c.Master)))
	b = append(b, c.Master...)
	for _, m := range c.Members {
		b = append(b, byte(len(m.Node)))
		b = append(b, m.Node...)
		b = binary.LittleEndian.AppendUint64(b, uint64(m.Incarnation))
	}
	return b
}

// DecodeConfig reads one Config from the front of b, checks it and returns the bytes that follow.
func DecodeConfig(b []byte) (Config, []byte, error) {
	if len(b) < 21 {
		return Config{}, nil, fmt.Errorf("config of %d bytes is too short", len(b))
	}
	c := Config{
		Epoch:  Epoch(binary.LittleEndian.Uint64(b)),
		Reign:  Epoch(binary.LittleEndian.Uint64(b[8:])),
		Copies: int(binary.LittleEndian.Uint16(b[16:])),
	}
	count := int(binary.LittleEndian.Uint16(b[18:]))
	if count > MaxMembers {
		return Config{}, nil, fmt.Errorf("config of %d members: %d are possible", count, MaxMembers)
	}
	b = b[20:]
	name, b, ok := cutName(b)
	if !ok {
		return Config{}, nil, fmt.Errorf("config of epoch %d is cut short in the master's name", c.Epoch)
	}
	c.Master = name
	c.Members = make([]Member, 0, count)
	for i := 0; i < count; i++ {
		name, b, ok = cutName(b)
		if !ok || len(b) < 8 {
			return Config{}, nil, fmt.Errorf("config of epoch %d is cut short in member %d", c.Epoch, i)
		}
		c.Members = append(c.Members, Member{Node: name, Incarnation: Incarnation(binary.LittleEndian.Uint64(b))})
		b = b[8:]
	}
	return c, b, c.Check()
}

func cutName(b []byte) (NodeID, []byte, bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return "", b, false
	}
	n := int(b[0])
	return NodeID(b[1 : 1+n]), b[1+n:], true
}
