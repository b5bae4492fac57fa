package acl

import (
	"slices"
	"strings"
)

// Access is what a command does to a key.
type Access uint8

// A key that is neither read nor written (its existence is asked) needs a pattern of any right.
const (
	Read Access = 1 << iota
	Write
)

// keyPattern allows access to the keys that match.
type keyPattern struct {
	pattern string
	access  Access
}

func (p keyPattern) String() string {
	switch p.access {
	case Read:
		return "%R~" + p.pattern
	case Write:
		return "%W~" + p.pattern
	}
	return "~" + p.pattern
}

// firstArg allows a command whose first argument is word.
type firstArg struct {
	id   int
	word string // lower case
}

// selector is one set of rights.
type selector struct {
	bits        []uint64 // by Command.id
	allCommands bool     // nothing was ever taken away
	future      bool     // commands that are not known yet, too: "+@all" came last of the two
	firstArgs   []firstArg
	rules       []string // "+get", "-@write" ..., what is left of them after the last "+@all" or "-@all"
	allKeys     bool
	keys        []keyPattern
	allChannels bool
	channels    []string
}

func (s *selector) clone() *selector {
	c := *s
	c.bits = slices.Clone(s.bits)
	c.firstArgs = slices.Clone(s.firstArgs)
	c.rules = slices.Clone(s.rules)
	c.keys = slices.Clone(s.keys)
	c.channels = slices.Clone(s.channels)
	return &c
}

func (t *Table) newSelector() *selector { return &selector{bits: make([]uint64, (len(t.all)+63)/64)} }

func (s *selector) allows(id int) bool { return s.bits[id/64]&(1<<(id%64)) != 0 }

func (s *selector) set(c *Command, allow bool) {
	if allow {
		s.bits[c.id/64] |= 1 << (c.id % 64)
	} else {
		s.bits[c.id/64] &^= 1 << (c.id % 64)
		s.allCommands = false
	}
}

// setWhole allows or forbids a command and all of its subcommands.
func (s *selector) setWhole(c *Command, allow bool) {
	s.set(c, allow)
	s.forget(c.id)
	for _, sub := range c.sub {
		s.setWhole(sub, allow)
	}
}

// setAll allows or forbids everything.
func (s *selector) setAll(allow bool) {
	s.allCommands, s.future, s.rules, s.firstArgs = allow, allow, nil, nil
	for i := range s.bits {
		s.bits[i] = 0
		if allow {
			s.bits[i] = ^uint64(0)
		}
	}
}

// note remembers a rule about a command or "@category", in place of those about the same thing or about a part of it.
func (s *selector) note(subject string, allow bool) {
	s.rules = slices.DeleteFunc(s.rules, func(rule string) bool {
		return rule[1:] == subject || strings.HasPrefix(rule[1:], subject+"|")
	})
	sign := "-"
	if allow {
		sign = "+"
	}
	s.rules = append(s.rules, sign+subject)
}

// forget takes back what was allowed for some first arguments of a command.
func (s *selector) forget(id int) {
	s.firstArgs = slices.DeleteFunc(s.firstArgs, func(f firstArg) bool { return f.id == id })
}

// commandRules prints which commands are allowed, as ACL LIST does.
func (s *selector) commandRules() string {
	text := "-@all"
	if s.future {
		text = "+@all"
	}
	if len(s.rules) > 0 {
		text += " " + strings.Join(s.rules, " ")
	}
	return text
}

func (s *selector) keyRules() string {
	if s.allKeys {
		return "~*"
	}
	words := make([]string, len(s.keys))
	for i, k := range s.keys {
		words[i] = k.String()
	}
	return strings.Join(words, " ")
}

func (s *selector) channelRules() string {
	if s.allChannels {
		return "&*"
	}
	words := make([]string, len(s.channels))
	for i, c := range s.channels {
		words[i] = "&" + c
	}
	return strings.Join(words, " ")
}

// describe prints the selector as ACL LIST does.
func (s *selector) describe() string {
	var words []string
	if keys := s.keyRules(); keys != "" {
		words = append(words, keys)
	}
	if !s.allChannels {
		words = append(words, "resetchannels")
	}
	if channels := s.channelRules(); channels != "" {
		words = append(words, channels)
	}
	return strings.Join(append(words, s.commandRules()), " ")
}

// applyToSelector applies one rule about commands, keys or channels.
func (t *Table) applyToSelector(s *selector, rule string) error {
	switch word := strings.ToLower(rule); word {
	case "allkeys", "~*":
		s.allKeys, s.keys = true, nil
		return nil
	case "resetkeys":
		s.allKeys, s.keys = false, nil
		return nil
	case "allchannels", "&*":
		s.allChannels, s.channels = true, nil
		return nil
	case "resetchannels":
		s.allChannels, s.channels = false, nil
		return nil
	case "allcommands", "+@all":
		s.setAll(true)
		return nil
	case "nocommands", "-@all":
		s.setAll(false)
		return nil
	}
	switch rule[0] {
	case '~', '%':
		return s.addKeys(rule)
	case '&':
		return s.addChannels(rule[1:])
	case '+', '-':
		return t.changeCommands(s, rule[1:], rule[0] == '+')
	}
	return errRule
}

func (s *selector) addKeys(rule string) error {
	if s.allKeys {
		return errAllKeys
	}
	access, pattern := Read|Write, rule[1:]
	if rule[0] == '%' {
		rights, rest, ok := strings.Cut(pattern, "~")
		access, pattern = 0, rest
		for _, right := range strings.ToUpper(rights) {
			switch {
			case right == 'R' && access&Read == 0:
				access |= Read
			case right == 'W' && access&Write == 0:
				access |= Write
			default:
				return errRule
			}
		}
		if !ok || access == 0 {
			return errRule
		}
	}
	if hasSpaces(pattern) {
		return errRule
	}
	for i := range s.keys {
		if s.keys[i].pattern == pattern {
			s.keys[i].access |= access
			return nil
		}
	}
	s.keys = append(s.keys, keyPattern{pattern, access})
	return nil
}

func (s *selector) addChannels(pattern string) error {
	switch {
	case s.allChannels:
		return errAllChannels
	case hasSpaces(pattern):
		return errRule
	case !slices.Contains(s.channels, pattern):
		s.channels = append(s.channels, pattern)
	}
	return nil
}

// changeCommands applies "+subject" or "-subject".
func (t *Table) changeCommands(s *selector, subject string, allow bool) error {
	subject = strings.ToLower(subject)
	if strings.HasPrefix(subject, "@") {
		names, known := t.InCategory(subject[1:])
		if !known {
			return errUnknown
		}
		for _, name := range names {
			s.setWhole(t.byName[name], allow)
		}
		s.note(subject, allow)
		return nil
	}
	if command := t.byName[subject]; command != nil {
		s.setWhole(command, allow)
		s.note(subject, allow)
		return nil
	}
	bar := strings.LastIndexByte(subject, '|')
	if bar < 0 || !allow {
		return errUnknown
	}
	command := t.byName[subject[:bar]]
	switch {
	case command == nil:
		return errUnknown
	case command.parent != nil:
		return errFirstArg
	case bar == len(subject)-1:
		return errRule
	case len(command.sub) > 0:
		return errUnknown
	}
	if first := (firstArg{command.id, subject[bar+1:]}); !slices.Contains(s.firstArgs, first) {
		s.firstArgs = append(s.firstArgs, first)
	}
	s.note(subject, true)
	return nil
}
