package explore

import (
	"math/rand/v2"
	"time"
)

// Walked is what random walks have seen.
type Walked struct {
	Scope   Scope
	Walks   int
	Steps   int
	Commits int // walks in which something was committed after the start
	Epochs  int // reigns that were led
	Seconds float64
	Fault   string
	Taken   [actKinds]int // steps by kind of action
	Seed    uint64        // of the walk that broke a promise
	Trace   []string      // its steps
}

// walksPerExplorer bounds what is remembered: each component state that ever occurred is kept, and random ones seldom come again.
const walksPerExplorer = 200

// Walk takes count random walks of steps each through a scope too large to be searched: the same actions, the same checks. Walk
// number k has the seed first+k.
func Walk(scope Scope, first uint64, count, steps int) (Walked, error) {
	done := Walked{Scope: scope}
	began := time.Now()
	var x *explorer
	for k := range count {
		if k%walksPerExplorer == 0 {
			var err error
			if x, err = newExplorer(scope); err != nil {
				return done, err
			}
			x.names.perms = x.names.perms[:1] // no states are compared
		}
		seed := first + uint64(k)
		fault := x.walk(seed, steps, &done, false)
		done.Walks++
		if fault != "" {
			done.Fault, done.Seed, done.Trace = fault, seed, nil
			x.walk(seed, steps, &done, true)
			break
		}
	}
	done.Seconds = time.Since(began).Seconds()
	return done, nil
}

// odds of each kind of action. A kind is drawn first, then one of that kind: there are many more orders than bytes.
var odds = [actKinds]int{
	actElect: 2, actChoose: 6, actEstablish: 8, actReconfigure: 2, actFence: 8, actLead: 8, actTakeConfig: 6, actTellEstablished: 4,
	actFollow: 10, actLearn: 6, actConnect: 12, actHello: 12, actReceive: 20, actBeat: 6, actCut: 1, actNotice: 4, actLetter: 20,
	actSync: 12, actPropose: 6, actCrash: 1, actWipe: 1,
}

// walk takes one walk. It returns what went wrong, "" if nothing did.
func (x *explorer) walk(seed uint64, steps int, done *Walked, noting bool) string {
	rng := rand.New(rand.NewPCG(seed, 3))
	x.fault = ""
	w := x.start()
	begin := w.truth
	if noting {
		done.Trace = append(done.Trace, "start: "+x.show(&w))
	}
	var all, some []action
	for range steps {
		all = x.actions(&w, all[:0])
		moved := false
		for try := 0; try < 20 && !moved; try++ {
			a := draw(rng, all, &some)
			after := w
			if !x.apply(&after, a) && x.fault == "" || after == w {
				continue
			}
			if noting {
				done.Trace = append(done.Trace, x.describe(&w, a))
			}
			w, moved = after, true
			done.Taken[a.kind]++
			if fault := x.check(&w); fault != "" {
				if noting {
					done.Trace = append(done.Trace, "broken: "+fault)
				}
				return fault
			}
			if noting {
				done.Trace = append(done.Trace, "      "+x.show(&w))
			}
		}
		if !moved {
			break
		}
		done.Steps++
	}
	if w.truth != begin {
		done.Commits++
	}
	for k := range w.plans {
		done.Epochs += int(fact(w.plans[k].led))
	}
	return ""
}

// draw picks a kind of action by its odds, then one of that kind.
func draw(rng *rand.Rand, all []action, some *[]action) action {
	var present [actKinds]bool
	sum := 0
	for _, a := range all {
		if !present[a.kind] {
			present[a.kind] = true
			sum += odds[a.kind]
		}
	}
	at := rng.IntN(sum)
	kind := actionKind(0)
	for ; ; kind++ {
		if present[kind] {
			if at < odds[kind] {
				break
			}
			at -= odds[kind]
		}
	}
	*some = (*some)[:0]
	for _, a := range all {
		if a.kind == kind {
			*some = append(*some, a)
		}
	}
	return (*some)[rng.IntN(len(*some))]
}

// Large returns the scopes of the walks.
func Large() []Scope {
	all := Scope{
		MinCopies: 1, Epochs: 9, Frames: 14, Crashes: 3, Wipes: 2, Reconfigurations: 3, Cuts: 3, AnyConfig: true,
		SlowTold: true, SlowHello: true, SlowSlaves: true, SlowDisk: true, SlowMaster: true, SlaveCommit: true,
	}
	with := func(name string, replicas, members, copies int) Scope {
		s := all
		s.Name, s.Replicas, s.Members, s.Copies = name, replicas, members, copies
		return s
	}
	return []Scope{
		with("3 replicas, copies 2", 3, 3, 2), with("2 members and a learner", 3, 2, 2), with("4 replicas, copies 3", 4, 4, 3),
		with("5 replicas, copies 3", 5, 5, 3), with("5 replicas, 3 members", 5, 3, 2),
	}
}
