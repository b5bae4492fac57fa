package kvnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/apart"
	"lockstep/internal/checkpoint"
	"lockstep/internal/kv"
	"lockstep/internal/transfer"
	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/client"
)

// ImageConfig says where images of the state are kept, and when they are taken.
type ImageConfig struct {
	// Dir is this node's data directory. Default: none; the node then executes the log from its beginning at each start.
	Dir string
	// LogBytes is how far the log may grow behind the last image until the next one is taken. Default 256 MiB: a second or
	// two of execution at a restart.
	LogBytes int64
	// Every is how old the last image may become while the log grows. Default 15 minutes.
	Every time.Duration
	// TierMemory is how much memory the process may take, in bytes, within 10 % from 512 MiB on (footprint): values that are used least are read
	// from the last image. At least 16 MiB. Default 0: all of them stay in memory.
	TierMemory int64
	// Apart lets a process of its own write each image: this program is begun once more, and must then call ServeImageWriter. Default false: it is written
	// by the node's process.
	Apart bool
}

// ImageWriter is the argument of the program when it is begun to write an image.
const ImageWriter = "image-writer"

// ServeImageWriter writes an image for the KV node that began this process, and returns.
func ServeImageWriter() {
	apart.Yield("kvnode-image")
	var processors apart.Processors
	checkpoint.ServeApart(os.Stdin, os.Stdout, func() { os.Exit(1) }, checkpoint.Courtesy{Idle: processors.Idle, Worked: apart.Worked})
}

const (
	// imagePoll is how often the keeper looks whether an image is due.
	imagePoll = time.Second
	// imageRetry is how long it waits after one that was not taken.
	imageRetry = 30 * time.Second
)

// imageKeeper takes images of a node's state and starts nodes from them.
type imageKeeper struct {
	node   *Node
	config ImageConfig
	logDir string
	fetch  transfer.Options
	store  func(checkpoint smr.LSN)      // tells the replicator
	tell   func(smr.Transfer)            // tells the replicator how far an image on its way is
	wanted chan chan<- imageTaken        // who wants an image now
	ended  chan struct{}                 // closed when run has ended
	facts  imageFacts                    // for INFO
	base   func(smr.LSN) ([]byte, error) // what a log needs to begin there

	// taking is held while the engine is used: by the goroutine that takes images, or by the apply loop while it loads one.
	taking   sync.Mutex
	engine   *checkpoint.Engine
	archiver *imageArchiver          // nil: no images are archived
	tier     *tier                   // nil: all values stay in memory
	writer   atomic.Int64            // the process that writes an image, by its id; 0: none does
	stop     context.CancelCauseFunc // ends the image that is being taken; guarded by facts.mu
	// checkpointed: the image that was loaded at the start says where a log can begin.
	checkpointed bool
	// begun is its base, which is held against the log before anything is executed upon the image; nil if it has none.
	begun *log.Base
}

type imageTaken struct {
	lsn smr.LSN
	err error
}

// imageFacts is what people are told about images.
type imageFacts struct {
	mu       sync.Mutex
	begun    time.Time // of the image that is being taken; zero: none is
	lsn      smr.LSN   // of the last one
	made     time.Time
	keys     int64
	took     time.Duration
	failure  string // why the last try was none, "" if it was not
	changes  int64  // Node.changes when the last one was begun
	saves    int64
	bytes    int64 // of the last one
	written  int64 // of these, those that the one before did not have
	failures int64 // since the start
	restored int64 // keys loaded at the start
}

