package kv

import (
	"slices"
	"strings"
)

// settings are the replicated settings as the machine uses them. They are part of the state: every node has the same
// at the same LSN.
type settings struct {
	// values are those that were set, sorted by name; every other one has its default.
	values []setting

	events         EventClass // notify-keyspace-events
	maxMemory      int64      // bytes, 0: no limit
	policy         evictionPolicy
	samples        int // keys looked at for each eviction
	lfuLogFactor   int
	lfuDecayMinute int
	stream         blockLimits
	packs          packLimits // objects point to it
}

type setting struct{ name, value string }

// settingRule says what a replicated setting may be, and what it does.
type settingRule struct {
	name     string // as in CONFIG
	alias    string // another name for it, under which it is kept; empty: none
	standard string // the default, in the form that CONFIG GET shows
	// parse checks a value and returns it in the form that CONFIG GET shows; problem is empty if it is right.
	parse func(value string) (canonical, problem string)
	// apply lets a value that parse returned take effect; nil if commands ask for it by name.
	apply func(m *Machine, canonical string)
}

// settingRules are all replicated settings. Whoever owns one adds it to a group of its own.
var settingRules = slices.Concat(machineSettings, eventSettings, memorySettings, streamSettings, scriptSettings, packSettings)

// machineSettings have no owner elsewhere.
var machineSettings []settingRule

var eventSettings = []settingRule{{
	name: "notify-keyspace-events",
	parse: func(value string) (string, string) {
		classes, ok := ParseEvents(value)
		if !ok {
			return "", "Invalid event class character. Use 'Ag$lshzxeKEtmdn'."
		}
		return classes.String(), ""
	},
	apply: func(m *Machine, value string) { m.set.events, _ = ParseEvents(value) },
}}

// keptName returns the name under which the value of a setting is kept.
func keptName(name string) string {
	if rule := findRule(name); rule != nil && rule.alias != "" {
		return rule.alias
	}
	return name
}

func findRule(name string) *settingRule {
	for i := range settingRules {
		if settingRules[i].name == name {
			return &settingRules[i]
		}
	}
	return nil
}

// ReplicatedSettings returns the names of the settings that are part of the state, sorted. They are changed by a
// request made with Envelope.AppendRecord and SettingRecord.
func ReplicatedSettings() []string {
	var names []string
	for _, rule := range settingRules {
		names = append(names, rule.name)
	}
	slices.Sort(names)
	return names
}

// CheckSetting returns the value of a replicated setting as CONFIG GET will show it, or what is wrong with it, in the words
// of CONFIG SET.
func CheckSetting(name, value string) (canonical, problem string) {
	rule := findRule(name)
	if rule == nil {
		return "", "not a replicated setting"
	}
	return rule.parse(value)
}

// SettingRecord returns the arguments of the record that changes replicated settings: name, value, name, value ... All are
// changed, or none. Its reply is OK or an error.
func SettingRecord(pairs ...string) [][]byte {
	args := [][]byte{[]byte("setting")}
	for _, s := range pairs {
		args = append(args, []byte(s))
	}
	return args
}

// Setting returns the value of a replicated setting; false if there is none of that name.
func (m *Machine) Setting(name string) (value string, ok bool) {
	name = keptName(name)
	if i, found := m.set.find(name); found {
		return m.set.values[i].value, true
	}
	if rule := findRule(name); rule != nil {
		return rule.standard, true
	}
	return "", false
}

// ApplySetting changes a setting outside of the log. It is for a machine that has executed nothing yet: what the node's
// configuration says must be the same on every node.
func (m *Machine) ApplySetting(name, value string) (problem string) {
	canonical, problem := CheckSetting(name, value)
	if problem == "" {
		m.changeSetting(name, canonical)
	}
	return problem
}

func (s *settings) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.values, name, func(v setting, name string) int { return strings.Compare(v.name, name) })
}

func (m *Machine) changeSetting(name, canonical string) {
	name = keptName(name)
	i, found := m.set.find(name)
	if found {
		m.set.values[i].value = canonical
	} else {
		m.set.values = slices.Insert(m.set.values, i, setting{name, canonical})
	}
	if rule := findRule(name); rule.apply != nil {
		rule.apply(m, canonical)
	}
}

// defaults lets every default take effect.
func (m *Machine) defaults() {
	for _, rule := range settingRules {
		if rule.apply != nil {
			rule.apply(m, rule.standard)
		}
	}
}

func (s *settings) digest(d *digester) {
	d.number(uint64(len(s.values)))
	for _, v := range s.values {
		d.text(v.name)
		d.text(v.value)
	}
}

var settingRecords = []Command{{Name: "setting", Arity: -3, run: changeSettings}}

func changeSettings(c call) {
	if len(c.args)%2 == 0 {
		c.reply.Error(errSyntax)
		return
	}
	canonical := make([]string, len(c.args))
	for i := 1; i < len(c.args); i += 2 {
		var problem string
		if canonical[i], problem = CheckSetting(string(c.args[i]), string(c.args[i+1])); problem != "" {
			c.reply.Error("ERR CONFIG SET failed (possibly related to argument '" + string(c.args[i]) + "') - " + problem)
			return
		}
	}
	for i := 1; i < len(c.args); i += 2 {
		c.m.changeSetting(string(c.args[i]), canonical[i])
	}
	c.reply.OK()
}
