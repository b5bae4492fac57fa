package acl

import (
	"slices"
	"strings"
)

// Default is the name of the user that every connection begins with.
const Default = "default"

// MaxUsers bounds how many users there can be.
const MaxUsers = 1 << 16

// Users is a set of users. It does not change: every change makes a new set.
type Users struct {
	table *Table
	list  []*User // sorted by name
}

// NewUsers returns the set of a new group: the user "default", who may do everything without a password.
func NewUsers(t *Table) *Users {
	d := t.NewUser(Default)
	d.on, d.nopass = true, true
	d.selectors[0].setAll(true)
	d.selectors[0].allKeys, d.selectors[0].allChannels = true, true
	return &Users{table: t, list: []*User{d}}
}

func (s *Users) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.list, name, func(u *User, name string) int { return strings.Compare(u.name, name) })
}

// Table returns the commands that the rules are about.
func (s *Users) Table() *Table { return s.table }

// Get returns a user, or nil.
func (s *Users) Get(name string) *User {
	if i, found := s.find(name); found {
		return s.list[i]
	}
	return nil
}

// All returns the users sorted by name. The slice is not to be changed.
func (s *Users) All() []*User { return s.list }

// Full reports whether there is no room for another user.
func (s *Users) Full() bool { return len(s.list) >= MaxUsers }

// With returns the set in which the rules have been applied to a user, who is created if necessary.
func (s *Users) With(name string, rules []string) (*Users, error) {
	i, found := s.find(name)
	user := s.table.NewUser(name)
	if found {
		user = s.list[i]
	}
	changed, err := user.With(rules)
	if err != nil {
		return nil, err
	}
	list := slices.Clone(s.list)
	if found {
		list[i] = changed
	} else {
		list = slices.Insert(list, i, changed)
	}
	return &Users{table: s.table, list: list}, nil
}

// Without returns the set without a user, and whether there was one. The user "default" stays.
func (s *Users) Without(name string) (*Users, bool) {
	i, found := s.find(name)
	if !found || name == Default {
		return s, false
	}
	return &Users{table: s.table, list: slices.Delete(slices.Clone(s.list), i, i+1)}, true
}
