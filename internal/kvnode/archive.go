package kvnode

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"lockstep/internal/archive/s3"
	"lockstep/internal/backup"
	"lockstep/internal/checkpoint"
	"lockstep/smr"
)

// ArchiveConfig says where images go so that the group can be restored from the archive alone, beside the log that replicators write there.
type ArchiveConfig struct {
	// Where is an existing directory, or s3://BUCKET/PREFIX: that of the replicators. Default: none, no images are archived.
	Where string
	// LogBytes is how far the log may grow behind the newest archived image until another one is archived: so much a restore executes, or
	// a few tenths more. Default 4 GiB: half a minute.
	LogBytes int64
	// Every is how old the newest archived image may become. Default 24 h.
	Every time.Duration
	// Keep says how much of the archive is kept. Default: all of it.
	Keep backup.Keep
}

func (c ArchiveConfig) check(images ImageConfig, complain func(wrong bool, format string, values ...any)) {
	if c.Where == "" {
		complain(c.Keep.Limited(), "bounds of an archive without an archive: name it with --archive")
		return
	}
	if err := s3.Check(c.Where); err != nil {
		complain(true, "archive: %v", err)
	}
	complain(images.Dir == "", "only a node that keeps images can archive them: name a directory for them")
	complain(c.LogBytes < minImageLog, "an archived image for every %d bytes of the log: use at least %d", c.LogBytes, minImageLog)
	complain(c.Every < time.Second, "an archived image every %v: use at least 1s", c.Every)
	if err := c.Keep.Check(); err != nil {
		complain(true, "%v", err)
	}
}

const (
	// archiveLook is how often is looked whether an image is due, at most; a sixtieth of ArchiveConfig.Every if that is less.
	archiveLook = time.Minute
	// archiveGapLooks is how often is looked for a gap in the archived log, in looks.
	archiveGapLooks = 10
	// archiveRest is the pause behind a failure.
	archiveRest = 30 * time.Second
	// archiveBurst bounds, in bytes, what is read in one go for the archive.
	archiveBurst = 1 << 20
)

// imageArchiver brings images into the archive when they are due there. All nodes of a group look, and each draws how much longer than the
// configuration says it waits, one beside the master longer than others: so one of them does it, by and large, a slave by preference. If two do,
// there is an image more. A nil imageArchiver does nothing.
type imageArchiver struct {
	keeper  *imageKeeper
	config  ArchiveConfig
	limiter *rate.Limiter // nil: no bound
	patient float64       // drawn, 0 to 1
	looks   int

	facts archiveFacts
}

// archiveFacts is what people are told about the archive's images.
type archiveFacts struct {
	mu       sync.Mutex
	known    bool      // the archive was looked at
	lsn      smr.LSN   // of the newest image there, 0 if there is none
	stamp    time.Time // its log time
	count    int       // images there
	archived int64     // images that this node brought there since its start
	bytes    int64     // their bytes
	failures int64     // since the start
	failure  string    // what went wrong last, "" if nothing has since
}

func newImageArchiver(k *imageKeeper, config Config) *imageArchiver {
	if config.Archive.Where == "" {
		return nil
	}
	a := &imageArchiver{keeper: k, config: config.Archive, patient: rand.Float64()} // #nosec G404 -- spreads the turns of nodes
	if most := config.Admin.BytesPerSecond; most > 0 {
		a.limiter = rate.NewLimiter(rate.Limit(most), archiveBurst)
	}
	return a
}

// run archives images until ctx ends. What goes wrong with the archive is said and tried again: it is no reason to stop serving.
func (a *imageArchiver) run(ctx context.Context) {
	if a == nil {
		return
	}
	look := min(archiveLook, a.config.Every/60+time.Second/2)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		wait := look
		if err := a.look(ctx); err != nil && ctx.Err() == nil {
			a.keeper.node.logger.Error("archive of images", "archive", a.config.Where, "error", err.Error())
			a.facts.mu.Lock()
			a.facts.failures++
			a.facts.failure = err.Error()
			a.facts.mu.Unlock()
			wait = max(look, archiveRest)
		}
		timer.Reset(wait)
	}
}

