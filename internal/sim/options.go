package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"lockstep/smr"
)

// Options of one schedule, drawn from its seed.
type Options struct {
	Seed uint64
	Full bool // the configuration master is three raft members

	Replicas, Copies, MinCopies int

	// Life: replicas come and go. Spares are machines besides, AdmitBytes how near a learner has to be; 0: any is.
	Life       bool
	Spares     int
	AdmitBytes smr.LSN

	FileSize                int64
	FaultMillis, HealMillis int64

	// Network: delays in microseconds, chances of 0 to 1.
	DelayLow, DelayHigh int64
	Lose, Repeat, Late  float64 // of control messages
	Reset               float64 // a connection that ends loses what is on its way, up to 0.9: what is said before it must arrive some time (seed 924021948)
	Wire                bool    // messages cross the network as bytes
	Window              int     // bytes on their way in a connection before its sender waits

	// Disk: microseconds of a batch.
	DiskLow, DiskHigh int64
	// Loop: microseconds until a loop comes round; more of it gathers more inputs.
	LoopHigh int64

	KeepBytes, FeedBytes, MaxBehind int // of the newest log in memory; of one Append; that wait for the disk

	// Timeouts in ticks.
	SuspectTicks, DropTicks, LowerTicks, DeadTicks int
	RefuseTicks, TimeoutTicks, SessionDeadTicks    int

	LeaseTicks int // for which a master asks; 0: none

	Drift float64 // clocks run between 1-Drift and 1+Drift times as fast

	// Workload.
	OpMicros  int64 // mean time between two operations of a KV node
	Keys      int
	ReadShare float64
	Large     float64 // share of large payloads
	Mix       int     // groups of operations of clients.go, bits
	Mixed     float64 // share of them among the writes

	// Images and trimming; ImageBytes 0: neither. A KV node takes an image every so many bytes of log, in steps of about
	// ImageStep bytes of rows. KeepBytes of the log stay in files, LagBytes for others. KeepOldest: of its two images the node
	// names the older one as its checkpoint. LateMillis: the last replica is switched on for the first time then.
	ImageBytes          smr.LSN
	ImageStep           int
	TrimAge             uint64 // ticks
	TrimKeep, TrimLag   smr.LSN
	KeepOldest          bool
	LateMillis          int64
	FetchLow, FetchHigh int64 // microseconds to fetch an image

	// Archive: the committed stream is archived, and restored into another cluster. The master looks every ArchiveTicks what there is, archives
	// about ArchiveRange bytes at once, and keeps its log for the archive within ArchiveLag.
	Archive      bool
	ArchiveTicks int
	ArchiveRange int
	ArchiveLag   smr.LSN

	Faults   int // how many
	Harm     bool
	Rude     bool // harm may exceed what Copies covers: nobody has to come back
	Restarts int64
}

// drawOptions draws how a schedule is to be: some are calm, some brutal.
func drawOptions(seed uint64, full bool) Options {
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(values ...int) int { return values[r.IntN(len(values))] }
	temper := r.Float64() // 0 calm, 1 brutal
	o := Options{
		Seed: seed, Full: full,
		Replicas: pick(2, 3, 3, 3, 3, 3, 4, 5),
		FileSize: int64(pick(4, 4, 8, 16, 64)) << 10,
		DelayLow: between(r, 20, 300), DelayHigh: between(r, 300, 3000),
		Reset: min(r.Float64(), 0.9), Wire: r.IntN(8) == 0, Window: pick(512, 4<<10, 64<<10),
		DiskLow: between(r, 20, 200), DiskHigh: between(r, 200, 4000),
		LoopHigh:  between(r, 1, 400),
		KeepBytes: pick(512, 4<<10, 64<<10), FeedBytes: pick(300, 1<<10, 16<<10), MaxBehind: pick(2<<10, 32<<10),
		SuspectTicks: pick(12, 20, 30, 50), DeadTicks: pick(15, 30, 60),
		RefuseTicks: pick(30, 60, 100), TimeoutTicks: pick(40, 100, 200, 300), SessionDeadTicks: pick(20, 40, 80),
		OpMicros: between(r, 4000, 10000) << r.IntN(5), Keys: pick(1, 2, 4), ReadShare: 0.2 + 0.5*r.Float64(), Large: 0.02 * r.Float64(),
		Restarts: between(r, 20, 600),
	}
	o.Copies = min(o.Replicas, pick(1, 2, 2, 2, 2, 2, 3))
	o.MinCopies = 1 + r.IntN(o.Copies)
	o.DropTicks = o.SuspectTicks + pick(10, 30, 100)
	o.LowerTicks = o.DropTicks + pick(10, 50, 200)
	o.FaultMillis = between(r, 600, 2000)
	o.HealMillis = 30_000
	o.Drift = 0.2 * temper * r.Float64()
	o.Lose, o.Repeat, o.Late = 0.2*temper*r.Float64(), 0.3*temper*r.Float64(), 0.15*temper*r.Float64()
	o.Faults = 1 + int(temper*float64(between(r, 4, 30)))
	o.Harm = r.IntN(3) == 0
	o.Rude = o.Harm && r.IntN(4) == 0
	if r.IntN(6) == 0 { // a slow network or disk now and then
		o.DelayHigh *= 10
	}
	if r.IntN(6) == 0 {
		o.DiskHigh *= 10
	}
	drawImages(&o)
	drawMix(&o)
	drawLease(&o)
	drawLife(&o)
	drawRestore(&o)
	return o
}

// drawLease draws what concerns read leases from a stream of its own. They rely on clocks that differ by less than a seventh.
func drawLease(o *Options) {
	r := rand.New(rand.NewPCG(o.Seed, 13))
	if r.IntN(2) == 0 {
		return
	}
	o.LeaseTicks = []int{10, 40, 100, 200}[r.IntN(4)]
	o.Drift = min(o.Drift, 0.12)
}

// drawMix draws what clients do beside lists, from a stream of its own.
func drawMix(o *Options) {
	r := rand.New(rand.NewPCG(o.Seed, 11))
	if r.IntN(2) == 0 {
		return
	}
	o.Mix, o.Mixed = 1+r.IntN(mixAll), 0.2+0.6*r.Float64()
}

// drawImages draws what concerns images from a stream of its own: schedules without them stay as they were.
func drawImages(o *Options) {
	r := rand.New(rand.NewPCG(o.Seed, 9))
	if r.IntN(2) == 0 {
		return
	}
	pick := func(values ...int) int { return values[r.IntN(len(values))] }
	o.FileSize = 4 << 10
	o.ImageBytes, o.ImageStep = smr.LSN(pick(600, 2<<10, 6<<10)), pick(64, 500, 64<<10)
	o.TrimKeep, o.TrimLag = smr.LSN(pick(1, 1<<10, 6<<10)), smr.LSN(pick(1<<10, 8<<10, 1<<20))
	o.KeepOldest = r.IntN(3) == 0
	o.FetchLow, o.FetchHigh = between(r, 100, 2000), between(r, 2000, 200_000)
	if o.Replicas > 2 && r.IntN(4) == 0 {
		o.LateMillis = between(r, 300, 200+o.FaultMillis)
	}
	o.TrimAge = uint64(pick(0, 0, 0, 30, 100))
}

type plain Options // without methods

// String lists the options on one line.
func (o Options) String() string {
	return strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%+v", plain(o)), "{"), "}")
}
