package failover

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func settingsCommand(version uint64, forget bool, items ...Setting) *Command {
	return &Command{Confmaster: 1, StampMillis: 5, ChangeSettings: &ChangeSettings{Group: "g1", Version: version, Settings: items, Forget: forget, By: "ann"}}
}

func settingsState(t *testing.T) *State {
	t.Helper()
	s := NewState("c")
	r := s.Apply(&Command{CreateGroup: &CreateGroup{Name: "g1", Policy: Policy{Copies: 1, MinCopies: 1}, Replicas: []Replica{{Node: "n1", ManageAddr: "a", DataAddr: "b"}}}})
	if !r.Applied {
		t.Fatal(r.Reason)
	}
	return s
}

// What could go wrong: the later of two operators overwrites what the first one has just changed; a secret stands in the work log.
func TestTheLaterOfTwoOperatorsIsTold(t *testing.T) {
	s := settingsState(t)
	first := s.Apply(settingsCommand(0, false, Setting{Kind: SettingConfig, Name: "maxmemory", Value: "1"}, Setting{Kind: SettingUser, Name: "ann", Value: "on #secret"}))
	if !first.Applied || s.Groups[0].Settings.Version != 1 || strings.Contains(first.Entry.Reason, "secret") || !strings.Contains(first.Entry.Reason, "config maxmemory set") {
		t.Fatalf("%+v", first)
	}
	if r := s.Apply(settingsCommand(1, false, Setting{Kind: SettingConfig, Name: "maxmemory", Value: "2"})); !r.Applied {
		t.Fatal(r.Reason)
	}
	late := s.Apply(settingsCommand(1, false, Setting{Kind: SettingConfig, Name: "maxmemory", Value: "3"}))
	if late.Applied || !late.Stale || !strings.Contains(late.Reason, "version 2, you saw 1") || s.Groups[0].Settings.Items[0].Value != "2" {
		t.Errorf("%+v", late)
	}
	if h := s.Groups[0].Settings.History; len(h) != 3 || h[2].Before != "1" || h[2].Value != "2" || h[2].By != "ann" {
		t.Errorf("history %+v", h)
	}
	if r := s.Apply(&Command{ShareSettings: &ShareSettings{Group: "g1", Version: 3}}); r.Applied {
		t.Error("a version that does not exist is shared")
	}
	if r := s.Apply(&Command{ShareSettings: &ShareSettings{Group: "g1", Version: 2}}); !r.Applied || s.Groups[0].Settings.Shared != 2 {
		t.Errorf("%+v", r)
	}
	for name, c := range map[string]*Command{
		"nothing":           settingsCommand(0, false),
		"unknown kind":      settingsCommand(0, false, Setting{Kind: "colour", Name: "red"}),
		"twice":             settingsCommand(0, false, Setting{Kind: SettingConfig, Name: "a"}, Setting{Kind: SettingConfig, Name: "a"}),
		"no name":           settingsCommand(0, false, Setting{Kind: SettingConfig}),
		"too long":          settingsCommand(0, false, Setting{Kind: SettingFunction, Name: "a", Value: strings.Repeat("x", MaxSettingValue+1)}),
		"not UTF-8":         settingsCommand(0, false, Setting{Kind: SettingFunction, Name: "a", Value: "\xff"}),
		"config removed":    settingsCommand(0, false, Setting{Kind: SettingConfig, Name: "a", Removed: true}),
		"forget a stranger": settingsCommand(0, true, Setting{Kind: SettingConfig, Name: "a"}),
	} {
		if r := s.Apply(c); r.Applied || r.Reason == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// Random changes against a map. What could go wrong: an item is lost, doubled or out of order; a value of an earlier State changes
// under a reader's hands; bounds are passed; what is stored cannot be read again.
func TestSettingsAreAsTheMapOfThem(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	s := settingsState(t)
	twin := map[Setting]string{}
	kinds := []SettingKind{SettingConfig, SettingUser, SettingFunction}
	for step := range 2000 {
		g := &s.Groups[0]
		before, copied := g.Settings.Items, slices.Clone(g.Settings.Items)
		item := Setting{Kind: kinds[rng.IntN(3)], Name: string(rune('a' + rng.IntN(12))), Value: strings.Repeat("v", rng.IntN(600))}
		key := Setting{Kind: item.Kind, Name: item.Name}
		forget := rng.IntN(4) == 0
		_, known := twin[key]
		r := s.Apply(settingsCommand(g.Settings.Version, forget, item))
		if r.Applied != (!forget || known) {
			t.Fatalf("step %d: %+v", step, r)
		}
		switch {
		case forget:
			delete(twin, key)
		default:
			twin[key] = item.Value
		}
		if !slices.Equal(before, copied) {
			t.Fatalf("step %d: the settings of an earlier state have changed", step)
		}
		if len(g.Settings.Items) != len(twin) || len(g.Settings.History) > MaxSettingsHistory {
			t.Fatalf("step %d: %d items, %d in the map, history of %d", step, len(g.Settings.Items), len(twin), len(g.Settings.History))
		}
		for _, item := range g.Settings.Items {
			if twin[Setting{Kind: item.Kind, Name: item.Name}] != item.Value {
				t.Fatalf("step %d: %s %s", step, item.Kind, item.Name)
			}
		}
		if step%100 == 0 {
			if back, err := DecodeState(s.Encode()); err != nil || !slices.Equal(back.Groups[0].Settings.Items, g.Settings.Items) {
				t.Fatalf("step %d: %v", step, err)
			}
		}
	}
}
