package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/pause"
)

// Recovery is one loss of a quorum and the forced recovery from it.
type Recovery struct {
	Round    int     `json:"round"`
	Kept     string  `json:"kept"`     // the node that is left
	Lagged   bool    `json:"lagged"`   // it was cut off before
	Reported string  `json:"reported"` // what the recovery said may be lost
	From     int64   `json:"from_lsn"`
	Acked    int     `json:"acknowledged"` // writes of the round
	Lost     int     `json:"lost"`         // of those: they lie within what was reported
	LostLSN  []int64 `json:"lost_lsn,omitempty"`
	Millis   int64   `json:"millis"` // from the loss until the group served again
}

// forcedWrite is one RPUSH of a unique integer.
type forcedWrite struct {
	value     int64
	outcome   Outcome
	lsn       int64 // end of its frame, 0 if that was not told
	call, end time.Time
}

// recoveries is a run of forced recoveries.
type recoveries struct {
	*run
	unique atomic.Int64
	rng    *rand.Rand

	mu     sync.Mutex
	writes []forcedWrite
}

// RunRecoveries loses the quorum of a group again and again, recovers it by force, and checks that what was lost lies within
// what the recovery reported. It leaves its report in Dir, as Run does.
func RunRecoveries(ctx context.Context, config Config) (*Report, error) {
	if err := config.setDefaults(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	r := &run{Config: config, report: &Report{Mode: "forced recovery", Seed: config.Seed, Began: time.Now(), Machine: machine(), Version: version(),
		Seconds: config.Duration.Seconds(), Outcomes: map[Outcome]int{}}}
	r.say(fmt.Sprintf("seed %d: starting a cluster in %s", config.Seed, config.Dir))
	var err error
	r.cluster, err = startCluster(ctx, layout{dir: filepath.Join(config.Dir, "c"), binaries: config.Binaries, port: config.Port, seed: config.Seed, tls: config.TLS, flags: flagsOfRuns()})
	if err != nil {
		return nil, err
	}
	f := &recoveries{run: r, rng: rand.New(rand.NewPCG(config.Seed, 3000))}
	for end := time.Now().Add(config.Duration); err == nil && time.Now().Before(end) && ctx.Err() == nil; {
		err = f.round(ctx, len(r.report.Recoveries)+1)
	}
	killed, stopErr := r.cluster.stop()
	if len(killed) > 0 {
		r.failed("processes stop in good order", "at the end these had to be killed: %s", strings.Join(killed, ", "))
	}
	if err := errors.Join(err, stopErr, ctx.Err()); err != nil {
		return nil, err
	}
	r.report.Checked.Violations = append([]Violation{}, r.violations...)
	return r.report, r.report.write(config.Dir)
}

// round loses two of three nodes for good, recovers, and fills the group up again, while clients write to all nodes.
func (f *recoveries) round(ctx context.Context, number int) error {
	key := fmt.Sprintf("forced:%d", number)
	f.writes = nil
	writing, stop := context.WithCancel(ctx)
	var writers sync.WaitGroup
	defer writers.Wait()
	defer stop()
	nodes := f.cluster.nodes()
	for _, r := range nodes {
		for range 2 {
			writers.Go(func() { f.write(writing, r, key) })
		}
	}
	pause.For(ctx, time.Second+time.Duration(f.rng.IntN(2000))*time.Millisecond)
	kept := nodes[f.rng.IntN(len(nodes))].Node
	result := Recovery{Round: number, Kept: kept, Lagged: f.rng.IntN(3) > 0}
	heal := func() {}
	if result.Lagged { // what the others acknowledge now, nobody else has
		heal = f.cluster.proxy.apply(&rule{Source: "*", Target: kept, Port: dataPort, Cut: true}, &rule{Source: kept, Target: "*", Port: dataPort, Cut: true})
		pause.For(ctx, time.Duration(200+f.rng.IntN(3500))*time.Millisecond)
	}
	var victims, names []string
	for _, r := range nodes {
		if r.Node != kept {
			names = append(names, r.Node)
			victims = append(victims, processesOf(r.Node)...)
		}
	}
	f.cluster.kill(victims...)
	lost := time.Now() // from now on nothing can be acknowledged
	heal()
	f.say(fmt.Sprintf("round %d: %s are lost, %s is kept (cut off before: %v)", number, strings.Join(names, " and "), kept, result.Lagged))
	if err := f.recover(ctx, &result); err != nil {
		return err
	}
	recovered := time.Now()
	result.Millis = recovered.Sub(lost).Milliseconds()
	pause.For(ctx, time.Second)
	for _, node := range names {
		if err := f.cluster.emptyNode(node); err != nil {
			return err
		}
	}
	for _, name := range victims {
		if err := f.cluster.start(name); err != nil {
			return err
		}
	}
	healing, cancel := context.WithTimeout(ctx, healPatience)
	defer cancel()
	if err := f.cluster.awaitServing(healing); err != nil {
		f.failed("the group is whole again", "round %d: %v", number, err)
		return err
	}
	pause.For(ctx, time.Second)
	stop()
	writers.Wait()
	if err := f.judge(ctx, key, &result, lost, recovered); err != nil {
		return err
	}
	f.report.Recoveries = append(f.report.Recoveries, result)
	f.say(fmt.Sprintf("round %d: %d acknowledged, %d of them lost, all behind LSN %d; %s", number, result.Acked, result.Lost, result.From, result.Reported))
	return nil
}

// write pushes unique integers onto a list through one node until ctx ends, and asks for the LSN of each.
func (f *recoveries) write(ctx context.Context, r local.Replica, key string) {
	var c *conn
	for ctx.Err() == nil {
		if c == nil {
			var err error
			if c, err = dial(ctx, f.cluster.login(), r.KVAddr, 15*time.Second); err != nil {
				c = nil
				pause.For(ctx, 50*time.Millisecond)
				continue
			}
		}
		w := forcedWrite{value: f.unique.Add(1), outcome: OK, call: time.Now()}
		_, err := c.do([]string{"RPUSH", key, strconv.FormatInt(w.value, 10)})
		w.end = time.Now()
		if err == nil {
			if lsn, err := c.do([]string{"SMR", "LSN"}); err == nil {
				w.lsn = lsn.Int
			}
		} else {
			w.outcome, _ = judge(err)
		}
		f.mu.Lock()
		f.writes = append(f.writes, w)
		f.report.Outcomes[w.outcome]++
		f.mu.Unlock()
		var reply replyError
		if err != nil && !errors.As(err, &reply) {
			c.Close()
			c = nil
		}
		pause.For(ctx, 2*time.Millisecond)
	}
	if c != nil {
		c.Close()
	}
}

// recover waits until the loss is seen, and recovers as an operator does.
func (f *recoveries) recover(ctx context.Context, result *Recovery) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := pause.Until(ctx, untilPause, func() error {
		group, _, err := f.cluster.group(ctx)
		if err == nil && group.GetState() != "unavailable" {
			err = fmt.Errorf("the group is %s: %s", group.GetState(), group.GetDetail())
		}
		return err
	}); err != nil {
		f.failed("a lost quorum is seen", "round %d: %v", result.Round, err)
		return err
	}
	name := f.cluster.Plan.Group
	// While they have not been silent for long enough it is refused: they may be there.
	if err := pause.Until(ctx, untilPause, func() error {
		_, err := f.cluster.smrctl(ctx, "group", "recover", name, "--dry-run")
		return err
	}); err != nil {
		f.failed("a lost quorum can be recovered by force", "round %d: %v", result.Round, err)
		return err
	}
	if _, err := f.cluster.smrctl(ctx, "group", "recover", name, "--force", "--accept-loss", "--confirm", name); err != nil {
		f.failed("a lost quorum can be recovered by force", "round %d: %v", result.Round, err)
		return err
	}
	group, _, err := f.cluster.group(ctx)
	if err != nil {
		return err
	}
	marks := group.GetRecoveries()
	if len(marks) != result.Round {
		f.failed("a forced recovery stays on record", "round %d: the status shows %d", result.Round, len(marks))
		return errors.New("the recovery is not on record")
	}
	last := marks[len(marks)-1]
	result.From, result.Reported = int64(last.GetFrom()), last.GetText()
	if !slices.Equal(last.GetKept(), []string{result.Kept}) || len(last.GetLost()) != replicas-1 {
		f.failed("a forced recovery stays on record", "round %d: kept %v, lost %v on record; %s was kept", result.Round, last.GetKept(), last.GetLost(), result.Kept)
	}
	return nil
}

