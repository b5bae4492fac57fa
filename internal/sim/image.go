package sim

import (
	"slices"
	"sort"

	"lockstep/internal/kv"
	"lockstep/internal/mutant"
	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/replica"
)

// Images of KV nodes: rows of the real machine in memory, as pebble would keep them. Taking one goes on for many ticks while
// frames are executed; only a whole one is stored. The two newest are kept.

// rows is the content of an image, sorted by key.
type rows []row

type row struct{ key, value string }

func (r rows) find(key string) (int, bool) {
	i := sort.Search(len(r), func(i int) bool { return r[i].key >= key })
	return i, i < len(r) && r[i].key == key
}

func (r rows) put(key, value string) rows {
	i, known := r.find(key)
	if known {
		r[i].value = value
		return r
	}
	return slices.Insert(r, i, row{key, value})
}

func (r rows) remove(from, end string) rows {
	i, _ := r.find(from)
	j, _ := r.find(end)
	return slices.Delete(r, i, max(i, j))
}

// image is a state at an LSN. Nothing in it changes but damaged.
type image struct {
	lsn      smr.LSN
	base     []byte // log.Base, encoded
	rows     rows
	requests int  // in the log below lsn
	damaged  bool // a bit has flipped, as its checksums tell
}

// imaging is what a KV node does about images.
type imaging struct {
	checkpoint smr.LSN // from where this node promises to be able to start again
	stored     rows    // of the image that the machine's next one builds on

	// The image that is being taken.
	running  bool
	start    kv.ImageStart
	rows     rows
	requests int

	sources   []smr.ImageSource
	fetching  *host // that an image comes from, nil if none does
	tries     int
	broughtAt int64
}

func (w *world) trimPolicy() replica.TrimPolicy {
	if w.o.ImageBytes == 0 {
		return replica.TrimPolicy{}
	}
	return replica.TrimPolicy{Grain: smr.LSN(w.o.FileSize), KeepBytes: w.o.TrimKeep, LagBytes: w.o.TrimLag, KeepTicks: w.o.TrimAge}
}

// loadOwn starts a KV node from its newest image that checks.
func (k *kvnode) loadOwn() {
	d := k.h.drive
	d.images = slices.DeleteFunc(d.images, func(i *image) bool {
		if i.damaged {
			k.w.hit(probeImageDamaged)
		}
		return i.damaged
	})
	if len(d.images) > 0 {
		k.w.hit(probeImageLoaded)
		k.load(d.images[0])
	}
	k.nameCheckpoint()
}

func (k *kvnode) nameCheckpoint() {
	images := k.h.drive.images
	switch {
	case len(images) == 0:
		k.images.checkpoint = 0
	case k.w.o.KeepOldest:
		k.images.checkpoint = images[len(images)-1].lsn
	default:
		k.images.checkpoint = images[0].lsn
	}
}

// load makes the state that of an image.
func (k *kvnode) load(i *image) {
	k.w.check.takesImage(k, i)
	machine := i.machine(k.w)
	k.machine.SetHost(nil)
	machine.SetHost((*kvHost)(k))
	k.machine, k.applied, k.requests = machine, i.lsn, i.requests
	k.heard, k.heardFrom = 0, i.lsn
	k.images.running, k.images.stored = false, i.rows
	k.trail = i.trail(k.w)
	k.w.check.digest(k)
	if k.w.trace != nil {
		k.w.say(string(k.h.id), "image loaded at %d", i.lsn)
	}
}

// trail returns the Trail of the stream below an image.
func (i *image) trail(w *world) *log.Trail {
	base, err := log.ParseBase(i.base)
	if err != nil {
		w.violate("a base does not survive its encoding", "%v", err)
	}
	return base.Trail()
}

// tickImage goes on taking an image, or begins one, and seeks one if the log does not reach the state.
func (k *kvnode) tickImage() {
	im := &k.images
	switch {
	case im.running:
		k.takeRows()
	case k.applied-min(k.applied, k.newest()) >= k.w.o.ImageBytes:
		k.w.check.digest(k)
		im.running, im.start, im.requests, im.rows = true, k.machine.BeginImage(false), k.requests, nil
		if !im.start.Full {
			im.rows = slices.Clone(im.stored)
		}
		if im.start.LSN != k.applied {
			k.w.violate("an image of another LSN", "%s: %d at %d", k.h.id, im.start.LSN, k.applied)
		}
	}
	if k.ticks%5 == 0 {
		k.seekImage()
	}
}

