package replicator

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"lockstep/internal/archive"
	"lockstep/internal/archive/s3"
	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/replica"
)

const (
	// archiveRound is how often the archiver looks what has been committed.
	archiveRound = time.Second
	// archiveRange is about how many bytes go into one range of the archive.
	archiveRange = 16 << 20
	// archiveIdle is how many times longer what holds no request waits.
	archiveIdle = 10
	// archiveComplaint is the least distance between two complaints of the same, archiveOther between two others.
	archiveComplaint = time.Minute
	archiveOther     = time.Second
	// archivePatience bounds what is archived while the process ends.
	archivePatience = 5 * time.Second
)

// Archive says where the committed stream is archived.
type Archive struct {
	// Dir is a directory that all replicas of the group share, or that is copied to where it is safe; it must exist. Or s3://BUCKET/PREFIX
	// (internal/archive/s3). Empty: nothing is archived.
	Dir string
	// Every is how long what is committed waits until it is archived, at most; default 10 s.
	Every time.Duration
	// Compress packs what is archived with zstd.
	Compress bool
	// LagBytes bounds how much of the log is kept because the archive does not have it yet; default 4 GiB. Beyond it the log is
	// trimmed, the archive gets a gap, and that is said at level error.
	LagBytes int64
}

// Defaults of Archive.
const (
	DefaultArchiveEvery = 10 * time.Second
	DefaultArchiveLag   = 4 << 30
)

func (a Archive) withDefaults() Archive {
	if a.Every == 0 {
		a.Every = DefaultArchiveEvery
	}
	if a.LagBytes == 0 {
		a.LagBytes = DefaultArchiveLag
	}
	return a
}

func (a Archive) validate(bad func(string, ...any)) {
	if err := s3.Check(a.Dir); err != nil {
		bad("archive: %v", err)
	}
	if a.Every < 10*time.Millisecond || a.Every > 24*time.Hour {
		bad("archive-every: %v: use 10ms to 24h", a.Every)
	}
	if a.LagBytes < 1 || a.LagBytes > maxKeepBytes {
		bad("archive-lag-cap: %d: use 1 to %d", a.LagBytes, int64(maxKeepBytes))
	}
}

// archiver writes the committed stream into the archive while this replica leads; else it only looks how far the archive is. A
// nil archiver does nothing. It is a goroutine of its own: a slow or broken archive holds up nothing but trimming.
type archiver struct {
	node   *node
	o      Archive
	log    *archive.Log // nil until it could be opened
	reader *log.Reader

	archived atomic.Uint64 // LSN: the archive reaches so far, as reach has it
	held     atomic.Uint64 // LSN: the highest that hold has returned

	failures atomic.Uint64 // rounds that failed
	gaps     atomic.Uint64
	proven   atomic.Int64 // Unix milliseconds: everything that was committed then is archived

	pending    mark // everything below was committed then; zero: nothing is waited for
	reach      archive.Reach
	began      time.Time // when the oldest byte that is not archived was first seen
	complained time.Time
	complaint  string // the last one
}

// newArchiver returns nil if nothing is to be archived.
func newArchiver(n *node) (*archiver, error) {
	o := n.cfg.Archive.withDefaults()
	if o.Dir == "" {
		return nil, nil
	}
	reader, err := log.OpenReader(nil, n.logDir)
	if err != nil {
		return nil, err
	}
	a := &archiver{node: n, o: o, reader: reader}
	a.proven.Store(time.Now().UnixMilli()) // who has just started is not behind
	return a, nil
}

// open opens the archive. One that is not there, a mount that is gone perhaps, is no reason not to start.
func (a *archiver) open() error {
	if a.log != nil {
		return nil
	}
	store, err := s3.Open(a.o.Dir)
	if err != nil {
		return err
	}
	a.log = archive.OpenLog(store, a.node.cfg.Cluster, a.node.cfg.Group)
	a.node.cfg.Logger.Info("archiving", "group", a.node.cfg.Group, "node", a.node.cfg.Node, "archive", store.String())
	return nil
}

// hold returns from where on the log must stay when the KV node can start from checkpoint: nothing goes that the archive does not
// have, within the bound. It never goes back, but to a checkpoint that did: of a KV node that was started without the image that it had before.
func (a *archiver) hold(checkpoint smr.LSN) smr.LSN {
	if a == nil {
		return checkpoint
	}
	to := min(checkpoint, smr.LSN(a.archived.Load()))
	if safe := a.node.snapshot.get().Safe; uint64(safe) > uint64(to) && uint64(safe-to) > uint64(a.o.LagBytes) {
		to = max(to, min(checkpoint, safe-smr.LSN(a.o.LagBytes)))
	}
	to = max(to, smr.LSN(a.held.Load()))
	a.held.Store(uint64(to)) // one goroutine at a time calls this: the one that hears the KV node
	return min(to, checkpoint)
}

// run archives until ctx ends. What goes wrong with the archive is said and tried again: it is no reason to stop replicating.
func (a *archiver) run(ctx context.Context) error {
	defer a.reader.Close()
	ticker := time.NewTicker(min(archiveRound, a.o.Every))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			a.complain(a.round(ctx, false))
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), archivePatience)
			defer cancel()
			a.complain(a.round(ctx, true))
			return nil
		}
	}
}

