package replicator

import (
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/obs"
	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/replica"
)

// gauges counts what passes: the one part of the metrics that is not read from what is published anyway. Who counts holds
// no lock for longer than a few instructions; on nil gauges nothing is counted.
type gauges struct {
	syncs    map[string]obs.Histogram // by purpose
	writes   obs.Histogram
	written  atomic.Uint64 // bytes of frames
	durable  obs.Histogram
	commit   obs.Histogram
	requests obs.Histogram
	bytes    obs.Histogram
	events   [eventKinds]atomic.Uint64

	// passing are ends of the log on their way: of the loop.
	passing struct {
		ends            []mark
		durable, commit int // how many of ends have passed
		seen            struct{ end, durable, commit smr.LSN }
	}
	trail  trail
	synced atomic.Uint64 // LSN: what really is on the disk
	// leaseUntil is when the lease ends under which this master is read without asking, by CLOCK_BOOTTIME in microseconds; 0: there is none.
	leaseUntil atomic.Int64
}

// mark is an end of the log and when it was reached.
type mark struct {
	lsn smr.LSN
	at  time.Time
}

// maxPassing bounds the ends that are watched at once; further ones are not measured.
const maxPassing = 1024

// eventKinds are the events of the core, in the order of eventNames.
const eventKinds = 13

var eventNames = [eventKinds]replica.EventName{
	replica.EventFenced, replica.EventLeading, replica.EventFollowing, replica.EventAttached, replica.EventJoined,
	replica.EventRewound, replica.EventReconfigure, replica.EventEstablished, replica.EventPeerGone, replica.EventMasterGone,
	replica.EventNeedImage, replica.EventBroken, replica.EventRejected,
}

// Purposes of a sync.
const (
	purposeFrames = "frames" // what an acknowledgement waits for
	purposeMark   = "mark"
	purposeState  = "state"  // an answer to the configuration master waits for it
	purposeSwitch = "switch" // from one file to the next
	purposeSpare  = "spare"
	purposeOther  = "other"
)

var purposes = map[log.Label]string{
	log.LabelSync: purposeFrames, log.LabelSyncMark: purposeMark, log.LabelStateSync: purposeState,
	log.LabelSyncSeal: purposeSwitch, log.LabelActivateSync: purposeSwitch, log.LabelSpareSync: purposeSpare,
}

func newGauges(group, node string) *gauges {
	labels := obs.Labels{"group": group, "node": node}
	times := func(name, help string, labels obs.Labels) obs.Histogram {
		return obs.NewHistogram("lockstep_replica_"+name, help, labels, obs.Durations())
	}
	m := &gauges{syncs: make(map[string]obs.Histogram)}
	for _, purpose := range []string{purposeFrames, purposeMark, purposeState, purposeSwitch, purposeSpare, purposeOther} {
		m.syncs[purpose] = times("fsync_duration_seconds", "How long fdatasync took, by what for.", obs.With(labels, "purpose", purpose))
	}
	m.writes = times("write_duration_seconds", "How long writing frames into the log file took.", labels)
	const help = "From when bytes are in this replica's log until they are durable here, or known to be committed in the group."
	m.durable = times("commit_duration_seconds", help, obs.With(labels, "stage", "durable"))
	m.commit = times("commit_duration_seconds", help, obs.With(labels, "stage", "commit"))
	m.requests = obs.NewHistogram("lockstep_replica_frame_requests", "Requests that a master put into one frame.", labels, obs.Powers(16))
	m.bytes = obs.NewHistogram("lockstep_replica_frame_bytes", "Bytes of the requests that a master put into one frame.", labels, obs.Powers(26))
	return m
}

// watch returns fs with its syncs and writes measured.
func (m *gauges) watch(fs log.FS) log.FS { return meteredFS{fs, m} }

type meteredFS struct {
	log.FS
	gauges *gauges
}

// Create implements log.FS.
func (fs meteredFS) Create(label log.Label, name string) (log.File, error) {
	return fs.file(fs.FS.Create(label, name))
}

// Open implements log.FS.
func (fs meteredFS) Open(label log.Label, name string) (log.File, error) {
	return fs.file(fs.FS.Open(label, name))
}

func (fs meteredFS) file(f log.File, err error) (log.File, error) {
	if err != nil {
		return nil, err
	}
	return meteredFile{f, fs.gauges}, nil
}

type meteredFile struct {
	log.File
	gauges *gauges
}

// Sync implements log.File.
func (f meteredFile) Sync(label log.Label) error {
	purpose := purposes[label]
	if purpose == "" {
		purpose = purposeOther
	}
	began := time.Now()
	err := f.File.Sync(label)
	f.gauges.syncs[purpose].Observe(time.Since(began).Seconds())
	return err
}

// WriteBlocks implements log.File: it is how frames are appended.
func (f meteredFile) WriteBlocks(label log.Label, p []byte, at int64) error {
	began := time.Now()
	err := f.File.WriteBlocks(label, p, at)
	f.gauges.writes.Observe(time.Since(began).Seconds())
	if err == nil {
		f.gauges.written.Add(uint64(len(p)))
	}
	return err
}