// openImages opens the images of a node that is to be, and loads the newest good one. Machine and manifest are nil if there is none.
func openImages(config Config) (*imageKeeper, *kv.Machine, error) {
	if config.Images.Dir == "" {
		return nil, nil, nil
	}
	k := &imageKeeper{config: config.Images, logDir: filepath.Join(config.ReplicatorDir, "log"), wanted: make(chan chan<- imageTaken), ended: make(chan struct{})}
	k.base = k.baseAt
	logger := config.Logger.With("node", string(config.Node), "group", config.Group)
	var begin func() (checkpoint.Process, error)
	if config.Images.Apart {
		begin = k.beginWriter
	}
	engine, err := checkpoint.Open(checkpoint.Options{
		Apart: begin, Dir: config.Images.Dir, Cluster: config.Cluster, Group: config.Group, Logger: logger,
		Base: func(lsn smr.LSN) ([]byte, error) { return k.base(lsn) },
		Cold: k.config.TierMemory > 0, Warm: k.config.TierMemory / 2, Memory: k.config.TierMemory,
		Waiting: func() bool { return k.tier != nil && k.tier.awaited.Load() },
	})
	if err != nil {
		return nil, nil, err
	}
	if k.config.TierMemory > 0 {
		k.tier = newTier(k, k.config.TierMemory)
	}
	k.engine = engine
	began := time.Now()
	relax := relaxCollector(k.tier == nil)
	machine, manifest, err := engine.Restore(kv.New)
	relax()
	switch {
	case errors.Is(err, checkpoint.ErrForeign), errors.Is(err, checkpoint.ErrNewer):
		return nil, nil, err
	case err != nil: // a peer's, or the whole log, may still do
		logger.Error("no image can be loaded", "dir", engine.Images(), "error", err.Error())
	case manifest != nil:
		if base, err := log.ParseBase(manifest.Base); err == nil && base.LSN == manifest.LSN {
			k.begun = &base
		}
		k.checkpointed = len(manifest.Base) > 0
		k.facts.lsn, k.facts.made, k.facts.keys, k.facts.restored = manifest.LSN, manifest.Created, manifest.Keys, manifest.Keys
		k.facts.bytes = manifest.Bytes
		logger.Info("image loaded", "lsn", uint64(manifest.LSN), "keys", manifest.Keys, "bytes", manifest.Bytes,
			"milliseconds", time.Since(began).Milliseconds())
	}
	k.fetch = transfer.Options{
		Cluster: config.Cluster, Group: config.Group, Node: config.Node, Images: engine.Images(),
		Incoming: filepath.Join(config.Images.Dir, "incoming"), Rounds: 1, Logger: logger, Keeper: config.Keeper,
	}
	return k, machine, nil
}

// beginWriter begins a process that writes an image.
func (k *imageKeeper) beginWriter() (checkpoint.Process, error) {
	p, err := apart.Start(ImageWriter)
	if err != nil {
		return nil, err
	}
	k.writer.Store(int64(p.ID()))
	return p, nil
}

// apartBytes returns what the process takes that writes an image, 0 if there is none.
func (k *imageKeeper) apartBytes() int64 {
	if id := k.writer.Load(); id != 0 {
		return residentBytesOf(strconv.FormatInt(id, 10))
	}
	return 0
}

// loadingPercent is how much the collector lets the heap grow, in percent, while an image is loaded: nearly all that is allocated then stays, so that the
// collector, which would look at it at 8 MiB, 16 MiB, 32 MiB ..., finds nothing.
const loadingPercent = 400

// relaxCollector does that where it may, until what it returns is called. Whoever set the collector (GOGC) knows why.
func relaxCollector(may bool) (restore func()) {
	if !may {
		return func() {}
	}
	before := debug.SetGCPercent(loadingPercent)
	if before != 100 {
		debug.SetGCPercent(before)
	}
	return func() { debug.SetGCPercent(before) }
}

// baseAt returns what a log needs to begin at an LSN that was executed, from the log of the replicator beside.
func (k *imageKeeper) baseAt(lsn smr.LSN) ([]byte, error) {
	reader, err := log.OpenReader(nil, k.logDir)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	base, err := reader.BaseAt(lsn)
	if err != nil {
		return nil, err
	}
	return base.AppendBinary(nil)
}

// keep lets a node that is to be keep images; machine is what the newest one holds, nil if there is none.
func (n *Node) keep(k *imageKeeper, machine *kv.Machine) {
	n.keeper, k.node = k, n
	k.archiver = newImageArchiver(k, n.config)
	if machine != nil {
		n.machine.SetHost(nil)
		n.machine = machine
		n.machine.SetHost(n)
		n.takeUsers(machine.Users())
		n.applied.advance(machine.Applied())
	}
	k.cool(n.machine)
}

// cool lets the values of a machine become cold.
func (k *imageKeeper) cool(machine *kv.Machine) {
	if k.tier != nil {
		machine.SetTier(k.tier)
		k.tier.publish(machine.TierStats())
		k.tier.hurried.Store(uint64(machine.Applied()))
	}
}

// fromImages makes a client's configuration that of a node which begins with an image, and gets them.
func (n *Node) fromImages(config client.Config) client.Config {
	if k := n.keeper; k != nil {
		config.Applied, config.FetchImage, config.Base = n.Applied(), k.bring, k.begun
		if k.checkpointed {
			config.Checkpoint = config.Applied
		}
	}
	return config
}