// complain says what is wrong, once in a while.
func (a *archiver) complain(err error) {
	if err != nil {
		a.failures.Add(1)
	}
	lag := a.lag()
	tooFar := lag > a.o.LagBytes
	if err == nil && !tooFar {
		return
	}
	text := fmt.Sprintf("the archive lags by more than %d bytes: the log is trimmed nevertheless, and the archive will have a gap", a.o.LagBytes)
	if err != nil {
		text = err.Error()
	}
	if since := time.Since(a.complained); since < archiveOther || text == a.complaint && since < archiveComplaint {
		return
	}
	a.complained, a.complaint = time.Now(), text
	a.node.cfg.Logger.Error("archive", "group", a.node.cfg.Group, "node", a.node.cfg.Node, "lsn", a.archived.Load(), "lag_bytes", lag, "error", text)
}

// lag is how many committed bytes are not archived.
func (a *archiver) lag() int64 {
	safe, archived := uint64(a.node.snapshot.get().Safe), a.archived.Load()
	return int64(safe - min(safe, archived))
}

// round looks once. all leaves nothing for later.
func (a *archiver) round(ctx context.Context, all bool) error {
	if err := a.open(); err != nil {
		return err
	}
	status := a.node.snapshot.get()
	if a.pending.at.IsZero() {
		a.pending = mark{status.Safe, time.Now()}
	}
	defer a.prove()
	if a.reach.Due(status.Leading) {
		if may, err := a.look(ctx, &status); err != nil || !may {
			return err
		}
	}
	if !status.Leading {
		a.began = time.Time{}
		return nil
	}
	for {
		more, err := a.append(ctx, status.Start, status.Safe, all)
		if err != nil || !more {
			return err
		}
	}
}

// look looks how far the archive is. It reports whether this log may be archived behind it, if the replica leads.
func (a *archiver) look(ctx context.Context, status *replica.Status) (bool, error) {
	finding, newest, err := a.reach.Look(ctx, a.log, status.Leading, archive.Own{Reader: a.reader, Start: status.Start, Safe: status.Safe, End: status.End})
	a.archived.Store(uint64(a.reach.End()))
	switch finding {
	case archive.Continues, archive.Unreadable: // of the archive, `smrctl backup verify` says what is damaged
		return true, nil
	case archive.Broken:
		return false, fmt.Errorf("the archive reaches LSN %d and holds what this group's log does not have: a recovery by force has given it up, or it was another group of that name. "+
			"Nothing is archived, so that the two do not mix: move the folder %s of the archive away (it is all that is left of lost writes), or name another archive",
			newest.End, archive.Folder(a.node.cfg.Cluster, a.node.cfg.Group))
	}
	return false, err
}

// prove notes up to when everything that was committed is archived.
func (a *archiver) prove() {
	if a.reach.Known() && a.pending.lsn <= smr.LSN(a.archived.Load()) {
		a.proven.Store(a.pending.at.UnixMilli())
		a.pending = mark{}
	}
}

// age returns how far the archive is behind what is committed here.
func (a *archiver) age(now time.Time) time.Duration {
	return max(0, now.Sub(time.UnixMilli(a.proven.Load())))
}

// append archives a range of what lies below safe, if it is due; more is true if there may be another.
func (a *archiver) append(ctx context.Context, start, safe smr.LSN, all bool) (more bool, err error) {
	from := smr.LSN(a.archived.Load())
	if from < start {
		if from > 0 {
			a.gaps.Add(1)
			a.node.cfg.Logger.Error("archive has a gap", "group", a.node.cfg.Group, "node", a.node.cfg.Node, "from", uint64(from), "end", uint64(start),
				"action", "take a backup now: nothing can be restored to what lies behind the gap without one")
		}
		from = start
	}
	if safe <= from {
		return false, nil // nothing, or a new master that does not know yet what is committed
	}
	if a.began.IsZero() {
		a.began = time.Now()
	}
	waited := time.Since(a.began)
	if safe-from < archiveRange && waited < a.o.Every && !all {
		return false, nil
	}
	content, busy, err := a.gather(from, safe)
	if err != nil {
		return false, fmt.Errorf("read the log from %d on for the archive: %w", from, err)
	}
	if len(content.Bytes) < archiveRange && !busy && waited < archiveIdle*a.o.Every && !all {
		return false, nil
	}
	if len(content.Bytes) == 0 {
		return false, nil
	}
	r, err := a.log.Append(ctx, content, a.o.Compress)
	if err != nil {
		return false, err
	}
	a.reach.Appended(archive.Span{From: r.From, End: r.End})
	a.archived.Store(uint64(a.reach.End()))
	a.began = time.Time{}
	return r.End < safe, ctx.Err()
}

// gather reads whole frames from from on, about archiveRange bytes. busy is true if one of them holds more than the passing of time.
func (a *archiver) gather(from, safe smr.LSN) (content archive.Content, busy bool, err error) {
	content = archive.Content{From: from, Node: a.node.cfg.Node}
	buffer := make([]byte, 1<<20)
	for at := from; at < safe; {
		var next smr.LSN
		next, buffer, err = a.reader.Frames(buffer, at, safe, func(f smr.Frame, raw []byte) error {
			if len(content.Bytes) > 0 && len(content.Bytes)+len(raw) > archiveRange {
				return errEnough
			}
			if content.Frames == 0 {
				content.FirstStamp = f.Stamp
			}
			content.LastStamp = f.Stamp
			content.Frames++
			content.Bytes = append(content.Bytes, raw...)
			busy = busy || f.Kind == smr.KindRequests || f.Kind == smr.KindEpochStart
			return nil
		})
		if errors.Is(err, errEnough) || err == nil && next == at {
			return content, busy, nil
		}
		if err != nil {
			return content, busy, err
		}
		at = next
	}
	return content, busy, nil
}