// judge reads the list on every node and holds it against what was acknowledged. Frames that end at or below the LSN from which on
// writes may be lost must be there, and so must all that was sent once the group served again.
func (f *recoveries) judge(ctx context.Context, key string, result *Recovery, lost, recovered time.Time) error {
	if err := f.compareDigests(ctx); err != nil {
		f.failed("all KV nodes hold the same", "round %d: %v", result.Round, err)
	}
	for i, r := range f.cluster.nodes() {
		value, err := once(ctx, f.cluster.login(), r.KVAddr, 20*time.Second, "LRANGE", key, "0", "-1")
		if err != nil {
			return fmt.Errorf("read %s on %s: %w", key, r.Node, err)
		}
		var list []string
		for _, item := range value.Items {
			list = append(list, item.Text)
		}
		counted := *result
		for _, v := range judgeForced(f.writes, list, &counted, lost, recovered) {
			f.failed(v.Rule, "round %d, %s: %s", result.Round, r.Node, v.Text)
		}
		if i == 0 {
			*result = counted
		}
	}
	return nil
}

// judgeForced holds what is there after a forced recovery against what was written, and counts what was lost.
func judgeForced(writes []forcedWrite, list []string, result *Recovery, lost, recovered time.Time) (found []Violation) {
	complain := func(rule, format string, args ...any) {
		found = append(found, Violation{Rule: "forced recovery: " + rule, Text: fmt.Sprintf(format, args...)})
	}
	at := make(map[string]int)
	for i, element := range list {
		if first, twice := at[element]; twice {
			complain("exactly once", "%s is at %d and at %d", element, first, i)
		}
		at[element] = i
	}
	for _, w := range writes {
		text := strconv.FormatInt(w.value, 10)
		_, present := at[text]
		delete(at, text)
		switch {
		case w.outcome == Refused && present:
			complain("refused is never present", "%s was refused and is there", text)
		case w.outcome != OK:
			continue
		case present:
		case w.call.After(recovered):
			complain("what is acknowledged afterwards stays", "%s was sent after the recovery and acknowledged at LSN %d; it is not there", text, w.lsn)
		case w.lsn != 0 && w.lsn <= result.From:
			complain("losses are as reported", "%s was acknowledged at LSN %d and is lost; what may be lost was said to begin at %d", text, w.lsn, result.From)
		case w.end.After(lost) && w.call.After(lost):
			complain("nothing is acknowledged without a quorum", "%s was sent after the quorum was lost, acknowledged at LSN %d, and is lost", text, w.lsn)
		default:
			result.Lost++
			result.LostLSN = append(result.LostLSN, w.lsn)
		}
		result.Acked++
	}
	for element := range at {
		complain("nothing else", "%s was pushed by nobody", element)
	}
	return found
}
