package kvnode

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/internal/kv"
	"lockstep/internal/level"
	"lockstep/internal/obs"
	"lockstep/proto"
	"lockstep/smr"
)

// gauges count what passes: the part of the metrics that is not read from what the node knows anyway.
type gauges struct {
	commit    obs.Histogram
	readIndex obs.Histogram
	writes    obs.Histogram
}

func newGauges(config Config) *gauges {
	labels := obs.Labels{"group": config.Group, "node": string(config.Node)}
	return &gauges{
		commit: obs.NewHistogram("lockstep_kv_commit_duration_seconds",
			"From when the writes of a client's pipeline are handed to the log until all of them are committed and executed here.", labels, obs.Durations()),
		readIndex: obs.NewHistogram("lockstep_kv_read_index_duration_seconds",
			"From when a read asks the master for an LSN until this node has executed up to there. Reads of a pipeline share one question.", labels, obs.Durations()),
		writes: obs.NewHistogram("lockstep_kv_pipeline_writes", "Writes of one client's pipeline that went into the log together.", labels, obs.Powers(14)),
	}
}

// committed notes that so many writes, handed to the log at that node time, have their outcome.
func (n *Node) committed(began time.Duration, writes int) {
	n.gauges.commit.Observe((n.now() - began).Seconds())
	n.gauges.writes.Observe(float64(writes))
}

// families are the metrics that are read when somebody looks.
type families struct {
	lsn, lag, behind, role, epoch, fact                           obs.Family
	pending, pendingBytes, sessions, waiters, keys, outputWaiting obs.Family
	tierBytes, coldKeys, readsBack, tierWaits                     obs.Family
	imageLSN, imageAge, imageBehind, imageTook, imageBytes        obs.Family
	images, imageFailures, imageBusy                              obs.Family
	level                                                         obs.Family
	transfers, transferBytes, transferRate, transferLeft          obs.Family
	archiveLSN, archiveAge, archiveImages                         obs.Family
	archived, archivedBytes, archiveFailures                      obs.Family
}

func newFamilies(config Config) families {
	labels := obs.Labels{"group": config.Group, "node": string(config.Node)}
	gauge := func(name, help string, more ...string) obs.Family {
		return obs.NewFamily(obs.Gauge, "lockstep_kv_"+name, help, labels, more...)
	}
	counter := func(name, help string, more ...string) obs.Family {
		return obs.NewFamily(obs.Counter, "lockstep_kv_"+name, help, labels, more...)
	}
	return families{
		lsn:           gauge("lsn", "A position in the log, in bytes: start, commit and safe as the replicator beside says, applied as executed here.", "point"),
		lag:           gauge("apply_lag_bytes", "Bytes that are safe and not executed here."),
		behind:        gauge("log_time_lag_seconds", "Clock of this machine less the time of the last frame executed here. An idle log moves on once a second."),
		role:          gauge("role", "1 for the role of the replicator beside, 0 for the others.", "role"),
		epoch:         gauge("epoch", "Epoch of the master that the replicator beside knows."),
		level:         gauge("feature_level", "The cluster's feature level as the replicator beside said, and the highest that this program supports.", "of"),
		fact:          gauge("condition", "1 for what is so, 0 for what is not.", "condition"),
		pending:       gauge("pending_requests", "Requests that are neither executed nor refused."),
		pendingBytes:  gauge("pending_bytes", "Bytes of these requests."),
		sessions:      gauge("sessions", "Sessions that the group remembers: lives of KV nodes."),
		waiters:       gauge("blocked_requests", "Blocking commands of all nodes that wait."),
		keys:          gauge("keys", "Keys in all databases."),
		outputWaiting: gauge("output_waiting_bytes", "Bytes of replies that wait for clients."),
		tierBytes:     gauge("tier_bytes", "With --tier-memory: its value, and estimates of the bytes of keys and values in memory and of the values that are not.", "part"),
		coldKeys:      gauge("tier_cold_keys", "With --tier-memory: keys whose values are not in memory."),
		readsBack:     gauge("tier_reads_back", "With --tier-memory: values read from the last image for reading commands since the start or CONFIG RESETSTAT."),
		tierWaits:     gauge("tier_waits", "With --tier-memory: times that the log waited for an image because too much was in memory, since the start."),

		imageLSN:      gauge("checkpoint_lsn", "With --data: LSN of the last image, from which this node can start; 0 if there is none."),
		imageAge:      gauge("checkpoint_age_seconds", "With --data: since the last image was made, or since the start if there is none."),
		imageBehind:   gauge("checkpoint_behind_bytes", "With --data: bytes of log executed since the last image: a start executes them again."),
		imageTook:     gauge("checkpoint_duration_seconds", "With --data: how long the last image took, whether it succeeded or not; 0 if none was taken since the start."),
		imageBytes:    gauge("checkpoint_bytes", "With --data: bytes of the last image, and of these, those that were written for it.", "part"),
		imageBusy:     gauge("checkpoint_running", "With --data: 1 while an image is taken."),
		images:        counter("checkpoints_total", "With --data: images taken since the start."),
		imageFailures: counter("checkpoint_failures_total", "With --data: images that could not be taken since the start."),

		transfers:     gauge("transfers", "Images on their way to this node (receive) and from it (send).", "direction"),
		transferBytes: gauge("transfer_bytes", "Of the images on their way: bytes that have passed, and all.", "direction", "part"),
		transferRate:  gauge("transfer_bytes_per_second", "Of the images on their way: bytes a second, lately.", "direction"),
		transferLeft:  gauge("transfer_left_seconds", "Of the images on their way: the longest time left, estimated; 0 if it is not known.", "direction"),

		archiveLSN:      gauge("archive_image_lsn", "With --archive: LSN of the newest image in the archive, 0 if there is none."),
		archiveAge:      gauge("archive_image_age_seconds", "With --archive: clock of this machine less the log time of that image; since the start if there is none."),
		archiveImages:   gauge("archive_images", "With --archive: images in the archive."),
		archived:        counter("archive_images_total", "With --archive: images that this node brought into the archive since its start."),
		archivedBytes:   counter("archive_images_bytes_total", "With --archive: bytes of these."),
		archiveFailures: counter("archive_failures_total", "With --archive: tries to write or read the archive that failed since the start."),
	}
}

