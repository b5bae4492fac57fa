package replicator

import (
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"lockstep/internal/obs"
	"lockstep/smr"
	"lockstep/smr/page"
	"lockstep/smr/replica"
)

const (
	// deadLoop is the silence of the loop, which ticks every few milliseconds, after which only a restart helps.
	deadLoop = 15 * time.Second
	// stuckDisk is how long an operation on the disk may take before the replica does not count as ready.
	stuckDisk = 5 * time.Second
)

// subject is a replicator as its observer sees it: obs.Subject.
type subject struct {
	node     *node
	families families
}

// families are the metrics that are read when somebody looks.
type families struct {
	lsn, role, epoch, fact, copies, lease             obs.Family
	peerDurable, peerLag, peerLate, peerFact          obs.Family
	exposureBytes, exposureTime, commitLag, logSize   obs.Family
	queue, queueBytes, connections, idle, stuck, mute obs.Family
	inputs, written, events, droppedLines             obs.Family
	diskFree, diskSize                                obs.Family
	archiveLSN, archiveLag, archiveAge                obs.Family
	archiveFailures, archiveGaps, level               obs.Family
}

func newSubject(n *node) *subject {
	labels := obs.Labels{"group": n.cfg.Group, "node": n.cfg.Node}
	gauge := func(name, help string, more ...string) obs.Family {
		return obs.NewFamily(obs.Gauge, "lockstep_replica_"+name, help, labels, more...)
	}
	counter := func(name, help string, more ...string) obs.Family {
		return obs.NewFamily(obs.Counter, "lockstep_replica_"+name, help, labels, more...)
	}
	return &subject{node: n, families: families{
		lsn: gauge("lsn", "A position in the log, in bytes: start and end of what is stored, durable here, commit in the group,"+
			" safe for the KV node, applied by it, checkpoint.", "point"),
		role:          gauge("role", "1 for the role that this replica has, 0 for the others.", "role"),
		epoch:         gauge("epoch", "Epoch: current, promised, and established (of the reign whose start is durable on enough members; at a master).", "kind"),
		fact:          gauge("condition", "1 for what is so, 0 for what is not.", "condition"),
		lease:         gauge("lease_seconds", "For how long this replica may be read as the master without asking its slaves, by kind: left now (0: not at all), and the length that is asked for (0: leases are off, or nobody has asked this master for anything for 5 s). Renewed with each heartbeat.", "kind"),
		copies:        gauge("copies", "Replicas that must hold a write (needed), members of the group, members that stream from this master, itself included.", "kind"),
		peerDurable:   gauge("slave_durable_lsn", "At a master: end of what the slave holds durably.", "slave"),
		peerLag:       gauge("slave_lag_bytes", "At a master: bytes of its log that the slave does not hold durably.", "slave"),
		peerLate:      gauge("slave_lag_seconds", "At a master: age of the oldest byte that the slave does not hold durably.", "slave"),
		peerFact:      gauge("slave_streams", "At a master: 1 if the slave is connected and streams. member tells whether it counts.", "slave", "member"),
		exposureBytes: gauge("exposure_bytes", "Bytes that count as durable and would be lost with the power of this machine."),
		exposureTime:  gauge("exposure_seconds", "Age of the oldest of these bytes."),
		commitLag:     gauge("uncommitted_seconds", "Age of the oldest byte in this replica's log that it does not know to be committed."),
		logSize:       gauge("log_size_bytes", "Bytes of the log that are stored."),
		queue:         gauge("queue_length", "What waits: for the loop (control, upstream, proposals), for the log writer (disk), for the log (events).", "queue"),
		queueBytes:    gauge("queue_bytes", "Bytes that wait for the log writer.", "queue"),
		connections:   gauge("connections", "Connections of KV nodes (client) and slaves.", "kind"),
		level:         gauge("feature_level", "The cluster's feature level as this replica was told, and the highest that its replicator supports.", "of"),
		idle:          gauge("loop_idle_seconds", "Since the loop last came round."),
		stuck:         gauge("disk_stuck_seconds", "For how long the disk operation under way has been running; 0 if none is."),
		mute:          gauge("kvnode_silent_seconds", "Since the attached KV node last reported progress; 0 if none is attached."),
		inputs:        counter("loop_inputs_total", "Inputs that the loop has handled."),
		written:       counter("written_bytes_total", "Bytes of frames written into the log."),
		events:        counter("events_total", "Changes of state, by event.", "event"),
		droppedLines:  gauge("dropped_log_lines", "Lines about events that were left out since the last one, because the log could not keep up."),
		diskFree:      gauge("disk_free_bytes", "Free bytes of the file system of the log."),
		diskSize:      gauge("disk_size_bytes", "Size of that file system."),

		archiveLSN:      gauge("archive_lsn", "With --archive: the archived log reaches so far; at a slave as of some seconds ago."),
		archiveLag:      gauge("archive_lag_bytes", "With --archive: bytes that are safe here and not archived."),
		archiveAge:      gauge("archive_age_seconds", "With --archive: what was committed until so long ago is archived."),
		archiveFailures: counter("archive_failures_total", "With --archive: tries to write or read the archive that failed, one a second at most."),
		archiveGaps:     counter("archive_gaps_total", "With --archive: parts of the log that were trimmed before they were archived."),
	}}
}

