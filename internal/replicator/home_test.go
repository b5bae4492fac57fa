package replicator

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/log"
	"lockstep/proto"
	"lockstep/smr"
	"lockstep/smr/replica"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// openTestHome opens a directory as a start of the process does, without the process.
func openTestHome(t *testing.T, cfg Config) *home {
	t.Helper()
	cfg.Logger = quiet()
	h, err := openHome(cfg.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// grown is a directory whose log holds bytes and that has promised an epoch, closed cleanly or as by kill -9.
func grown(t *testing.T, sync smr.SyncMode, clean bool) (Config, smr.Incarnation) {
	t.Helper()
	cfg := testConfig(tempDir(t), "n1")
	cfg.Sync = sync
	h := openTestHome(t, cfg)
	d := newDisk(h)
	if err := d.save(&replica.Saved{Promise: 7}); err != nil {
		t.Fatal(err)
	}
	member := smr.Member{Node: "n1", Incarnation: h.saved.Incarnation}
	config := smr.Config{Epoch: 7, Reign: 7, Master: "n1", Copies: 1, Members: []smr.Member{member}}
	frame := smr.AppendFrame(nil, smr.Frame{Epoch: 7, Kind: smr.KindEpochStart, Stamp: 1, Body: smr.AppendConfig(nil, config)})
	if err := d.append(frame); err != nil {
		t.Fatal(err)
	}
	if err := h.log.Sync(); err != nil {
		t.Fatal(err)
	}
	if clean {
		if err := h.closeCleanly(); err != nil {
			t.Fatal(err)
		}
	} else if err := h.log.Close(); err != nil {
		t.Fatal(err)
	}
	h.release()
	return cfg, member.Incarnation
}

func changeState(t *testing.T, cfg Config, change func(*log.State)) {
	t.Helper()
	s, st, found, err := log.OpenState(nil, filepath.Join(cfg.Dir, "state"))
	if err != nil || !found {
		t.Fatal(found, err)
	}
	change(&st)
	if err := s.Save(st); err != nil {
		t.Fatal(err)
	}
}

// A restart goes on as what it was: incarnation, promise, log and configuration.
func TestRestartGoesOn(t *testing.T) {
	for _, clean := range []bool{true, false} {
		cfg, incarnation := grown(t, smr.SyncAlways, clean)
		h := openTestHome(t, cfg)
		if h.saved.Incarnation != incarnation || h.saved.Promise != 7 || h.log.End() == 0 || h.config.Epoch != 7 || h.saved.Clean {
			t.Errorf("clean %v: %+v, end %d, config %+v", clean, h.saved, h.log.End(), h.config)
		}
		h.log.Close()
		h.release()
	}
}

// S10: whatever makes the promise or the log doubtful must end in a new incarnation that has promised nothing and holds
// nothing, with the evidence kept; and the next start must go on as that new one. What could go wrong: the old
// incarnation lives on with less than it acknowledged.
func TestDoubtMakesANewIncarnation(t *testing.T) {
	for name, test := range map[string]struct {
		sync     smr.SyncMode
		clean    bool
		spoil    func(t *testing.T, cfg Config)
		evidence string
	}{
		"log removed": {smr.SyncAlways, true, func(t *testing.T, cfg Config) {
			if err := os.RemoveAll(filepath.Join(cfg.Dir, "log")); err != nil {
				t.Fatal(err)
			}
		}, ""},
		"oldest log file removed": {smr.SyncAlways, true, func(t *testing.T, cfg Config) {
			h := openTestHome(t, cfg)
			for range 5 {
				request := smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: 1, Payload: make([]byte, h.cfg.FileSize/3)})
				frame := smr.AppendFrame(nil, smr.Frame{LSN: h.log.End(), Epoch: 7, Kind: smr.KindRequests, Stamp: 1, Count: 1, Body: request})
				if err := h.log.Append(frame); err != nil {
					t.Fatal(err)
				}
			}
			if err := h.closeCleanly(); err != nil {
				t.Fatal(err)
			}
			h.release()
			if countFiles(t, cfg.Dir, "/log/0") < 2 {
				t.Fatal("there is only one log file")
			}
			if err := os.Remove(filepath.Join(cfg.Dir, "log", "00000000000000000000")); err != nil {
				t.Fatal(err)
			}
		}, "quarantine"},
		"log damaged": {smr.SyncAlways, true, func(t *testing.T, cfg Config) {
			flip(t, filepath.Join(cfg.Dir, "log", "00000000000000000000"), 60)
		}, "quarantine"},
		"state damaged": {smr.SyncAlways, true, func(t *testing.T, cfg Config) {
			path := filepath.Join(cfg.Dir, "state", "state")
			if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "quarantine"},
		"machine went down in mode interval": {smr.SyncInterval, false, func(t *testing.T, cfg Config) {
			changeState(t, cfg, func(st *log.State) { st.BootID = "another boot" })
		}, "quarantine"},
		"machine went down in mode os": {smr.SyncOS, false, func(t *testing.T, cfg Config) {
			changeState(t, cfg, func(st *log.State) { st.BootID = "another boot" })
		}, "quarantine"},
		"crash before the old log was moved": {smr.SyncAlways, true, func(t *testing.T, cfg Config) {
			changeState(t, cfg, func(st *log.State) {
				*st = log.State{Incarnation: 99, Cluster: st.Cluster, Group: st.Group, Node: st.Node}
			})
		}, "quarantine"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, before := grown(t, test.sync, test.clean)
			test.spoil(t, cfg)
			h := openTestHome(t, cfg)
			if h.saved.Incarnation == before || h.saved.Promise != 0 || h.log.End() != 0 || h.config.Epoch != 0 || h.saved.LogBegun {
				t.Errorf("%+v, end %d", h.saved, h.log.End())
			}
			fresh := h.saved.Incarnation
			if err := h.closeCleanly(); err != nil {
				t.Fatal(err)
			}
			h.release()
			if test.evidence != "" && countFiles(t, cfg.Dir, test.evidence) == 0 {
				t.Error("the evidence is gone")
			}
			h = openTestHome(t, cfg)
			if h.saved.Incarnation != fresh {
				t.Error("the start after it made yet another incarnation")
			}
			h.log.Close()
			h.release()
		})
	}
}