// newest returns the LSN of the newest image, 0 if there is none.
func (k *kvnode) newest() smr.LSN {
	if len(k.h.drive.images) == 0 {
		return 0
	}
	return k.h.drive.images[0].lsn
}

// takeRows takes some rows of the image and stores it behind the last of them.
func (k *kvnode) takeRows() {
	im := &k.images
	var batch kv.ImageRows
	more := k.machine.NextRows(k.w.o.ImageStep, &batch)
	err := batch.Each(func(op kv.RowOp, key, value []byte) error {
		switch op {
		case kv.RowPut:
			im.rows = im.rows.put(string(key), string(value))
		case kv.RowDelete:
			im.rows = im.rows.remove(string(key), string(key)+"\x00")
		case kv.RowDeleteRange:
			im.rows = im.rows.remove(string(key), string(value))
		case kv.RowCheck:
			if i, known := im.rows.find(string(key)); !known || im.rows[i].value != string(value) {
				k.w.violate("a row of an image is not what it was", "%s at %d", k.h.id, im.start.LSN)
			}
		}
		return nil
	})
	if err != nil {
		k.w.violate("rows of an image do not check", "%s: %v", k.h.id, err)
	}
	if !more {
		k.storeImage()
	}
}

// storeImage keeps the image that was taken, with the base of the log at its LSN.
func (k *kvnode) storeImage() {
	im := &k.images
	im.running = false
	base, err := k.baseAt(im.start.LSN)
	if err != nil || k.w.draw.disk.IntN(20) == 0 { // the log is away or damaged; or the device of the images was full
		k.w.hit(probeImageFailed)
		k.machine.EndImage(false)
		return
	}
	k.machine.EndImage(true)
	k.w.hit(probeImage)
	im.stored = im.rows
	made := &image{lsn: im.start.LSN, base: base, rows: im.rows, requests: im.requests}
	k.keep(made)
	k.backUp(made)
}

// keep stores an image durably and forgets all but the two newest.
func (k *kvnode) keep(i *image) {
	d := k.h.drive
	d.images = slices.Insert(d.images, 0, i)
	d.images = d.images[:min(len(d.images), 2)]
	k.nameCheckpoint()
}

