package sim

import "lockstep/smr"

// Broken runs a calm schedule, breaks something in its middle, and returns what the checker says.
func Broken(seed uint64, breakIt func(w *world)) *Violation {
	w := newWorld(drawOptions(seed, false))
	w.o.Replicas, w.o.Copies, w.o.MinCopies, w.o.Lose, w.o.Keys = 3, 2, 2, 0, 1
	w.o.HealMillis, w.o.OpMicros = 3000, 5000
	return w.guardedBy(func() {
		w.build(1)
		w.run(800 * millisecond)
		breakIt(w)
		w.run(1600 * millisecond)
		w.heal()
		w.converge()
	})
}

func (w *world) leading() *replicator {
	for _, h := range w.hosts {
		if h.replicator != nil && h.replicator.status.Leading {
			return h.replicator
		}
	}
	panic("nobody leads")
}

// elect begins an election for no reason.
func (w *world) elect() { w.strike(&Fault{Kind: FaultElect}) }

func (w *world) restartAllKV() {
	for _, h := range w.hosts {
		h.crashKV()
		h.startKV()
	}
}

func decodeEmptySessions() (smr.SessionTable, []byte, error) {
	var empty smr.SessionTable
	return smr.DecodeSessionTable(empty.Append(nil))
}

// firstRequests returns a committed frame of requests as it would stand at the end of the log.
func (w *world) firstRequests() []byte {
	for at := smr.LSN(0); ; {
		f, err := smr.DecodeFrame(w.check.committed[at:], at)
		if err != nil {
			panic(err)
		}
		if f.Kind == smr.KindRequests {
			f.LSN, f.Commit = w.check.end(), 0
			return smr.AppendFrame(nil, f)
		}
		at = f.End()
	}
}