// A relaxed mode alone is no reason: a killed process on a machine that stayed up, and a clean stop, lose nothing.
func TestRelaxedModeWithoutDoubtGoesOn(t *testing.T) {
	for name, change := range map[string]func(*log.State){
		"same boot":            func(*log.State) {},
		"other boot but clean": func(st *log.State) { st.BootID, st.Clean = "another boot", true },
	} {
		cfg, incarnation := grown(t, smr.SyncInterval, false)
		changeState(t, cfg, change)
		h := openTestHome(t, cfg)
		if h.saved.Incarnation != incarnation || h.log.End() == 0 {
			t.Errorf("%s: %+v", name, h.saved)
		}
		h.log.Close()
		h.release()
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// countFiles counts the files below directories of dir whose path contains part.
func countFiles(t *testing.T, dir, part string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.Contains(strings.TrimPrefix(path, dir), part) {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Directories of others are refused with a message that names the thing, and are left as they are.
func TestForeignDirectoriesAreRefused(t *testing.T) {
	cfg, _ := grown(t, smr.SyncAlways, true)
	run := func(cfg Config) error {
		cfg.Logger = quiet()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return Run(ctx, cfg)
	}
	other := func(change func(*Config)) Config {
		c := cfg
		change(&c)
		return c
	}
	stray := testConfig(tempDir(t), "n1")
	if err := os.MkdirAll(filepath.Join(stray.Dir, "log"), 0o755); err != nil {
		t.Fatal(err)
	}
	syslog := filepath.Join(stray.Dir, "log", "syslog")
	if err := os.WriteFile(syslog, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := testConfig(filepath.Join(stray.Dir, "log", "syslog"), "n1")
	file.Socket = filepath.Join(stray.Dir, "s")
	home := testConfig(tempDir(t), "n1")
	if err := os.WriteFile(filepath.Join(home.Dir, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	held := openTestHome(t, testConfig(tempDir(t), "n1"))
	defer held.release()
	defer held.log.Close()
	for what, test := range map[string]struct {
		cfg  Config
		want string
	}{
		"cluster":     {other(func(c *Config) { c.Cluster = "other" }), `cluster "test-cluster"`},
		"group":       {other(func(c *Config) { c.Group = "g2" }), `group "g1"`},
		"node":        {other(func(c *Config) { c.Node = "n2" }), `node "n1"`},
		"stray log":   {stray, "no state"},
		"things":      {home, `"thesis.tex"`},
		"no dir":      {file, "not a directory"},
		"locked":      {other(func(c *Config) { c.Dir = held.cfg.Dir; c.Socket = "" }), "another process"},
		"socket file": {other(func(c *Config) { c.Socket = syslog }), "no socket"},
	} {
		if err := run(test.cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if b, err := os.ReadFile(syslog); err != nil || string(b) != "precious" {
		t.Errorf("the stray log was touched: %q, %v", b, err)
	}
	if names, err := os.ReadDir(home.Dir); err != nil || len(names) != 1 {
		t.Errorf("something was put beside the thesis: %v, %v", names, err)
	}
	if err := run(cfg); err != nil {
		t.Errorf("its own process: %v", err)
	}
}

// The promise survives the process: what was fenced is stale after a restart, also for the very same epoch.
func TestPromiseSurvivesRestart(t *testing.T) {
	x := start(t, testConfig(tempDir(t), "n1"))
	c := create(t, 1, x)
	fence := func(epoch uint64) error {
		return call(func(ctx context.Context) error {
			_, err := x.manage.Fence(ctx, &proto.FenceRequest{Target: x.target(), Epoch: epoch})
			return err
		})
	}
	if err := fence(5); err != nil {
		t.Fatal(err)
	}
	if err := fence(5); err != nil {
		t.Errorf("the same life does not repeat its answer: %v", err)
	}
	before := x.state()
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	x = start(t, x.cfg)
	after := x.state()
	if after.Incarnation != before.Incarnation || after.Life == before.Life || after.Promise != 5 || after.Blank {
		t.Errorf("before %s\nafter %s", before, after)
	}
	for epoch := uint64(1); epoch <= 5; epoch++ {
		if err := fence(epoch); status.Code(err) != codes.Aborted {
			t.Errorf("fence for %d: %v", epoch, err)
		}
	}
	c.nodes[0], c.epoch = x, 5
	c.elect(x)
}