// baseAt returns the base of the log beside at lsn.
func (k *kvnode) baseAt(lsn smr.LSN) ([]byte, error) {
	reader, err := log.OpenReader(k.h.disk, dirLog)
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

// need returns the least LSN of an image that is needed, 0 if none is.
func (k *kvnode) need() smr.LSN {
	switch {
	case !k.attached:
		return 0
	case k.status.Start > k.applied:
		return max(k.status.Start, k.status.NeedImage)
	}
	return k.status.NeedImage
}

// stranded reports whether this node's state reaches into no log, or can be given to nobody: the log beside is lost, and no image is new enough.
func (k *kvnode) stranded() bool {
	from := k.need()
	return k.attached && (from > k.applied || k.status.NeedImage > 0 && !slices.ContainsFunc(k.h.drive.images, func(i *image) bool {
		return i.lsn >= from && !i.damaged
	}))
}

// seekImage sees to it that an image comes if one is needed.
func (k *kvnode) seekImage() {
	im := &k.images
	from := k.need()
	if from == 0 || im.fetching != nil {
		return
	}
	for _, i := range k.h.drive.images {
		if i.lsn >= from && i.lsn <= k.applied {
			if k.w.now-im.broughtAt >= 200*millisecond {
				im.broughtAt = k.w.now
				k.local.send(&smr.LocalBase{Base: i.base}, 64+len(i.base))
			}
			return
		}
	}
	if len(im.sources) == 0 {
		return
	}
	source := k.w.host(im.sources[im.tries%len(im.sources)].Node)
	im.tries++
	if source == nil || source == k.h || source.kv == nil {
		return
	}
	var found *image
	giver := source.giver()
	if images := giver.drive.images; giver.kv != nil && len(images) > 0 && images[0].lsn >= from && !images[0].damaged && !giver.kv.doubted {
		found = images[0]
	}
	im.fetching = source
	k.w.after(between(k.w.draw.network, k.w.o.FetchLow, k.w.o.FetchHigh), later(func() { k.fetched(source, found) }), 10)
}

// fetched is called when an image has come as a whole, or has not.
func (k *kvnode) fetched(source *host, i *image) {
	if k.dead {
		return
	}
	if k.paused {
		k.stalled = append(k.stalled, later(func() { k.fetched(source, i) }))
		return
	}
	k.images.fetching = nil
	net := &k.w.net
	if i == nil || i.damaged || source.kv == nil || net.lost[source.place] || net.isCut(source.place, k.h.place) || net.isCut(k.h.place, source.place) {
		k.w.hit(probeFetchFailed)
		if i != nil && !i.damaged {
			k.w.hit(probeFetchBroken)
		}
		return
	}
	if k.w.isForeignImage(i) {
		return
	}
	from := k.need()
	if from == 0 || i.lsn < from || i.lsn <= k.newest() {
		k.w.hit(probeImageLate)
		return
	}
	k.w.hit(probeImageFetched)
	if r := source.replicator; r != nil && r.status.Leading {
		k.w.hit(probeImageOfMaster)
	} else {
		k.w.hit(probeImageOfSlave)
	}
	k.keep(&image{lsn: i.lsn, base: i.base, rows: i.rows, requests: i.requests})
	if i.lsn > k.applied {
		k.jump(k.h.drive.images[0])
	}
	k.seekImage()
}

// jump loads an image in the midst of a life: requests of this node below it are executed without a reply here.
func (k *kvnode) jump(i *image) {
	k.load(i)
	k.closeReader()
	k.proved, k.doubted = false, true // the log does not reach it yet, and its stream may have been given up since it was taken
	for executed := k.machine.LastSequence(k.id); k.executed < executed; {
		op := k.sent[0]
		k.sent = k.sent[1:]
		k.executed++
		if op != nil {
			k.w.hit(probeJumped)
			k.answered(op, outcomeUncertain)
		}
	}
	k.jumped()
	k.answerReads()
	k.wake()
	k.applySoon()
}

// lateBase brings the base of an image that nobody has asked for, as a message that was long on its way.
func (k *kvnode) lateBase() {
	if images := k.h.drive.images; len(images) > 0 && k.w.draw.disk.IntN(4) == 0 {
		k.local.send(&smr.LocalBase{Base: images[0].base}, 64+len(images[0].base))
	}
}

// tellSources tells the KV node whom it may ask for an image, if that has changed.
func (r *replicator) tellSources() {
	if r.local != nil && !slices.Equal(r.sources, r.told) {
		r.told = r.sources
		r.local.send(&smr.ImageSources{Sources: r.sources}, 64)
	}
}

// noteBegin keeps the shadow when the core lets the log begin anew.
func (r *replicator) noteBegin(op *replica.Begin) {
	checker := r.w.check
	c := checker.ofBase(op.Base)
	if op.LSN > c.end() {
		r.w.violate("an image above commit", "%s at %d, committed is %d", r.h.id, op.LSN, c.end())
	}
	if c != checker.lineage && r.status.Promise > checker.after && op.LSN > checker.sharedEnd(c, checker.lineage) {
		r.w.violate("a log begins at an image of a stream that was given up", "%s at %d of the stream after epoch %d: it was given up at %d", r.h.id, op.LSN,
			c.after, checker.sharedEnd(c, checker.lineage))
	}
	r.h.lineage = c
	if len(r.shadow) > 0 {
		r.w.hit(probeBegunAgain)
	}
	common := 0
	for common < len(r.shadow) && common < int(op.LSN) && r.shadow[common] == c.committed[common] {
		common++
	}
	if int(op.LSN) <= common && !mutant.On(mutant.ImageUnasked) {
		r.w.violate("an image takes acknowledged bytes away", "%s begins at %d, its log has the same up to %d", r.h.id, op.LSN, common)
	}
	r.begun = append(r.begun, smr.LSN(common))
	r.cutTo = min(r.cutTo, smr.LSN(common))
	r.shadow = append(make([]byte, 0, op.LSN+4096), c.committed[:op.LSN]...)
}

// noteTrim checks that what goes is not needed beside.
func (r *replicator) noteTrim(to smr.LSN) {
	var reach smr.LSN
	for _, i := range r.h.drive.images {
		reach = max(reach, i.lsn)
	}
	if to > reach || to > r.core.Safe() {
		r.w.violate("trimmed above the checkpoint", "%s to %d: safe %d, newest image %d", r.h.id, to, r.core.Safe(), reach)
	}
}