// hasImage reports whether this node began with an image: what it holds is old, but consistent.
func (n *Node) hasImage() bool {
	if n.keeper == nil {
		return false
	}
	n.keeper.facts.mu.Lock()
	defer n.keeper.facts.mu.Unlock()
	return n.keeper.facts.lsn > 0
}

// Dir implements Images.
func (k *imageKeeper) Dir() string { return k.engine.Images() }

// TakeImage implements Images.
func (k *imageKeeper) TakeImage(ctx context.Context) (smr.LSN, error) {
	taken := make(chan imageTaken, 1)
	select {
	case k.wanted <- taken:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-k.ended:
		return 0, errStopping
	}
	select {
	case t := <-taken:
		return t.lsn, t.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

var errStopping = errors.New("this node is stopping")

// run takes images when they are due or wanted, until ctx ends.
func (k *imageKeeper) run(ctx context.Context) {
	defer close(k.ended)
	poll := time.NewTicker(imagePoll)
	defer poll.Stop()
	var notTill, noHurryTill time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.hurried():
			if time.Now().Before(noHurryTill) {
				k.tier.ease()
				continue
			}
			if _, err := k.take(ctx); err != nil {
				noHurryTill = time.Now().Add(imageRetry)
			}
		case taken := <-k.wanted:
			waiting := append([]chan<- imageTaken{taken}, k.others()...)
			lsn, err := k.take(ctx)
			for _, w := range waiting {
				w <- imageTaken{lsn, err}
			}
			notTill = restsTill(time.Now(), err)
		case now := <-poll.C:
			if now.Before(notTill) || !k.due(now) {
				continue
			}
			_, err := k.take(ctx)
			notTill = restsTill(now, err)
		}
	}
}

// restsTill tells until when no image is taken by itself behind one that ended with err: only failures are worth a rest.
func restsTill(now time.Time, err error) time.Time {
	if err == nil {
		return now
	}
	return now.Add(imageRetry)
}

// others returns those who want an image already: they share the next one.
func (k *imageKeeper) others() (waiting []chan<- imageTaken) {
	for {
		select {
		case w := <-k.wanted:
			waiting = append(waiting, w)
		default:
			return waiting
		}
	}
}

func (k *imageKeeper) close() {
	k.taking.Lock()
	defer k.taking.Unlock()
	if err := k.engine.Close(); err != nil {
		k.node.logger.Warn("images", "error", err.Error())
	}
}

// due reports whether the log has grown enough since the last image, or the image is old.
func (k *imageKeeper) due(now time.Time) bool {
	k.facts.mu.Lock()
	lsn, made := k.facts.lsn, k.facts.made
	k.facts.mu.Unlock()
	applied := k.node.Applied()
	if made.IsZero() {
		made = k.node.started
	}
	return applied >= lsn+smr.LSN(k.config.LogBytes) || applied > lsn && now.Sub(made) >= k.config.Every
}

// take takes an image, and tells the replicator that the log below it is not needed here any more.
func (k *imageKeeper) take(ctx context.Context) (smr.LSN, error) {
	k.taking.Lock()
	defer k.taking.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &k.facts
	f.mu.Lock()
	f.begun, k.stop = time.Now(), cancel
	began, changes := f.begun, k.node.changes.Load()
	f.mu.Unlock()
	manifest, err := k.engine.Take(ctx, k)
	k.writer.Store(0)
	k.stopIfRotten(err)
	if err == nil && len(manifest.Base) == 0 {
		k.node.logger.Warn("the log below the image is kept: the image does not say where a log can begin", "lsn", uint64(manifest.LSN))
	}
	f.mu.Lock()
	f.begun, k.stop = time.Time{}, nil
	f.took = time.Since(began)
	if err != nil {
		f.failure = err.Error()
		f.failures++
	} else {
		f.bytes, f.written = manifest.Bytes, manifest.Written
		f.lsn, f.made, f.keys, f.changes, f.failure = manifest.LSN, time.Now(), manifest.Keys, changes, ""
		f.saves++
	}
	f.mu.Unlock()
	k.tier.ease()
	if err != nil {
		if ctx.Err() == nil {
			k.node.logger.Error("no image", "error", err.Error())
		}
		return 0, err
	}
	if len(manifest.Base) > 0 {
		k.store(manifest.LSN)
	}
	return manifest.LSN, nil
}

// Between implements checkpoint.State.
func (k *imageKeeper) Between(use func(*kv.Machine)) {
	k.node.frame.Lock()
	defer k.node.frame.Unlock()
	k.node.lock.Lock()
	defer k.node.lock.Unlock()
	use(k.node.machine)
}

