package plan

// Kind is a drill.
type Kind struct {
	Name   string `json:"name"`
	What   string `json:"what"`   // is done
	Proves string `json:"proves"` // if it passes

	Target Target `json:"-"`
	Moves  bool   `json:"-"` // another master must be elected
	Takes  bool   `json:"-"` // a replica does not count meanwhile: the others must be enough for copies
	Agent  bool   `json:"-"` // needs agents that are allowed
	KVNode bool   `json:"-"` // the agent signals the KV node beside it
	Pauses bool   `json:"-"` // the agent's process stands still
}

// Target says whom a drill hits.
type Target int

// Targets.
const (
	TheMaster Target = iota
	ASlave
	EveryNode  // one after the other
	TheLeader  // of the configuration masters
	AMajority  // of them
	NobodyElse // a planned change only
)

// Kinds are all drills, in the order in which they are shown.
var Kinds = []Kind{
	{"kill-master", "kill -9 of the master's replicator and KV node, as when its machine dies", "another replica leads within seconds; clients of the other nodes see a pause", TheMaster, true, true, true, true, false},
	{"kill-kvnode", "kill -9 of the master's KV node; its replicator goes on", "mastership moves to a replica whose KV node lives", TheMaster, true, false, true, true, false},
	{"pause-master", "the master's replicator and KV node stand still (SIGSTOP), then go on as if nothing had been", "another replica leads; the old master acknowledges nothing when it wakes", TheMaster, true, true, true, true, true},
	{"isolate-master", "the master's replicator can neither send nor receive", "another replica leads; the old master takes no write that is lost", TheMaster, true, true, true, false, false},
	{"one-way-cut", "what the master's replicator sends does not arrive; it hears everybody", "another replica leads, though the old one thinks that all is well", TheMaster, true, true, true, false, false},
	{"slow-disk", "each sync of the master's log takes 150 ms longer", "writes get slow, or are committed by the others' disks; nothing is lost", TheMaster, false, false, true, false, false},
	{"full-disk", "the master's log finds no room", "the process stays up; writes wait or another replica leads; all goes on when there is room", TheMaster, false, true, true, false, false},
	{"lose-disk", "log and hard state of a slave are gone, and its replicator with them", "it comes back as a new replica, is filled by its peers, and becomes a member again", ASlave, false, true, true, false, false},
	{"kill-confmaster-leader", "kill -9 of the leader of the configuration masters", "clients notice nothing; another one leads", TheLeader, false, false, true, false, false},
	{"lose-confmaster-majority", "more than half of the configuration masters stand still", "clients notice nothing, though nobody could elect a master meanwhile", AMajority, false, false, true, false, true},
	{"rolling-restart", "each node's processes are restarted, one node after the other, the master last and after a hand-over", "clients of the other nodes see pauses, no error", EveryNode, false, true, true, true, false},
	{"switchover", "mastership is handed over, as for maintenance", "clients see a short pause, no error", NobodyElse, true, false, false, false, false},
	{"clock-jump", "the master's clock is set back by an hour", "log time stands still until the clock has caught up; nothing is lost, nothing expires early", TheMaster, false, false, true, false, false},
}

// Find returns the drill of that name, nil if there is none.
func Find(name string) *Kind {
	for i := range Kinds {
		if Kinds[i].Name == name {
			return &Kinds[i]
		}
	}
	return nil
}

// Names lists the names of all drills.
func Names() (names []string) {
	for i := range Kinds {
		names = append(names, Kinds[i].Name)
	}
	return names
}
