package kv

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
)

// evictionPolicy is what maxmemory-policy says.
type evictionPolicy struct {
	name     string
	volatile bool // only keys that expire
	choose   evictionOrder
}

// evictionOrder says which key goes first.
type evictionOrder uint8

const (
	evictNone   evictionOrder = iota
	evictRandom               // any
	evictIdle                 // the one unused for longest
	evictRare                 // the one used least often
	evictSoon                 // the one that expires first
)

var evictionPolicies = []evictionPolicy{
	{"volatile-lru", true, evictIdle},
	{"volatile-lfu", true, evictRare},
	{"volatile-random", true, evictRandom},
	{"volatile-ttl", true, evictSoon},
	{"allkeys-lru", false, evictIdle},
	{"allkeys-lfu", false, evictRare},
	{"allkeys-random", false, evictRandom},
	{"noeviction", false, evictNone},
}

func policyNamed(name string) (evictionPolicy, bool) {
	for _, p := range evictionPolicies {
		if p.name == name {
			return p, true
		}
	}
	return evictionPolicy{}, false
}

const maxMemoryProblem = "argument must be a memory value"

var memorySettings = []settingRule{
	{name: "maxmemory", standard: "0", parse: parseMemory, apply: func(m *Machine, value string) {
		m.set.maxMemory, _ = strconv.ParseInt(value, 10, 64)
	}},
	{name: "maxmemory-policy", standard: "noeviction", parse: parsePolicy, apply: func(m *Machine, value string) {
		m.set.policy, _ = policyNamed(value)
	}},
	{name: "maxmemory-samples", standard: "5", parse: parseBetween(1, 1<<31-1), apply: func(m *Machine, value string) {
		n, _ := strconv.Atoi(value)
		m.set.samples = min(n, maxSamples)
	}},
	{name: "lfu-log-factor", standard: "10", parse: parseBetween(0, 1<<31-1), apply: func(m *Machine, value string) {
		m.set.lfuLogFactor, _ = strconv.Atoi(value)
	}},
	{name: "lfu-decay-time", standard: "1", parse: parseBetween(0, 1<<31-1), apply: func(m *Machine, value string) {
		m.set.lfuDecayMinute, _ = strconv.Atoi(value)
	}},
}

func parsePolicy(value string) (string, string) {
	p, ok := policyNamed(lower(value))
	if !ok {
		names := make([]string, len(evictionPolicies))
		for i, p := range evictionPolicies {
			names[i] = p.name
		}
		return "", "argument(s) must be one of the following: " + strings.Join(names, ", ")
	}
	return p.name, ""
}

// parseBetween returns the parse function of an integer setting.
func parseBetween(low, high int) func(string) (string, string) {
	return func(value string) (string, string) {
		n, err := strconv.Atoi(value)
		switch {
		case err != nil:
			return "", "argument couldn't be parsed into an integer"
		case n < low || n > high:
			return "", "argument must be between " + strconv.Itoa(low) + " and " + strconv.Itoa(high) + " inclusive"
		}
		return strconv.Itoa(n), ""
	}
}

// memoryUnits are what may follow a number of bytes.
var memoryUnits = []struct {
	suffix string
	bytes  int64
}{
	{"kb", 1 << 10}, {"mb", 1 << 20}, {"gb", 1 << 30}, {"k", 1e3}, {"m", 1e6}, {"g", 1e9}, {"b", 1}, {"", 1},
}