var roles = []string{
	smr.RoleNone.String(), smr.RoleFenced.String(), smr.RoleMaster.String(), smr.RoleSlave.String(), smr.RoleLearner.String(),
}

// Collect implements obs.Subject.
func (s *subject) Collect(metrics chan<- prometheus.Metric) {
	n, f, now := s.node, &s.families, time.Now()
	status := n.snapshot.get()
	for _, point := range []struct {
		name string
		lsn  smr.LSN
	}{
		{"start", status.Start}, {"end", status.End}, {"durable", status.Durable}, {"commit", status.Commit},
		{"safe", status.Safe}, {"applied", status.Applied}, {"checkpoint", status.Checkpoint},
	} {
		f.lsn.Send(metrics, float64(point.lsn), point.name)
	}
	f.role.States(metrics, status.Role.String(), roles)
	f.epoch.Send(metrics, float64(status.Epoch), "current")
	f.epoch.Send(metrics, float64(status.Promise), "promised")
	f.epoch.Send(metrics, float64(status.Reportable), "established")
	for _, fact := range []struct {
		name  string
		truth bool
	}{
		{"leading", status.Leading}, {"writable", status.Writable}, {"joined", status.Joined}, {"kvnode_attached", status.Attached},
		{"stopped", status.Stopped}, {"needs_checkpoint", status.NeedImage}, {"blank", status.Blank}, {"disk_full", n.disk.full.Load()},
	} {
		f.fact.Send(metrics, obs.Fact(fact.truth), fact.name)
	}
	streaming := 0
	if status.Leading {
		streaming = 1
	}
	for i := range status.Peers {
		peer := &status.Peers[i]
		name := string(peer.Member.Node)
		f.peerDurable.Send(metrics, float64(peer.Durable), name)
		f.peerLag.Send(metrics, float64(status.End-min(peer.Durable, status.End)), name)
		f.peerLate.Send(metrics, n.cfg.gauges.trail.age(peer.Durable, now).Seconds(), name)
		f.peerFact.Send(metrics, obs.Fact(peer.Streams), name, fmt.Sprint(peer.InConfig))
		if peer.Streams && peer.InConfig {
			streaming++
		}
	}
	f.copies.Send(metrics, float64(status.Config.Copies), "needed")
	f.copies.Send(metrics, float64(len(status.Config.Members)), "members")
	f.copies.Send(metrics, float64(streaming), "streaming")
	f.lease.Send(metrics, leaseLeft(n.cfg.gauges.leaseUntil.Load(), page.Boot()), "left")
	f.lease.Send(metrics, leaseLength(n.cfg.leaseTicks(), &status), "length")
	s.collectLog(metrics, now)
	s.collectProcess(metrics)
	n.cfg.gauges.collect(metrics)
}

// leaseLeft is for how many seconds a lease until a time goes on; both in microseconds, 0 if there is none or no clock.
func leaseLeft(until, now int64) float64 {
	if until == 0 || now == 0 {
		return 0
	}
	return float64(max(0, until-now)) / 1e6
}

// leaseLength is for how many seconds leases of so many ticks are asked for.
func leaseLength(ticks int, status *replica.Status) float64 {
	if status.Unused {
		return 0
	}
	return float64(ticks) * replica.TickMillis / 1000
}

