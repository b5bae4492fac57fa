package acl

import (
	"slices"
	"strings"
)

// Key is a key that a command touches, and how.
type Key struct {
	Name   []byte
	Access Access
}

// Channel is a channel that a command publishes or subscribes to. A pattern must stand in the rules as it is.
type Channel struct {
	Name    []byte
	Pattern bool
}

// Request is what a user wants to do.
type Request struct {
	Command  *Command
	Args     [][]byte // the command's name first
	Keys     []Key
	Channels []Channel
}

// Denial says what was missing. The order is that of importance, as in Redis.
type Denial uint8

// Allowed is the zero Denial.
const (
	Allowed Denial = iota
	DeniedCommand
	DeniedKey
	DeniedAuth // for the log: a wrong password
	DeniedChannel
)

// String returns the word of ACL LOG.
func (d Denial) String() string {
	return [...]string{"allowed", "command", "key", "auth", "channel"}[d]
}

// Check returns whether the user may do what is asked, and otherwise the object that was denied: the full name of the
// command, a key or a channel.
func (u *User) Check(r Request) (denial Denial, object string) {
	last := -1
	for _, s := range u.selectors {
		found, place, what := s.check(u.table, r)
		if found == Allowed {
			return Allowed, ""
		}
		if found > denial || found == denial && place > last {
			denial, object, last = found, what, place
		}
	}
	return denial, object
}

func (s *selector) check(t *Table, r Request) (denial Denial, place int, object string) {
	if !s.allCommands && !r.Command.Open && !s.allows(r.Command.id) && !s.allowsFirst(r) {
		return DeniedCommand, 0, r.Command.Name
	}
	if !s.allKeys {
		for i, key := range r.Keys {
			if !s.allowsKey(t, key) {
				return DeniedKey, i, string(key.Name)
			}
		}
	}
	if !s.allChannels {
		for i, channel := range r.Channels {
			if !s.allowsChannel(t, channel) {
				return DeniedChannel, i, string(channel.Name)
			}
		}
	}
	return Allowed, 0, ""
}

func (s *selector) allowsFirst(r Request) bool {
	return len(r.Args) > 1 && slices.ContainsFunc(s.firstArgs, func(f firstArg) bool {
		return f.id == r.Command.id && strings.EqualFold(f.word, string(r.Args[1]))
	})
}

func (s *selector) allowsKey(t *Table, key Key) bool {
	return slices.ContainsFunc(s.keys, func(p keyPattern) bool {
		return p.access&key.Access == key.Access && t.match(p.pattern, string(key.Name))
	})
}

func (s *selector) allowsChannel(t *Table, channel Channel) bool {
	return slices.ContainsFunc(s.channels, func(pattern string) bool {
		if channel.Pattern {
			return pattern == string(channel.Name)
		}
		return t.match(pattern, string(channel.Name))
	})
}

// MayReadEverything reports whether some selector allows the command and reading every key (SORT with BY or GET).
func (u *User) MayReadEverything(command *Command) bool {
	return slices.ContainsFunc(u.selectors, func(s *selector) bool {
		return (s.allCommands || s.allows(command.id)) && (s.allKeys ||
			slices.ContainsFunc(s.keys, func(p keyPattern) bool { return p.pattern == "*" && p.access&Read != 0 }))
	})
}

// MayListen reports whether the user may stay subscribed to a channel or pattern.
func (u *User) MayListen(channel Channel) bool {
	return slices.ContainsFunc(u.selectors, func(s *selector) bool {
		return s.allChannels || s.allowsChannel(u.table, channel)
	})
}

// Message returns what a denial is told to the user. Verbose names the object (ACL DRYRUN).
func (d Denial) Message(user, object string, verbose bool) string {
	switch {
	case d == DeniedCommand:
		return "User " + user + " has no permissions to run the '" + object + "' command"
	case d == DeniedKey && verbose:
		return "User " + user + " has no permissions to access the '" + object + "' key"
	case d == DeniedKey:
		return "No permissions to access a key"
	case verbose:
		return "User " + user + " has no permissions to access the '" + object + "' channel"
	}
	return "No permissions to access a channel"
}
