package acl

import (
	"slices"
	"strings"
)

// Command is a command, or a subcommand, as access control sees it.
type Command struct {
	// Name is in lower case; that of a subcommand is "config|get".
	Name string
	// Categories are the names of its categories, without the '@'.
	Categories []string
	// Open: every user may run it, whatever the rules say (AUTH, HELLO, RESET, QUIT).
	Open bool

	id     int
	parent *Command
	sub    []*Command // sorted by name
}

// Categories are those of Redis, in its order.
var Categories = []string{
	"keyspace", "read", "write", "set", "sortedset", "list", "hash", "string", "bitmap", "hyperloglog", "geo", "stream",
	"pubsub", "admin", "fast", "slow", "blocking", "dangerous", "connection", "transaction", "scripting",
}

// Table knows all commands. It does not change.
type Table struct {
	match  func(pattern, text string) bool
	byName map[string]*Command
	all    []*Command // sorted by name; the place is the id
}

// NewTable returns a table of commands, subcommands included, with match as the glob matcher. The table keeps copies.
func NewTable(commands []Command, match func(pattern, text string) bool) *Table {
	t := &Table{match: match, byName: make(map[string]*Command, len(commands))}
	for _, c := range commands {
		t.all = append(t.all, &c)
	}
	slices.SortFunc(t.all, func(a, b *Command) int { return strings.Compare(a.Name, b.Name) })
	for i, c := range t.all {
		c.id = i
		t.byName[c.Name] = c
	}
	for _, c := range t.all {
		if container, _, isSub := strings.Cut(c.Name, "|"); isSub {
			if parent := t.byName[container]; parent != nil {
				c.parent = parent
				parent.sub = append(parent.sub, c)
			}
		}
	}
	return t
}

// Lookup returns the command of that full name in lower case, or nil.
func (t *Table) Lookup(name string) *Command { return t.byName[name] }

// InCategory returns the names of the commands of a category, sorted; nil and false if there is no such category.
func (t *Table) InCategory(category string) (names []string, known bool) {
	if !slices.Contains(Categories, category) {
		return nil, false
	}
	for _, c := range t.all {
		if slices.Contains(c.Categories, category) {
			names = append(names, c.Name)
		}
	}
	return names, true
}