var roles = []string{
	smr.RoleNone.String(), smr.RoleFenced.String(), smr.RoleMaster.String(), smr.RoleSlave.String(), smr.RoleLearner.String(),
}

// collect sends the metrics of this node under names of our own and under those of redis_exporter.
func (s *subject) collect(metrics chan<- prometheus.Metric) {
	n, f := s.node, &s.families
	status, applied := n.log.Status(), n.Applied()
	for _, point := range []struct {
		name string
		lsn  smr.LSN
	}{{"start", status.Start}, {"commit", status.Commit}, {"safe", status.Safe}, {"applied", applied}} {
		f.lsn.Send(metrics, float64(point.lsn), point.name)
	}
	f.lag.Send(metrics, float64(status.Safe-min(applied, status.Safe)))
	f.role.States(metrics, status.Role.String(), roles)
	f.epoch.Send(metrics, float64(status.Epoch))
	f.level.Send(metrics, float64(n.level.Level()), "cluster")
	f.level.Send(metrics, float64(level.Highest()), "highest")
	facts := []fact{
		{"writable", status.Writable}, {"caught_up", n.caughtUp.Load()}, {"replicator_attached", status.Role != smr.RoleNone},
		{"stopping", n.stopping.Load()},
	}
	if l, ok := n.log.(link); ok {
		stats := l.Stats()
		f.pending.Send(metrics, float64(stats.Pending))
		f.pendingBytes.Send(metrics, float64(stats.PendingBytes))
		facts = append(facts, fact{"refusing", stats.Refusing}, fact{"master_connected", stats.Master != ""}, fact{"log_readable", stats.Trouble == ""})
	}
	for _, so := range facts {
		f.fact.Send(metrics, obs.Fact(so.truth), so.name)
	}
	var waiting int64
	for _, c := range n.clients.list() {
		waiting += c.out.waiting.Load()
	}
	f.outputWaiting.Send(metrics, float64(waiting))
	state, limit := s.machine()
	f.sessions.Send(metrics, float64(state.Sessions))
	f.waiters.Send(metrics, float64(state.Waiters))
	f.keys.Send(metrics, float64(state.Keys))
	if state.Now > 0 {
		f.behind.Send(metrics, max(0, float64(time.Now().UnixMilli()-state.Now)/1000))
	}
	if n.keeper != nil && n.keeper.tier != nil {
		t := n.keeper.tier
		f.tierBytes.Send(metrics, float64(t.bound), "bound")
		f.tierBytes.Send(metrics, float64(t.resident.Load()), "resident")
		f.tierBytes.Send(metrics, float64(t.coldSize.Load()), "cold")
		f.coldKeys.Send(metrics, float64(t.cold.Load()))
		f.readsBack.Send(metrics, float64(n.stats.readsBack.Load()))
		f.tierWaits.Send(metrics, float64(t.waits.Load()))
	}
	s.collectImages(metrics, applied, time.Now())
	for _, h := range []obs.Histogram{n.gauges.commit, n.gauges.readIndex, n.gauges.writes} {
		h.Collect(metrics)
	}
	obs.Redis(metrics, n.info([][]byte{[]byte("everything")}))
	length, last, seconds := n.slow.newest()
	obs.RedisSettings(metrics, obs.RedisFacts{
		MaxClients: n.settings.maxClients.Load(), MaxMemory: limit, SlowLength: length, SlowLast: last, SlowSeconds: seconds,
	})
}

