package kvnode

import (
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/internal/obs"
	"lockstep/smr"
)

// deadApply is how long the machine may be held without getting on before only a restart helps.
const deadApply = time.Minute

// subject is a KV node as its observer sees it: obs.Subject.
type subject struct {
	node     *Node
	families families

	mu      sync.Mutex
	applied smr.LSN   // when Live was asked last
	since   time.Time // then it had got on, or could be read
}

func newSubject(n *Node) *subject {
	return &subject{node: n, families: newFamilies(n.config), since: time.Now()}
}

// Collect implements obs.Subject.
func (s *subject) Collect(metrics chan<- prometheus.Metric) { s.collect(metrics) }

// Live implements obs.Subject.
func (s *subject) Live() error {
	n := s.node
	free := n.lock.TryRLock()
	if free {
		n.lock.RUnlock()
	}
	return s.judge(free, n.Applied(), time.Now())
}

// judge says whether the machine has been held for too long by somebody who does not get on.
func (s *subject) judge(free bool, applied smr.LSN, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if free || applied != s.applied {
		s.applied, s.since = applied, now
	}
	if held := now.Sub(s.since); held > deadApply {
		return fmt.Errorf("the keyspace has been held for %v at LSN %d", held, applied)
	}
	return nil
}

// Ready implements obs.Subject.
func (s *subject) Ready(role obs.Role) []string {
	n := s.node
	status := n.log.Status()
	var missing []string
	miss := func(so bool, format string, values ...any) {
		if so {
			missing = append(missing, fmt.Sprintf(format, values...))
		}
	}
	miss(n.stopping.Load(), "it is stopping")
	miss(status.Role == smr.RoleNone, "the replicator beside it is not there")
	miss(!n.caughtUp.Load(), "it still executes the log of the group: LSN %d of %d", n.Applied(), status.Safe)
	if l, ok := n.log.(link); ok {
		trouble := l.Stats().Trouble
		miss(trouble != "", "it cannot read the log: %s", trouble)
	}
	switch role {
	case obs.Master:
		miss(status.Role != smr.RoleMaster, "it is not beside the master: its role is %s", status.Role)
		miss(!status.Writable, "group %s takes no writes: too few replicas", n.config.Group)
	case obs.Slave:
		miss(status.Role != smr.RoleSlave, "it is not beside a slave: its role is %s", status.Role)
		fallthrough
	default:
		miss(status.Master == "", "group %s has no master", n.config.Group)
	}
	return missing
}