// proposed notes what is about to become a frame. Called by the loop.
func (m *gauges) proposed(p *replica.Propose) {
	if m == nil {
		return
	}
	count, bytes := 0, 0
	for i := range p.Batches {
		count += p.Batches[i].Count
		bytes += len(p.Batches[i].Requests)
	}
	m.requests.Observe(float64(count))
	m.bytes.Observe(float64(bytes))
}

// happened counts events of the core. Called by the loop.
func (m *gauges) happened(events []replica.Event) {
	if m == nil {
		return
	}
	for i := range events {
		for kind, name := range eventNames {
			if events[i].Name == name {
				m.events[kind].Add(1)
			}
		}
	}
}

// leased notes until when this master is read under its lease. Called by the loop.
func (m *gauges) leased(until int64) {
	if m != nil {
		m.leaseUntil.Store(until)
	}
}

// round looks at a status that the loop publishes.
func (m *gauges) round(status *replica.Status) {
	if m == nil {
		return
	}
	p := &m.passing
	if status.End < p.seen.end { // rewound
		p.ends, p.durable, p.commit = p.ends[:0], 0, 0
		m.trail.cut(status.End)
	}
	if status.End == p.seen.end && status.Durable == p.seen.durable && status.Commit == p.seen.commit {
		return
	}
	now := time.Now()
	if status.End > p.seen.end {
		m.trail.add(mark{status.End, now}, m.neededBy(status))
		if p.seen.end > 0 && len(p.ends) < maxPassing {
			p.ends = append(p.ends, mark{status.End, now})
		}
	}
	p.seen.end, p.seen.durable, p.seen.commit = status.End, status.Durable, status.Commit
	for ; p.durable < len(p.ends) && p.ends[p.durable].lsn <= status.Durable; p.durable++ {
		m.durable.Observe(now.Sub(p.ends[p.durable].at).Seconds())
	}
	for ; p.commit < len(p.ends) && p.ends[p.commit].lsn <= status.Commit; p.commit++ {
		m.commit.Observe(now.Sub(p.ends[p.commit].at).Seconds())
	}
	if done := min(p.durable, p.commit); done == len(p.ends) || done > maxPassing/2 {
		p.ends = p.ends[:copy(p.ends, p.ends[done:])]
		p.durable, p.commit = p.durable-done, p.commit-done
	}
}

// neededBy returns the end of what is durable everywhere.
func (m *gauges) neededBy(status *replica.Status) smr.LSN {
	needed := min(status.Durable, smr.LSN(m.synced.Load()))
	for i := range status.Peers {
		if peer := &status.Peers[i]; peer.InConfig || peer.Streams {
			needed = min(needed, peer.Durable)
		}
	}
	return needed
}

// noteSynced notes what really is on the disk. Called by the log writer.
func (m *gauges) noteSynced(lsn smr.LSN) {
	if m != nil {
		m.synced.Store(uint64(lsn))
	}
}

// trail remembers when the log had which end: it tells how old the first byte is that somebody lacks. What all have is
// forgotten; if somebody lacks much, times become coarser.
type trail struct {
	mu      sync.Mutex
	marks   []mark        // ascending; the bytes between two of them came at the later one's time or up to spacing after
	spacing time.Duration // between two marks, at least
}

const (
	maxTrail   = 1024
	leastTrail = 5 * time.Millisecond
	_          = uint(-(maxTrail % 2)) // marks are merged in pairs
)

// add notes an end; everything below needed will never be asked for again.
func (t *trail) add(m mark, needed smr.LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := 0
	for known < len(t.marks) && t.marks[known].lsn <= needed {
		known++
	}
	if known > 0 {
		t.marks = t.marks[:copy(t.marks, t.marks[known:])]
	}
	if len(t.marks) == 0 {
		t.spacing = leastTrail
	}
	if n := len(t.marks); n > 0 && m.at.Sub(t.marks[n-1].at) < t.spacing {
		t.marks[n-1].lsn = m.lsn
		return
	}
	if len(t.marks) == maxTrail {
		for i := range maxTrail / 2 {
			t.marks[i] = mark{lsn: t.marks[2*i+1].lsn, at: t.marks[2*i].at}
		}
		t.marks = t.marks[:maxTrail/2]
		t.spacing *= 2
	}
	t.marks = append(t.marks, m)
}

// cut forgets what lies above lsn.
func (t *trail) cut(lsn smr.LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.marks) > 0 && t.marks[len(t.marks)-1].lsn > lsn {
		t.marks = t.marks[:len(t.marks)-1]
	}
}

// age returns for how long the first byte at lsn has been in the log, 0 if it is not there.
func (t *trail) age(lsn smr.LSN, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := sort.Search(len(t.marks), func(i int) bool { return t.marks[i].lsn > lsn })
	if i == len(t.marks) {
		return 0
	}
	return max(0, now.Sub(t.marks[i].at))
}
