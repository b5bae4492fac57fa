package explore

import (
	"fmt"

	"lockstep/smr"
)

const (
	// maxNodes bounds the replicas of a scope; maxPerms the renamings of them that count as one state.
	maxNodes = 5
	maxPerms = 6
	// maxPlans bounds the epochs of a scope.
	maxPlans = 12
	// firstEpoch is that of the reign with which every scope starts: epoch 1 founds the group, nobody leads it.
	firstEpoch smr.Epoch = 2
)

// Scope bounds what the adversary may do. The start is always the same: the reign of n0 in epoch 2 is established, its start
// record is durable on all replicas, and all others follow n0.
type Scope struct {
	Name     string
	Replicas int // of them Members are members, the others learners
	Members  int
	Copies   int
	// MinCopies is how far reconfigurations may lower Copies.
	MinCopies int

	Epochs int // the first included
	Frames int // the longest log, in frames; epoch starts count

	// How often the adversary may crash (and restart) a replica, take its disk away, reconfigure, and cut a connection.
	Crashes, Wipes, Reconfigurations, Cuts int
	// AnyConfig: a reconfiguration may change everything at once. Otherwise one member is dropped, admitted or replaced by its
	// new incarnation, or copies changes by one.
	AnyConfig bool

	// What is a step of its own instead of happening at once (see the package comment for why "at once" is enough).
	SlowTold    bool // established reaches the master late or never
	SlowHello   bool // the master's answer to a hello travels
	SlowSlaves  bool // what a slave received is synced later
	SlowDisk    bool // saves and rewinds too
	SlowMaster  bool // hello, start and acknowledgements of slaves travel, and may arrive when their connection is gone
	SlowFollow  bool // a slave that was told to follow connects later; fences come also when nobody waits for their answer
	SlaveCommit bool // slaves learn the commit LSN, late; frames carry it
}

// quickSync: the master's disk is never behind. Without crashes nothing is lost of what is not synced, so that a slow disk only
// makes commit later.
func (s Scope) quickSync() bool { return s.Crashes == 0 && !s.SlowDisk }

func (s Scope) check() error {
	switch {
	case s.Replicas < 1 || s.Replicas > maxNodes || s.Members < 1 || s.Members > s.Replicas:
		return fmt.Errorf("scope %q: %d members of %d replicas", s.Name, s.Members, s.Replicas)
	case s.Copies < 1 || s.Copies > s.Members || s.MinCopies < 1 || s.MinCopies > s.Copies:
		return fmt.Errorf("scope %q: copies %d, at least %d, of %d members", s.Name, s.Copies, s.MinCopies, s.Members)
	case s.Epochs < 1 || s.Epochs >= maxPlans || s.Frames < 1 || s.Frames > 200:
		return fmt.Errorf("scope %q: %d epochs, %d frames", s.Name, s.Epochs, s.Frames)
	}
	return nil
}

// lastEpoch is the highest that may be given out.
func (s Scope) lastEpoch() smr.Epoch { return firstEpoch + smr.Epoch(s.Epochs) - 1 }

// permutations of 0..n-1, the identity first; the identity alone if there are more than maxPerms.
func permutations(n int) [][maxNodes]uint8 {
	var all [][maxNodes]uint8
	var order [maxNodes]uint8
	for i := range order {
		order[i] = uint8(i)
	}
	var swap func(k int)
	swap = func(k int) {
		if k == n {
			all = append(all, order)
			return
		}
		for i := k; i < n; i++ {
			order[k], order[i] = order[i], order[k]
			swap(k + 1)
			order[k], order[i] = order[i], order[k]
		}
	}
	swap(0)
	if len(all) > maxPerms {
		all = all[:1]
	}
	return all
}