// Beside implements checkpoint.State.
func (k *imageKeeper) Beside(use func(*kv.Machine)) {
	k.node.lock.RLock()
	defer k.node.lock.RUnlock()
	use(k.node.machine)
}

// bring gets an image that the log reaches: one that is here, or a peer's (client.Config.FetchImage).
func (k *imageKeeper) bring(ctx context.Context, need client.Need) (client.Image, error) {
	manifest, err := k.local(need.From)
	if err == nil && manifest == nil {
		if len(need.Sources) == 0 {
			return client.Image{}, errors.New("no node is known that has an image")
		}
		var peers []transfer.Peer
		for _, source := range need.Sources {
			peers = append(peers, transfer.Peer{Node: source.Node, Address: source.Addr})
		}
		options := k.fetch
		options.AtLeast, options.Meter = need.From, k.node.incoming
		stop := k.showTransfer(ctx)
		manifest, err = transfer.Fetch(ctx, peers, options)
		stop()
	}
	if err != nil {
		return client.Image{}, err
	}
	base, err := log.ParseBase(manifest.Base)
	if err != nil {
		return client.Image{}, fmt.Errorf("image at LSN %d: %w", manifest.LSN, err)
	}
	return client.Image{Base: base, Load: func() (uint64, error) { return k.load(manifest.LSN) }}, nil
}

// showTransfer tells the replicator how far an image on its way is, until stop is called.
func (k *imageKeeper) showTransfer(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var task sync.WaitGroup
	task.Go(func() {
		poll := time.NewTicker(imagePoll)
		defer poll.Stop()
		for {
			select {
			case <-ctx.Done():
				k.tell(smr.Transfer{})
				return
			case <-poll.C:
				p := k.node.incoming.Progress()
				k.tell(smr.Transfer{Done: uint64(p.Done), Total: uint64(p.Total), PerSecond: uint64(p.BytesPerSecond), From: p.Peer})
			}
		}
	})
	return func() {
		cancel()
		task.Wait()
	}
}

// local returns the newest good image from an LSN on that says where a log can begin; nil if there is none.
func (k *imageKeeper) local(from smr.LSN) (*checkpoint.Manifest, error) {
	found, err := checkpoint.List(k.Dir())
	for _, image := range found {
		if image.LSN < from {
			break
		}
		if image.Manifest == nil || len(image.Manifest.Base) == 0 || image.Manifest.Of(k.fetch.Cluster, k.fetch.Group) != nil {
			continue
		}
		if manifest, err := checkpoint.Verify(image.Dir); err == nil {
			return manifest, nil
		}
	}
	return nil, err
}

// load makes the node's state that of an image. It is called from the apply loop, between two frames.
func (k *imageKeeper) load(lsn smr.LSN) (executed uint64, err error) {
	k.facts.mu.Lock()
	if k.stop != nil {
		k.stop(errors.New("an image of a peer is loaded"))
	}
	k.facts.mu.Unlock()
	k.taking.Lock()
	defer k.taking.Unlock()
	machine, manifest, err := k.engine.RestoreAt(lsn, kv.New)
	if err != nil {
		return 0, err
	}
	n := k.node
	k.cool(machine)
	n.become(machine)
	k.engine.ReleaseCold()
	k.facts.mu.Lock()
	k.facts.lsn, k.facts.made, k.facts.keys, k.facts.changes = lsn, manifest.Created, manifest.Keys, n.changes.Load()
	k.facts.bytes, k.facts.written = manifest.Bytes, 0
	k.facts.mu.Unlock()
	k.store(lsn)
	return machine.LastSequence(n.session), nil
}

// become exchanges the machine for one that is further. What clients remember of keys is invalid; those who wait for a key that
// the new state does not know to wait are told that the outcome of their command is unknown; those who listen to messages are cut
// off: messages between the two states never come, and nothing else would tell them.
func (n *Node) become(machine *kv.Machine) {
	n.frame.Lock()
	defer n.frame.Unlock()
	n.lock.Lock()
	defer n.lock.Unlock()
	n.machine.SetHost(nil)
	n.machine = machine
	machine.SetHost(n)
	n.UsersChanged(machine.Users())
	n.executing = machine.Applied()
	for database := range kv.Databases {
		n.Flushed(database)
	}
	for _, b := range n.blocked.all() {
		if !machine.Waits(n.session, b.sequence) {
			b.reply.Error(n.failure(client.Uncertain))
			n.blocked.remove(b.sequence)
			b.set(&b.done)
		}
	}
	for _, sequence := range machine.Waiting(n.session) {
		if n.blocked.find(sequence) == nil { // its client is told, or was, that the outcome is unknown
			n.blocked.abandon(sequence)
		}
	}
	n.shell.tracker.flush(n)
	for _, c := range n.clients.list() {
		if c.about.listening() {
			n.shell.pubsub.removeAll(c)
			c.disconnect()
		}
	}
	n.applied.advance(machine.Applied())
	n.noteProgress()
}