// parseMemory reads a number of bytes such as "100mb"; an empty text is 0, as in Redis.
func parseMemory(value string) (string, string) {
	text := lower(value)
	if text == "" {
		return "0", ""
	}
	for _, unit := range memoryUnits {
		digits, found := strings.CutSuffix(text, unit.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		switch {
		case errors.Is(err, strconv.ErrRange), err == nil && n > math.MaxInt64/uint64(unit.bytes):
			return "", "argument must be between 0 and 9223372036854775807 inclusive"
		case err != nil:
			return "", maxMemoryProblem
		}
		return strconv.FormatUint(n*uint64(unit.bytes), 10), ""
	}
	return "", maxMemoryProblem
}

// maxSamples bounds what one eviction looks at, whatever maxmemory-samples says.
const maxSamples = 64

const (
	usesAtFirst = 5 // the counter of a new key
	maxUses     = 255
)

// usesBy returns the counter of uses as it is at a time: it loses one with every decay minutes. Only what goes through the log counts as
// a use: a read leaves no trace in the state.
func (v *value) usesBy(now int64, decay int) uint8 {
	if decay == 0 {
		return v.uses
	}
	elapsed := int(uint32(now/1000)/60 - v.used/60)
	return v.uses - uint8(min(int(v.uses), elapsed/decay))
}

// idle returns the seconds since the last use.
func (v *value) idle(now int64) int64 { return int64(uint32(now/1000) - v.used) }

// use notes that the key is used now. The counter counts only where a policy asks for it.
func (v *value) use(c call) {
	v.uses = v.usesBy(c.now, c.m.set.lfuDecayMinute)
	v.used = uint32(c.now / 1000)
	if c.m.set.policy.choose == evictRare && v.uses < maxUses {
		above := int(v.uses) - min(int(v.uses), usesAtFirst)
		if c.dice().below(above*c.m.set.lfuLogFactor+1) == 0 {
			v.uses++
		}
	}
}

const (
	errOutOfMemory = "OOM command not allowed when used memory > 'maxmemory'."
	// evictionsEach bounds how many keys one command, or one frame, evicts. A command for which that is not enough is executed
	// all the same, as Redis does while it is busy evicting.
	evictionsEach = 1000
)

// room evicts keys until they and the scripts take no more than maxmemory, and reports whether the command may take memory: it may not if
// nothing can be evicted.
func (c call) room() bool {
	m := c.m
	if m.set.maxMemory == 0 || m.used+m.lua.bytes <= m.set.maxMemory {
		return true
	}
	if m.set.policy.choose == evictNone {
		return false
	}
	d := c.dice()
	for range evictionsEach {
		if m.used+m.lua.bytes <= m.set.maxMemory {
			break
		}
		database, e := m.victim(d)
		if e == nil {
			return false
		}
		database.remove(m, e, c.version)
		m.evicted++
		m.event(database.number, EventEvicted, "evicted", e.key())
	}
	return true
}

// victim draws the next key to evict, nil if there is none: the worst of a sample of every database.
func (m *Machine) victim(d *dice) (in *database, found *entry) {
	var worst int64
	first := d.below(Databases) // so that a random policy takes from all
	for i := range m.databases {
		database := m.databases[(first+i)%Databases]
		size := database.keys.size
		if m.set.policy.volatile {
			size = database.due.size
		}
		if size == 0 {
			continue
		}
		samples := m.set.samples
		switch m.set.policy.choose {
		case evictRandom:
			return database, m.sample(database, d)
		case evictSoon:
			samples = 1
		}
		for range samples {
			e := m.sample(database, d)
			if score := m.badness(database, e); found == nil || score > worst {
				in, found, worst = database, e, score
			}
		}
	}
	return in, found
}

// sample draws a key that the policy may evict; volatile-ttl knows which one.
func (m *Machine) sample(database *database, d *dice) *entry {
	switch {
	case m.set.policy.choose == evictSoon:
		return database.due.first().entry.Pointer()
	case m.set.policy.volatile:
		return m.sampleVolatile(database, d)
	}
	return database.keys.draw(d)
}

const (
	// volatileTries bounds how many keys are drawn to find one that expires; soonestDrawn is how many of those that expire first
	// are drawn from if none was found.
	volatileTries = 32
	soonestDrawn  = 16
)

// sampleVolatile draws a key that expires. It may not depend on how the heap came to be as it is: a machine that was loaded
// from an image has built it anew.
func (m *Machine) sampleVolatile(database *database, d *dice) *entry {
	for range volatileTries {
		if e := database.keys.draw(d); e.value.due != 0 {
			return e
		}
	}
	return database.due.soonest(d.below(min(soonestDrawn, database.due.size)))
}

// soonest returns the entry that expires after so many others.
func (h *dueHeap) soonest(after int) *entry {
	frontier := []int{0} // whose ancestors are all passed
	for {
		least := 0
		for i := range frontier {
			if h.before(frontier[i], frontier[least]) {
				least = i
			}
		}
		at := frontier[least]
		if after == 0 {
			return h.get(at).entry.Pointer()
		}
		after--
		frontier = slices.Delete(frontier, least, least+1)
		for child := 2*at + 1; child <= 2*at+2 && child < h.size; child++ {
			frontier = append(frontier, child)
		}
	}
}

// badness is the higher the sooner a key is to go.
func (m *Machine) badness(d *database, e *entry) int64 {
	switch m.set.policy.choose {
	case evictSoon:
		return -d.due.at(e)
	case evictRare:
		return -int64(e.value.usesBy(m.now, m.set.lfuDecayMinute))
	}
	return e.value.idle(m.now)
}

const (
	errNotLFU = "ERR An LFU maxmemory policy is not selected, access frequency not tracked. " +
		"Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust."
	errNotLRU = "ERR An LFU maxmemory policy is selected, idle time not tracked. " +
		"Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust."
)

// replyUse answers OBJECT IDLETIME and OBJECT FREQ of a key.
func (c call) replyUse(e *entry, frequency bool) {
	rare := c.m.set.policy.choose == evictRare
	switch {
	case frequency && !rare:
		c.reply.Error(errNotLFU)
	case !frequency && rare:
		c.reply.Error(errNotLRU)
	case frequency:
		c.reply.Int(int64(e.value.usesBy(c.now, c.m.set.lfuDecayMinute)))
	default:
		c.reply.Int(max(e.value.idle(c.now), 0))
	}
}
