package log_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"lockstep/log"
	"lockstep/log/simfs"
)

// images are the ways in which a crash may leave what was not synced.
func images(seed uint64) []simfs.Image {
	list := []simfs.Image{
		{Pages: simfs.Lost, Names: simfs.Lost},
		{Pages: simfs.Kept, Names: simfs.Kept},
		{Pages: simfs.Lost, Names: simfs.Kept},
		{Pages: simfs.Kept, Names: simfs.Lost},
		{Pages: simfs.Backwards, Names: simfs.Kept},
		{Pages: simfs.Backwards, Names: simfs.Backwards},
	}
	for i := range uint64(4) {
		list = append(list, simfs.Image{Pages: simfs.Torn, Names: simfs.Torn, Seed: seed*4 + i})
	}
	return list
}

// crashAt returns a hook that ends the file system before (or after) call n.
func crashAt(n int, after bool) func(simfs.Call) simfs.Verdict {
	return func(c simfs.Call) simfs.Verdict {
		if c.Number != n {
			return simfs.Verdict{}
		}
		return simfs.Verdict{CrashBefore: !after, CrashAfter: after}
	}
}

// scripts are what the exhaustive tests cut and fail at every call.
var scripts = map[string]func() []step{"append": script, "begin": beginScript}

// eachScript runs test for each of them.
func eachScript(t *testing.T, test func(t *testing.T, script func() []step)) {
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) { test(t, script) })
	}
}

func countCalls(t *testing.T, steps []step) int {
	r := &run{fs: simfs.New(), w: &twin{}}
	name, err := r.play(steps)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return r.fs.Calls()
}

// each runs do(n) for 1 to limit on all processors, and reports the first error.
func each(t *testing.T, limit int, do func(n int) error) {
	t.Helper()
	var group sync.WaitGroup
	var mu sync.Mutex
	next := 0
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for {
				mu.Lock()
				next++
				n := next
				mu.Unlock()
				if n > limit || t.Failed() {
					return
				}
				if err := do(n); err != nil {
					t.Errorf("%d: %v", n, err)
				}
			}
		})
	}
	group.Wait()
}

// sampled wraps the body of an exhaustive test.
func sampled(do func(n int) error) func(n int) error {
	return func(n int) error {
		if n%sampling != 0 {
			return nil
		}
		return do(n)
	}
}

// What could go wrong: some order of writes and syncs leaves, at one moment, a disk that recovery reads wrongly. The
// script is cut at every call to the file system, the cache is lost, kept or torn in several ways, and what recovery
// finds is compared with a twin: all that was acknowledged is there, nothing else is, and the log can be used.
func TestEveryCrashIsRecovered(t *testing.T) { eachScript(t, everyCrashIsRecovered) }

func everyCrashIsRecovered(t *testing.T, script func() []step) {
	calls := countCalls(t, script())
	t.Logf("%d calls", calls)
	each(t, calls, sampled(func(n int) error {
		r := &run{fs: simfs.New(), w: &twin{}}
		r.fs.SetHook(crashAt(n, false))
		name, err := r.play(script())
		if !errors.Is(err, simfs.ErrCrashed) {
			return fmt.Errorf("%s: no crash: %v", name, err)
		}
		for _, image := range images(uint64(n)) {
			if err := afterCrash(r, image); err != nil {
				return fmt.Errorf("crash in %s, %v: %w", name, image, err)
			}
		}
		return nil
	}))
}

func afterCrash(r *run, image simfs.Image) error {
	fs := r.fs.Crashed(image)
	l, err := r.checkRecovered(fs)
	if err != nil {
		return err
	}
	// What was found is durable now: the next crash may not change it.
	end := l.End()
	again := fs.Crashed(simfs.Image{})
	l2, err := r.checkRecovered(again)
	if err != nil {
		return fmt.Errorf("second recovery: %w", err)
	}
	if l2.End() != end || l2.Start() != l.Start() {
		return fmt.Errorf("second recovery finds %d to %d, the first %d to %d", l2.Start(), l2.End(), l.Start(), end)
	}
	// And the log can be used.
	next := &run{fs: again, log: l2, w: r.twinOf(end).clone(), floor: end, ceiling: end, start: r.start}
	next.w.rewindTo(end)
	if name, err := next.play([]step{epochStep, appendStep(5000), syncStep, closeStep}); err != nil {
		return fmt.Errorf("%s after recovery: %w", name, err)
	}
	l3, err := next.checkRecovered(again)
	if err != nil {
		return fmt.Errorf("third recovery: %w", err)
	}
	return l3.Close()
}

// What could go wrong: recovery itself is cut by a crash and leaves something that a second recovery reads wrongly.
func TestEveryCrashInRecoveryIsRecovered(t *testing.T) {
	eachScript(t, everyCrashInRecoveryIsRecovered)
}

