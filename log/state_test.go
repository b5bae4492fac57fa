package log_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"
)

const stateDir = "/data"

func stateOf(promise smr.Epoch) log.State {
	return log.State{Promise: promise, Incarnation: 77, Cluster: "cluster", Group: "g1", Node: "n1", BootID: "boot", Clean: promise%2 == 0,
		LogBegun: promise > 2, LeaseHoldTicks: 30, LogStart: smr.LSN(promise) << 40}
}

// saveAll saves promises 1 to 5, in two lives, and returns the highest that was acknowledged and the highest tried.
func saveAll(fs *simfs.FS) (acknowledged, tried smr.Epoch, err error) {
	for _, promises := range [][]smr.Epoch{{1, 2, 3}, {4, 5}} {
		s, _, _, err := log.OpenState(fs, stateDir)
		if err != nil {
			return acknowledged, tried, err
		}
		for _, promise := range promises {
			tried = promise
			if err := s.Save(stateOf(promise)); err != nil {
				return acknowledged, tried, err
			}
			acknowledged = promise
		}
		if err := s.Close(); err != nil {
			return acknowledged, tried, err
		}
	}
	return acknowledged, tried, nil
}

// What could go wrong: a crash, or an error at any call, brings an older promise back or loses it all, or leaves one behind in the other copy, where a flipped bit
// would bring it back.
func TestPromiseSurvivesEveryCrashAndError(t *testing.T) {
	fs := simfs.New()
	if _, _, err := saveAll(fs); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= fs.Calls(); n++ {
		for _, fault := range []simfs.Verdict{{CrashBefore: true}, {CrashAfter: true}, {Err: syscall.EIO}, {Err: syscall.EIO, Part: 100}} {
			fs := simfs.New()
			fs.SetHook(func(c simfs.Call) simfs.Verdict {
				if c.Number == n {
					return fault
				}
				return simfs.Verdict{}
			})
			acknowledged, tried, err := saveAll(fs)
			if err == nil {
				t.Fatalf("call %d did not fail", n)
			}
			for _, image := range images(uint64(n)) {
				next, floor := fs.Crashed(image), acknowledged
				for life := range 2 {
					_, st, found, err := log.OpenState(next, stateDir)
					if err != nil || found && st.Promise > tried || st.Promise < floor || found && st != stateOf(st.Promise) {
						t.Fatalf("call %d %+v, %v, life %d: %+v found %v err %v; %d was acknowledged", n, fault, image, life, st, found, err, floor)
					}
					floor = st.Promise // it was shown: it must stay
					next = next.Crashed(simfs.Image{})
					if !found {
						continue
					}
					for slot := range int64(2) {
						flipped := next.Clone()
						must(t, flipped.FlipBit(stateDir+"/state", slot*4096+16, 0))
						if _, other, _, err := log.OpenState(flipped, stateDir); err != nil || other != st {
							t.Fatalf("call %d %+v, %v, life %d: with copy %d damaged %+v err %v, not %+v", n, fault, image, life, slot, other, err, st)
						}
					}
				}
			}
		}
	}
}

// What could go wrong: a flipped bit in the newest copy brings an older promise back. Every bit is flipped; and with both
// copies damaged there is no promise at all but an error, until a new state is saved.
func TestFlippedBitNeverBringsAnOlderPromiseBack(t *testing.T) {
	base := simfs.New()
	if _, _, err := saveAll(base); err != nil {
		t.Fatal(err)
	}
	name := stateDir + "/state"
	content, err := base.ReadFile(name)
	must(t, err)
	for at := range content {
		fs := base.Clone()
		must(t, fs.FlipBit(name, int64(at), uint(at%8)))
		_, st, found, err := log.OpenState(fs, stateDir)
		if err != nil || !found || st != stateOf(5) {
			t.Fatalf("byte %d: %+v found %v err %v", at, st, found, err)
		}
		if again, _ := fs.ReadFile(name); !bytes.Equal(again[:8], content[:8]) {
			t.Fatalf("byte %d: not repaired", at)
		}
		other := (at + len(content)/2) % len(content)
		fs = base.Clone()
		must(t, fs.FlipBit(name, int64(at), uint(at%8)))
		must(t, fs.FlipBit(name, int64(other), 3))
		s, _, found, err := log.OpenState(fs, stateDir)
		if !errors.Is(err, log.ErrCorrupt) || found || s == nil {
			t.Fatalf("bytes %d and %d: found %v err %v", at, other, found, err)
		}
	}
	fs := base.Clone()
	fs.WriteFile(name, content[:100])
	s, _, _, err := log.OpenState(fs, stateDir)
	if !errors.Is(err, log.ErrCorrupt) {
		t.Fatal(err)
	}
	if _, _, _, err := log.OpenState(fs, stateDir); !errors.Is(err, log.ErrCorrupt) {
		t.Fatalf("damage was forgotten: %v", err)
	}
	must(t, s.Save(stateOf(9)))
	must(t, s.Close())
	_, st, found, err := log.OpenState(fs, stateDir)
	if err != nil || !found || st.Promise != 9 {
		t.Fatalf("%+v %v %v", st, found, err)
	}
	if kept, err := fs.ReadFile(stateDir + "/state.damaged-1"); err != nil || !bytes.Equal(kept, content[:100]) {
		t.Fatalf("evidence was not kept: %v", err)
	}
	fs.WriteFile(name, log.StateWithVersion(content, 2))
	if _, _, _, err := log.OpenState(fs, stateDir); !errors.Is(err, log.ErrNewerFormat) {
		t.Fatal(err)
	}
	s, _, _, err = log.OpenState(base, stateDir)
	must(t, err)
	if err := s.Save(log.State{BootID: strings.Repeat("x", 65)}); err == nil {
		t.Fatal("a boot id of 65 bytes was saved")
	}
	must(t, s.Save(stateOf(6)))
}

// The bytes of the hard state, so that the drawing in doc.go cannot lie.
func TestStateBytes(t *testing.T) {
	fs := simfs.New()
	s, _, _, err := log.OpenState(fs, stateDir)
	must(t, err)
	must(t, s.Save(log.State{Promise: 0x0102, Incarnation: 0x0304, Cluster: "c", Group: "g1", Node: "n1", Clean: true, BootID: "boot", LeaseHoldTicks: 5, LogStart: 0x0607}))
	content, err := fs.ReadFile(stateDir + "/state")
	must(t, err)
	compareBytes(t, "second copy (sequence 1)", content[4096:4096+96], `
		6c73747073746174 01000000 93bc1c2e 0100000000000000
		0201000000000000 0403000000000000 0500000000000000 0100000000000000
		0706000000000000 0000000000000000 01 63 02 6731 02 6e31 04 626f6f74 0000000000000000000000`)
	if len(content) != 8192 || content[16] != 2 {
		t.Errorf("%d bytes, first copy has sequence %d", len(content), content[16])
	}
}

func compareBytes(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	want = strings.Join(strings.Fields(want), "")
	if fmt.Sprintf("%x", got) != want {
		t.Errorf("%s differs:\n%s", what, hex.Dump(got))
	}
}