// collectLog sends what there is to say of the log and its disk.
func (s *subject) collectLog(metrics chan<- prometheus.Metric, now time.Time) {
	n, f := s.node, &s.families
	status, m := n.snapshot.get(), n.cfg.gauges
	synced := smr.LSN(m.synced.Load())
	exposed, since := smr.LSN(0), time.Duration(0)
	if status.Durable > synced {
		exposed, since = status.Durable-synced, m.trail.age(synced, now)
	}
	f.exposureBytes.Send(metrics, float64(exposed))
	f.exposureTime.Send(metrics, since.Seconds())
	f.commitLag.Send(metrics, m.trail.age(status.Commit, now).Seconds())
	f.logSize.Send(metrics, float64(status.End-min(status.Start, status.End)))
	f.written.Send(metrics, float64(m.written.Load()))
	if a := n.archiver; a != nil {
		f.archiveLSN.Send(metrics, float64(a.archived.Load()))
		f.archiveLag.Send(metrics, float64(a.lag()))
		f.archiveAge.Send(metrics, a.age(now).Seconds())
		f.archiveFailures.Send(metrics, float64(a.failures.Load()))
		f.archiveGaps.Send(metrics, float64(a.gaps.Load()))
	}
	var disk unix.Statfs_t
	if unix.Statfs(n.logDir, &disk) == nil {
		f.diskFree.Send(metrics, float64(disk.Bavail)*float64(disk.Bsize))
		f.diskSize.Send(metrics, float64(disk.Blocks)*float64(disk.Bsize))
	}
}

// collectProcess sends what there is to say of goroutines and connections.
func (s *subject) collectProcess(metrics chan<- prometheus.Metric) {
	n, f := s.node, &s.families
	for _, queue := range []struct {
		name   string
		length int64
	}{
		{"control", int64(len(n.loop.control))}, {"upstream", int64(len(n.loop.upstream))}, {"proposals", int64(len(n.loop.proposals))},
		{"disk", n.disk.waitingOps.Load()}, {"events", int64(len(n.events.queue))},
	} {
		f.queue.Send(metrics, float64(queue.length), queue.name)
	}
	f.queueBytes.Send(metrics, float64(n.disk.waitingBytes.Load()), "disk")
	n.clients.mu.Lock()
	clients := len(n.clients.byID)
	n.clients.mu.Unlock()
	f.connections.Send(metrics, float64(clients), "client")
	f.connections.Send(metrics, float64(n.slaves.Load()), "slave")
	f.level.Send(metrics, float64(n.levels.Level()), "cluster")
	f.level.Send(metrics, float64(n.levels.highest), "highest")
	f.idle.Send(metrics, s.idle().Seconds())
	f.stuck.Send(metrics, float64(n.disk.stuckMillis())/1000)
	f.mute.Send(metrics, float64(n.local.silentMillis())/1000)
	f.inputs.Send(metrics, float64(n.loop.countDone.Load()))
	f.droppedLines.Send(metrics, float64(n.events.dropped.Load()))
	for kind, name := range eventNames {
		f.events.Send(metrics, float64(n.cfg.gauges.events[kind].Load()), string(name))
	}
}

func (m *gauges) collect(metrics chan<- prometheus.Metric) {
	for _, h := range m.syncs {
		h.Collect(metrics)
	}
	for _, h := range []obs.Histogram{m.writes, m.durable, m.commit, m.requests, m.bytes} {
		h.Collect(metrics)
	}
}

func (s *subject) idle() time.Duration {
	return time.Duration(max(0, processMillis()-s.node.loop.lastRound.Load())) * time.Millisecond
}

// Live implements obs.Subject.
func (s *subject) Live() error {
	if idle := s.idle(); idle > deadLoop {
		return fmt.Errorf("the loop of this replicator has not come round for %v", idle)
	}
	return nil
}

// Ready implements obs.Subject.
func (s *subject) Ready(role obs.Role) []string {
	n := s.node
	status := n.snapshot.get()
	var missing []string
	miss := func(so bool, format string, values ...any) {
		if so {
			missing = append(missing, fmt.Sprintf(format, values...))
		}
	}
	miss(status.Stopped, "it has stopped for good: its log needs a person")
	miss(status.NeedImage, "it needs a checkpoint: the log of the master begins behind its own end")
	miss(n.disk.full.Load(), "its disk is full")
	stuck := time.Duration(n.disk.stuckMillis()) * time.Millisecond
	miss(stuck > stuckDisk, "its disk has been at one operation for %v", stuck)
	idle := s.idle()
	miss(idle > stuckDisk, "its loop has not come round for %v", idle)
	led := status.Leading && status.Reportable == status.Epoch
	follows := slices.Contains([]smr.Role{smr.RoleSlave, smr.RoleLearner, smr.RoleNone}, status.Role) && status.Joined
	switch role {
	case obs.Master:
		miss(!status.Leading, "it does not lead: its role is %s", status.Role)
		miss(status.Leading && !led, "the start of its reign is not on enough members yet")
		miss(status.Leading && !status.Writable, "too few members are attached: it cannot commit")
	case obs.Slave:
		miss(status.Leading, "it leads")
		miss(!status.Leading && !follows, "it does not stream from a master: its role is %s", status.Role)
	default:
		miss(!led && !follows, "it neither leads an established reign nor streams from a master: its role is %s", status.Role)
	}
	return missing
}