func everyCrashInRecoveryIsRecovered(t *testing.T, script func() []step) {
	calls := countCalls(t, script())
	each(t, calls, sampled(func(n int) error {
		r := &run{fs: simfs.New(), w: &twin{}}
		r.fs.SetHook(crashAt(n, false))
		name, err := r.play(script())
		if !errors.Is(err, simfs.ErrCrashed) {
			return fmt.Errorf("%s: no crash: %v", name, err)
		}
		image := images(uint64(n))[2+n%8]
		first := r.fs.Crashed(image)
		for m := 1; ; m++ {
			fs := first.Clone()
			if n%2 == 0 {
				fs = r.fs.Crashed(image)
			}
			fs.SetHook(crashAt(m, false))
			l, _, err := log.Open(options(fs))
			if err == nil {
				fs.SetHook(nil)
				return l.Close()
			}
			for _, second := range images(uint64(m))[m%6 : m%6+4] {
				l, err := r.checkRecovered(fs.Crashed(second))
				if err != nil {
					return fmt.Errorf("crash in %s, %v, crash in call %d of recovery, %v: %w", name, image, m, second, err)
				}
				_ = l
			}
		}
	}))
}

// What could go wrong: an error of the device is swallowed, and something is acknowledged that is not on the disk; or
// the log is used on after it. Every call fails once.
func TestEveryErrorIsFinal(t *testing.T) { eachScript(t, everyErrorIsFinal) }

func everyErrorIsFinal(t *testing.T, script func() []step) {
	calls := countCalls(t, script())
	each(t, calls, sampled(func(n int) error {
		r := &run{fs: simfs.New(), w: &twin{}}
		var failed simfs.Call
		r.fs.SetHook(func(c simfs.Call) simfs.Verdict {
			if c.Number != n {
				return simfs.Verdict{}
			}
			failed = c
			return simfs.Verdict{Err: syscall.EIO, Part: 13}
		})
		name, err := r.play(script())
		switch {
		case failed.Op == "release": // it promises nothing, and what it did not do fails nothing
			if err != nil {
				return fmt.Errorf("%s: call %v failed it: %w", name, failed, err)
			}
		case !errors.Is(err, syscall.EIO):
			return fmt.Errorf("%s: call %v did not fail it: %v", name, failed, err)
		}
		if r.log != nil && r.log.Err() == nil && (failed.Op == "write" || failed.Op == "sync" || failed.Op == "syncdir") && name != "open" {
			return fmt.Errorf("%s goes on after a failed %s", name, failed.Op)
		}
		if r.log != nil && r.log.Err() != nil {
			durable := r.log.Durable()
			if r.log.Append(r.w.frame(1)) == nil || r.log.Sync() == nil || r.log.SyncNow() == nil || r.log.Rewind(0) == nil || r.log.TrimTo(0) == nil {
				return fmt.Errorf("%s: the log is used after %v", name, failed)
			}
			if r.log.Durable() != durable {
				return fmt.Errorf("%s: Durable moved after %v", name, failed)
			}
			if r.log.Close() == nil {
				return fmt.Errorf("%s: Close hides %v", name, failed)
			}
		}
		for _, image := range images(uint64(n)) {
			if err := afterCrash(r, image); err != nil {
				return fmt.Errorf("%v in %s, %v: %w", failed, name, image, err)
			}
		}
		return nil
	}))
}

// What could go wrong: a failed sync leaves a slot or a page in memory that is not on the disk; the next process builds
// upon it and crashes as well.
func TestEveryCrashAfterAFailedSyncIsRecovered(t *testing.T) {
	eachScript(t, everyCrashAfterAFailedSyncIsRecovered)
}

func everyCrashAfterAFailedSyncIsRecovered(t *testing.T, script func() []step) {
	calls := countCalls(t, script())
	each(t, calls, sampled(func(n int) error {
		r := &run{fs: simfs.New(), w: &twin{}}
		isSync := false
		r.fs.SetHook(func(c simfs.Call) simfs.Verdict {
			if c.Number != n || c.Op != "sync" {
				return simfs.Verdict{}
			}
			isSync = true
			return simfs.Verdict{Err: syscall.EIO}
		})
		name, err := r.play(script())
		if !isSync {
			return nil
		}
		if !errors.Is(err, syscall.EIO) {
			return fmt.Errorf("%s: a failed sync was ignored: %v", name, err)
		}
		for m := 1; ; m++ {
			fs := r.fs.Clone()
			fs.SetHook(crashAt(m, false))
			if _, _, err := log.Open(options(fs)); err == nil {
				return nil
			}
			for _, image := range images(uint64(m))[:5] {
				if _, err := r.checkRecovered(fs.Crashed(image)); err != nil {
					return fmt.Errorf("failed sync in %s, crash in call %d of recovery, %v: %w", name, m, image, err)
				}
			}
		}
	}))
}