// look archives an image if one is due.
func (a *imageArchiver) look(ctx context.Context) error {
	store, err := s3.Open(a.config.Where)
	if err != nil {
		return err
	}
	n := a.keeper.node
	to := backup.Archive{Store: store, Cluster: n.config.Cluster, Group: n.config.Group}
	newest, count, err := to.Newest(ctx)
	if err != nil {
		return err
	}
	a.note(newest, count)
	due, err := a.due(ctx, to, newest, time.Now())
	if err != nil || !due {
		return err
	}
	made, err := a.archive(ctx, to)
	if err != nil {
		return err
	}
	a.patient = rand.Float64() // #nosec G404 -- spreads the turns of nodes
	n.logger.Info("image archived", "lsn", uint64(made.LSN), "bytes", made.Bytes, "archive", store.String())
	a.facts.mu.Lock()
	a.facts.archived++
	a.facts.bytes += made.Bytes
	a.facts.mu.Unlock()
	a.note(&made, count+1)
	if _, err := to.Sweep(ctx, time.Now()); err != nil { // its credentials may not be good for that
		n.logger.Warn("what is left of objects that were never completed stays in the archive", "archive", store.String(), "error", err.Error())
	}
	if !a.config.Keep.Limited() {
		return nil
	}
	plan, err := to.Plan(ctx, a.config.Keep, time.Now())
	if err != nil || plan.Empty() {
		return err
	}
	if err := to.Remove(ctx, plan); err != nil {
		return err
	}
	a.note(&made, len(plan.Kept))
	n.logger.Info("archive trimmed", "images", len(plan.Images), "log_ranges", len(plan.Log), "bytes", plan.Bytes(), "archive", store.String())
	return nil
}

func (a *imageArchiver) note(newest *backup.Backup, count int) {
	a.facts.mu.Lock()
	defer a.facts.mu.Unlock()
	a.facts.known, a.facts.count, a.facts.failure = true, count, ""
	if newest != nil {
		a.facts.lsn, a.facts.stamp = newest.LSN, time.UnixMilli(newest.Stamp)
	}
}

// due reports whether this node archives an image now.
func (a *imageArchiver) due(ctx context.Context, in backup.Archive, newest *backup.Backup, now time.Time) (bool, error) {
	n := a.keeper.node
	applied := n.Applied()
	if !n.caughtUp.Load() || applied == 0 {
		return false, nil
	}
	longer := 1 + a.patient/5
	if n.log.Status().Role == smr.RoleMaster {
		longer += 0.2
	}
	if newest == nil {
		a.looks++
		return float64(a.looks) >= 10*(longer-1), nil // the first one, too, is one node's
	}
	if applied <= newest.LSN {
		return false, nil
	}
	if float64(applied-newest.LSN) >= longer*float64(a.config.LogBytes) || now.Sub(newest.Created) >= time.Duration(longer*float64(a.config.Every)) {
		return true, nil
	}
	if a.looks++; a.looks%archiveGapLooks != 0 {
		return false, nil
	}
	gap, err := in.GapBehind(ctx, newest.LSN)
	if gap != nil {
		n.logger.Warn("an image is archived because the archived log behind the newest one has a gap", "lsn", uint64(newest.LSN), "error", gap.Error())
	}
	return gap != nil, err
}

// archive takes an image and brings it into the archive.
func (a *imageArchiver) archive(ctx context.Context, to backup.Archive) (made backup.Backup, err error) {
	lsn, err := a.keeper.TakeImage(ctx)
	if err != nil {
		return made, fmt.Errorf("take an image for the archive: %w", err)
	}
	from := filepath.Join(a.keeper.Dir(), checkpoint.Name(lsn))
	manifest, err := checkpoint.ReadManifest(from)
	if err != nil {
		return made, err
	}
	links := filepath.Join(a.keeper.config.Dir, "archiving")
	if err := os.RemoveAll(links); err != nil { // of an earlier life, perhaps
		return made, fmt.Errorf("remove %s: %w", links, err)
	}
	defer os.RemoveAll(links)
	if err := backup.LinkImage(from, links, manifest); err != nil {
		return made, err
	}
	return to.Create(ctx, backup.Source{Dir: links, Node: string(a.keeper.node.config.Node), Label: "by itself", Wait: a.wait})
}

// wait keeps to the rate of images.
func (a *imageArchiver) wait(ctx context.Context, bytes int) error {
	if a.limiter == nil {
		return nil
	}
	return a.limiter.WaitN(ctx, min(bytes, archiveBurst))
}