// all returns the commands that wait.
func (l *blockedCommands) all() []*blockedCommand {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*blockedCommand, 0, len(l.bySequence))
	for _, b := range l.bySequence {
		all = append(all, b)
	}
	return all
}

// saveCommand is SAVE: it answers when an image is durable. Without a directory for images what it asks for has happened: everything that was
// acknowledged is durable in the log.
func saveCommand(c *conn, _ [][]byte) {
	n := c.node
	if n.keeper == nil {
		c.reply.OK()
		return
	}
	if n.keeper.busy() {
		c.reply.Error("ERR Background save already in progress")
		return
	}
	if _, err := n.keeper.TakeImage(context.Background()); err != nil {
		c.reply.Error("ERR " + err.Error())
		return
	}
	c.reply.OK()
}

// bgsaveCommand is BGSAVE [SCHEDULE].
func bgsaveCommand(c *conn, args [][]byte) {
	if len(args) > 2 || len(args) == 2 && !isWord(args[1], "schedule") {
		c.reply.Error(errSyntax)
		return
	}
	n := c.node
	switch {
	case n.keeper == nil:
	case !n.keeper.busy():
		n.tasks.Go(func() { _, _ = n.keeper.TakeImage(context.Background()) }) // it is logged
	case len(args) == 2:
		n.tasks.Go(func() { _, _ = n.keeper.TakeImage(context.Background()) })
		c.reply.Simple("Background saving scheduled")
		return
	default:
		c.reply.Error("ERR Background save already in progress")
		return
	}
	c.reply.Simple("Background saving started")
}

// busy reports whether an image is being taken.
func (k *imageKeeper) busy() bool {
	k.facts.mu.Lock()
	defer k.facts.mu.Unlock()
	return !k.facts.begun.IsZero()
}

// lastsaveCommand answers when the last image was made; without images now, since the log is always up to date.
func lastsaveCommand(c *conn, _ [][]byte) { c.reply.Int(c.node.lastSave().Unix()) }

func (n *Node) lastSave() time.Time {
	if n.keeper == nil {
		return time.Now()
	}
	n.keeper.facts.mu.Lock()
	defer n.keeper.facts.mu.Unlock()
	if made := n.keeper.facts.made; !made.IsZero() {
		return made
	}
	return n.started
}

// infoImages writes what INFO says of images, as of saves.
func (n *Node) infoImages(w *infoWriter) {
	var f imageFacts
	if k := n.keeper; k != nil {
		k.facts.mu.Lock()
		f.begun, f.took, f.failure, f.changes, f.saves, f.restored = k.facts.begun, k.facts.took, k.facts.failure, k.facts.changes, k.facts.saves, k.facts.restored
		k.facts.mu.Unlock()
	}
	busy, status, took, current := 0, "ok", int64(-1), int64(-1)
	changes := int64(0)
	if n.keeper != nil {
		changes = n.changes.Load() - f.changes
	}
	if !f.begun.IsZero() {
		busy, current = 1, int64(time.Since(f.begun)/time.Second)
	}
	if f.failure != "" {
		status = "err"
	}
	if f.saves > 0 || f.failure != "" {
		took = int64(f.took / time.Second)
	}
	w.line("rdb_changes_since_last_save", changes)
	w.line("rdb_bgsave_in_progress", busy)
	w.line("rdb_last_save_time", n.lastSaveShown().Unix())
	w.line("rdb_last_bgsave_status", status)
	w.line("rdb_last_bgsave_time_sec", took)
	w.line("rdb_current_bgsave_time_sec", current)
	w.line("rdb_saves", f.saves)
	w.line("rdb_last_load_keys_expired", 0)
	w.line("rdb_last_load_keys_loaded", f.restored)
}

// lastSaveShown is lastSave, or the start of a node without images.
func (n *Node) lastSaveShown() time.Time {
	if n.keeper == nil {
		return n.started
	}
	return n.lastSave()
}
