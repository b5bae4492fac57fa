package failover

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

// Limits of the settings of a group.
const (
	// MaxSettings bounds the settings, users and function libraries that are on record, removed ones included.
	MaxSettings = 1024
	// MaxSettingName and MaxSettingValue bound a name and a value in bytes, MaxSettingsBytes all values together.
	MaxSettingName   = 256
	MaxSettingValue  = 128 << 10
	MaxSettingsBytes = 4 << 20
	// MaxSettingsHistory bounds the history, in changes; the oldest go first.
	MaxSettingsHistory = 200
	// maxHistoryText bounds a value in the history, in bytes; longer ones are cut.
	maxHistoryText = 256

	_ = uint(MaxCommand - 7*MaxSettingValue) // a value whose every byte is escaped still fits
)

// Settings are what operators want the KV nodes of a group to have: settings of Redis, users, function libraries. What a
// value may be is the KV nodes' affair; here it has a version, a history and one order.
//
// Invariant: Shared <= Version; Items are sorted by kind and name, and none is newer than Version.
type Settings struct {
	Version uint64 `json:",omitempty"` // grows with every change
	// Shared is the version up to which what is replicated went through the group's log.
	Shared  uint64          `json:",omitempty"`
	Items   []Setting       `json:",omitempty"`
	History []SettingChange `json:",omitempty"` // oldest first
}

// Setting is one of them.
type Setting struct {
	Kind    SettingKind
	Name    string
	Value   string
	Removed bool   `json:",omitempty"` // there shall be none: users and functions
	Version uint64 `json:",omitempty"` // that brought it
}

// SettingKind says what a Setting is.
type SettingKind string

// Kinds of Setting.
const (
	SettingConfig   SettingKind = "config"
	SettingUser     SettingKind = "user"
	SettingFunction SettingKind = "function"
)

// SettingChange is what one version changed of one setting.
type SettingChange struct {
	Version     uint64
	StampMillis int64
	By          string `json:",omitempty"`
	What        string // set, removed, forgotten
	Kind        SettingKind
	Name        string
	Value       string `json:",omitempty"`
	Before      string `json:",omitempty"`
}

type (
	// ChangeSettings gives settings their values, or with Forget takes them off the record: the nodes keep what they have.
	ChangeSettings struct {
		Group    string
		Version  uint64 `json:",omitempty"` // of the settings as the operator saw them; 0: whatever it is
		Settings []Setting
		Forget   bool   `json:",omitempty"`
		By       string `json:",omitempty"`
	}
	// ShareSettings notes that everything replicated up to Version went through the group's log.
	ShareSettings struct {
		Group   string
		Version uint64
	}
)

// EntrySettings is the kind of WorkEntry, and EventSettings the name of the Event, of a change of settings.
const (
	EntrySettings EntryKind = "settings"
	EventSettings EventName = "settings"
)

// place returns where the setting is, or would be, and whether it is there.
func (s *Settings) place(kind SettingKind, name string) (int, bool) {
	i := sort.Search(len(s.Items), func(i int) bool {
		item := &s.Items[i]
		return item.Kind > kind || item.Kind == kind && item.Name >= name
	})
	return i, i < len(s.Items) && s.Items[i].Kind == kind && s.Items[i].Name == name
}

func (s *Settings) checkVersion(version uint64) error {
	if version != 0 && version != s.Version {
		return fmt.Errorf("%w: its settings have version %d, you saw %d: look at them again", errVersion, s.Version, version)
	}
	return nil
}

// checkChange reports why a change cannot be made.
func (s *Settings) checkChange(c *ChangeSettings) error {
	count, size := len(s.Items), 0
	for i := range s.Items {
		size += len(s.Items[i].Value)
	}
	for i := range c.Settings {
		item := &c.Settings[i]
		at, known := s.place(item.Kind, item.Name)
		if c.Forget && !known {
			return fmt.Errorf("%s %s is not on record: nothing to forget", item.Kind, item.Name)
		}
		if known {
			size -= len(s.Items[at].Value)
		} else {
			count++
		}
		size += len(item.Value)
	}
	if !c.Forget && (count > MaxSettings || size > MaxSettingsBytes) {
		return fmt.Errorf("%d settings of %d bytes would be on record, at most %d of %d bytes are possible", count, size, MaxSettings, MaxSettingsBytes)
	}
	return nil
}

func (a *applying) changeSettings(c *ChangeSettings) error {
	s := &a.group.Settings
	for _, err := range []error{s.checkVersion(c.Version), s.checkChange(c)} {
		if err != nil {
			return err
		}
	}
	s.Version++
	var names []string
	for _, item := range c.Settings {
		names = append(names, a.changeSetting(s, c, item))
	}
	s.History = slices.Clone(s.History[max(0, len(s.History)-MaxSettingsHistory):])
	text := fmt.Sprintf("settings version %d: %s", s.Version, strings.Join(names, ", "))
	if c.By != "" {
		text += ", by " + c.By
	}
	a.log(WorkEntry{Kind: EntrySettings, Reason: text, Master: a.group.Reign.Master})
	a.event(Event{Name: EventSettings, Text: text})
	return nil
}