// collectImages sends what there is to say of images: taken, on their way, archived.
func (s *subject) collectImages(metrics chan<- prometheus.Metric, applied smr.LSN, now time.Time) {
	n, f := s.node, &s.families
	f.sendTransfers(metrics, "receive", n.incoming.Transfer())
	var sent []*proto.ImageTransfer
	if n.lender != nil {
		sent = n.lender.Transfers()
	}
	f.sendTransfers(metrics, "send", sent...)
	k := n.keeper
	if k == nil {
		return
	}
	k.facts.mu.Lock()
	lsn, made, took, busy := k.facts.lsn, k.facts.made, k.facts.took, !k.facts.begun.IsZero()
	bytes, written, saves, failures := k.facts.bytes, k.facts.written, k.facts.saves, k.facts.failures
	k.facts.mu.Unlock()
	if made.IsZero() {
		made = n.started
	}
	f.imageLSN.Send(metrics, float64(lsn))
	f.imageAge.Send(metrics, max(0, now.Sub(made).Seconds()))
	f.imageBehind.Send(metrics, float64(applied-min(lsn, applied)))
	f.imageTook.Send(metrics, took.Seconds())
	f.imageBytes.Send(metrics, float64(bytes), "all")
	f.imageBytes.Send(metrics, float64(written), "written")
	f.imageBusy.Send(metrics, obs.Fact(busy))
	f.images.Send(metrics, float64(saves))
	f.imageFailures.Send(metrics, float64(failures))
	a := k.archiver
	if a == nil {
		return
	}
	a.facts.mu.Lock()
	defer a.facts.mu.Unlock()
	stamp := a.facts.stamp
	if stamp.IsZero() {
		stamp = n.started
	}
	f.archiveLSN.Send(metrics, float64(a.facts.lsn))
	f.archiveAge.Send(metrics, max(0, now.Sub(stamp).Seconds()))
	f.archiveImages.Send(metrics, float64(a.facts.count))
	f.archived.Send(metrics, float64(a.facts.archived))
	f.archivedBytes.Send(metrics, float64(a.facts.bytes))
	f.archiveFailures.Send(metrics, float64(a.facts.failures))
}

// sendTransfers sends what there is to say of the images that go one way, nil ones left out.
func (f *families) sendTransfers(metrics chan<- prometheus.Metric, direction string, list ...*proto.ImageTransfer) {
	var count, done, total, rate, left uint64
	for _, t := range list {
		if t == nil {
			continue
		}
		count++
		done += t.GetBytesDone()
		total += t.GetBytesTotal()
		rate += t.GetBytesPerSecond()
		left = max(left, t.GetLeftMs())
	}
	f.transfers.Send(metrics, float64(count), direction)
	f.transferBytes.Send(metrics, float64(done), direction, "done")
	f.transferBytes.Send(metrics, float64(total), direction, "total")
	f.transferRate.Send(metrics, float64(rate), direction)
	f.transferLeft.Send(metrics, float64(left)/1000, direction)
}

type fact struct {
	name  string
	truth bool
}

// machine reads a few figures under the lock that every read takes.
func (s *subject) machine() (state kv.Stats, maxMemory int64) {
	n := s.node
	n.lock.RLock()
	defer n.lock.RUnlock()
	limit, _ := n.machine.Setting("maxmemory")
	maxMemory, _ = strconv.ParseInt(limit, 10, 64)
	return n.machine.Stats(), maxMemory
}

// newest returns the length of the slow log, and id and duration in seconds of its newest entry.
func (l *slowLog) newest() (length int, id int64, seconds float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	length = len(l.entries)
	if length > 0 {
		entry := &l.entries[length-1]
		id, seconds = entry.id, entry.duration.Seconds()
	}
	return length, id, seconds
}