// changeSetting changes one setting and its history. It returns what it did, without values: they may be secrets.
func (a *applying) changeSetting(s *Settings, c *ChangeSettings, item Setting) string {
	change := SettingChange{Version: s.Version, StampMillis: a.cmd.StampMillis, By: c.By, What: "set", Kind: item.Kind, Name: item.Name, Value: cut(item.Value)}
	i, known := s.place(item.Kind, item.Name)
	if known {
		change.Before = cut(s.Items[i].Value)
	}
	item.Version = s.Version
	switch {
	case c.Forget:
		change.What, change.Value = "forgotten", ""
		s.Items = slices.Delete(slices.Clone(s.Items), i, i+1)
	case known:
		s.Items = slices.Clone(s.Items)
		s.Items[i] = item
	default:
		s.Items = slices.Insert(slices.Clone(s.Items), i, item)
	}
	if item.Removed && !c.Forget {
		change.What = "removed"
	}
	s.History = append(s.History, change)
	return fmt.Sprintf("%s %s %s", item.Kind, item.Name, change.What)
}

// cut bounds a value for the history.
func cut(value string) string {
	if len(value) <= maxHistoryText {
		return value
	}
	end := maxHistoryText
	for !utf8.RuneStart(value[end]) {
		end--
	}
	return value[:end] + "…"
}

func (a *applying) shareSettings(c *ShareSettings) error {
	s := &a.group.Settings
	if c.Version <= s.Shared || c.Version > s.Version {
		return fmt.Errorf("overtaken: settings of version %d are shared, %d is the newest", s.Shared, s.Version)
	}
	s.Shared = c.Version
	return nil
}

func (c *ChangeSettings) check() error {
	if len(c.Settings) == 0 {
		return errors.New("no settings to change")
	}
	if len(c.By) > MaxSettingName || !utf8.ValidString(c.By) {
		return fmt.Errorf("the name of who asks has %d bytes: use at most %d, of UTF-8", len(c.By), MaxSettingName)
	}
	size := 0
	for i := range c.Settings {
		item := &c.Settings[i]
		if err := item.check(); err != nil {
			return err
		}
		if size += len(item.Value); size > MaxSettingValue {
			return fmt.Errorf("the values have more than %d bytes together: change fewer at once", MaxSettingValue)
		}
		for j := range i {
			if c.Settings[j].Kind == item.Kind && c.Settings[j].Name == item.Name {
				return fmt.Errorf("%s %s is named twice", item.Kind, item.Name)
			}
		}
	}
	return nil
}

func (s *Setting) check() error {
	switch s.Kind {
	case SettingConfig, SettingUser, SettingFunction:
	default:
		return fmt.Errorf("unknown kind of setting %q", s.Kind)
	}
	switch {
	case s.Name == "" || len(s.Name) > MaxSettingName || !utf8.ValidString(s.Name):
		return fmt.Errorf("name of a %s with %d bytes: use 1 to %d, of UTF-8", s.Kind, len(s.Name), MaxSettingName)
	case len(s.Value) > MaxSettingValue:
		return fmt.Errorf("%s %s has a value of %d bytes, at most %d are possible", s.Kind, s.Name, len(s.Value), MaxSettingValue)
	case !utf8.ValidString(s.Value):
		return fmt.Errorf("%s %s: the value is not UTF-8", s.Kind, s.Name)
	case s.Removed && (s.Kind == SettingConfig || s.Value != ""):
		return fmt.Errorf("%s %s cannot be removed", s.Kind, s.Name)
	}
	return nil
}

// check reports which invariant of stored settings is broken.
func (s *Settings) check() error {
	if s.Shared > s.Version || len(s.Items) > MaxSettings || len(s.History) > MaxSettingsHistory {
		return fmt.Errorf("settings of version %d: shared %d, %d of them, history of %d", s.Version, s.Shared, len(s.Items), len(s.History))
	}
	for i := range s.Items {
		item := &s.Items[i]
		if err := item.check(); err != nil {
			return err
		}
		if at, _ := s.place(item.Kind, item.Name); at != i || item.Version > s.Version {
			return fmt.Errorf("%s %s is out of order", item.Kind, item.Name)
		}
	}
	return nil
}

// assessSettings looks at a change of settings before it is made.
func (d *Driver) assessSettings(a *assessment, g *Group, c *ChangeRequest) {
	change := *c.Settings
	change.Group, change.Version = g.Name, c.Version
	if err := g.Settings.checkVersion(c.Version); err != nil {
		a.stale = true
		a.refuse(err)
		return
	}
	a.cmd = Command{ChangeSettings: &change}
	a.refuse(g.Settings.checkChange(&change))
	a.check("the settings have version %d", g.Settings.Version)
	for i := range change.Settings {
		item := &change.Settings[i]
		_, known := g.Settings.place(item.Kind, item.Name)
		switch {
		case change.Forget:
			a.step("forget %s %s: the nodes keep what they have", item.Kind, item.Name)
		case item.Removed:
			a.step("remove %s %s", item.Kind, item.Name)
		case item.Kind == SettingConfig:
			a.step("set %s to %q", item.Name, cut(item.Value))
		case known:
			a.step("change %s %s", item.Kind, item.Name)
		default:
			a.step("make %s %s", item.Kind, item.Name)
		}
	}
}
