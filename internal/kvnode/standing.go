package kvnode

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"lockstep/internal/acl"
	"lockstep/internal/kv"
)

const (
	errNoAuth = "NOAUTH Authentication required."
	// errLapsed ends a connection that had logged in where nobody could confirm that.
	errLapsed = "NOAUTH The password that this connection has given is valid no more: connect and log in again."
)

// shellState is what a node knows beside the machine: who listens, who may do what, what is paused.
type shellState struct {
	users atomic.Pointer[acl.Users] // as the state has them, and the password of the configuration
	// generation grows whenever something has changed that guard looks at and that does not belong to one connection.
	generation atomic.Uint64
	// usersKnown: since it started this node has known all users that were acknowledged at some moment. Before, its state may be an old image, or
	// empty, and want no password where the group does.
	usersKnown atomic.Bool

	pubsub   pubsub
	tracker  tracker
	monitors monitors
	pauses   pauses
	denials  denials
	latency  latencyMonitor
	acting   *conn                                   // whose write is being executed; of the goroutine that applies the log
	stop     atomic.Pointer[func()]                  // ends the node, once it serves
	failover atomic.Pointer[context.CancelCauseFunc] // gives a FAILOVER up, while one waits for the configuration master
}

// standing is what sets a connection apart from one that may do everything and only asks. Its connection's goroutine
// owns it.
type standing struct {
	// guarded: every command must pass guard. Otherwise guard is asked when the generation has changed.
	guarded       bool
	generation    uint64
	user          *acl.User
	authenticated bool
	// unsure: that was decided by a node that may not have known all users. Before the group is needed for this connection it is decided anew.
	unsure     bool
	proof      string // hash of the password that was given, while unsure; empty: none
	lapsed     bool   // that password turned out to be valid no more
	tracking   trackingMode
	trackNext  bool // the keys that the current command reads are to be remembered
	monitoring bool
	noTouch    bool // CLIENT NO-TOUCH
}

// envelopeUser returns the user's name for the log; empty for the default user.
func (s *standing) envelopeUser() string {
	if s.user == nil || s.user.Name() == acl.Default {
		return ""
	}
	return s.user.Name()
}

// changed makes every connection look at the state of the shell again.
func (s *shellState) changed() { s.generation.Add(1) }

// authRequired reports whether a connection must give a password first.
func (s *shellState) authRequired() bool {
	user := s.users.Load().Get(acl.Default)
	return !user.On() || !user.NoPass()
}

// begin gives a new connection the default user.
func (c *conn) begin() {
	shell := &c.node.shell
	c.standing = standing{user: shell.users.Load().Get(acl.Default), authenticated: !shell.authRequired()}
	c.standing.unsure = c.standing.authenticated && !shell.usersKnown.Load()
	c.about.user.Store(c.standing.user)
	c.refresh()
}

// refresh looks at everything again on which guarded depends.
func (c *conn) refresh() {
	s, shell := &c.standing, &c.node.shell
	s.generation = shell.generation.Load()
	if s.user != nil {
		s.user = shell.users.Load().Get(s.user.Name())
	}
	if s.unsure {
		s.decide(shell)
	}
	c.about.user.Store(s.user)
	s.guarded = s.user == nil || s.unsure || s.lapsed || !s.authenticated && shell.authRequired() || !s.user.Unrestricted() ||
		c.about.listening() || s.tracking.on || shell.monitors.count.Load() > 0 || shell.pauses.active()
	s.trackNext = false
}

// guard says why a command cannot be executed by this connection now; empty: it can. It is called for every command
// of a connection that is not plain, before the command is executed or queued, and may wait for the end of a pause.
func (c *conn) guard(command *command, args [][]byte) (problem string) {
	c.refresh()
	s := &c.standing
	if s.unsure && c.needsGroup(command) {
		if err := c.makeSure(); err != nil {
			return fmt.Sprintf("MASTERDOWN node %s cannot ask its group who may use it: %v. Try again, on another node, or when 'smrctl status' shows a master.",
				c.node.config.Node, err)
		}
	}
	switch {
	case s.user == nil: // removed meanwhile
		c.closing = true
		return errNoAuth
	case s.lapsed && !command.noAuth: // a client was told that it is in: it has to notice that it is not
		c.closing = true
		return errLapsed
	case !s.authenticated && !command.noAuth && c.node.shell.authRequired():
		return errNoAuth
	case !s.user.Unrestricted():
		if problem = c.checkAccess(command, args); problem != "" {
			return problem
		}
	}
	if c.about.listening() && c.reply.Proto == 2 && !command.whileListening {
		return "ERR Can't execute '" + command.name + "': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
	}
	if c.node.shell.pauses.active() {
		c.waitForPause(command)
	}
	if s.tracking.on {
		s.trackNext = s.tracking.next(command, c.tx.queueing)
	}
	if c.node.shell.monitors.count.Load() > 0 {
		c.feedMonitors(command, args)
	}
	return ""
}

// harmless are commands that tell about this node, or set up the connection; of those with subcommands all.
var harmless = []string{"client|getname", "client|id", "client|setinfo", "client|setname", "cluster", "command", "echo", "info", "ping", "readonly",
	"readwrite", "role", "select", "smr", "time"}

// needsGroup reports whether a command may tell or change what the group would not let anybody tell or change.
func (c *conn) needsGroup(command *command) bool {
	name, _, _ := strings.Cut(command.name, "|")
	switch {
	case command.noAuth || slices.Contains(harmless, command.name) || slices.Contains(harmless, name):
		return false
	case command.machine != nil && command.local == nil && !command.write && !command.mayWrite:
		return c.consistency.kind == readLinearizable // what is older was asked for as such
	}
	return true
}

// makeSure waits until this node knows all users that were acknowledged before now, and decides anew whether the client has shown who it is.
func (c *conn) makeSure() error {
	c.settle()
	if err := c.linearize(); err != nil {
		return err
	}
	c.node.shell.usersKnown.Store(true)
	c.refresh()
	c.standing.unsure, c.standing.proof = false, ""
	c.limitQueries()
	c.refresh()
	return nil
}

// decide decides on what this node knows now whether the client has shown who it is.
func (s *standing) decide(shell *shellState) {
	if s.proof != "" && (s.user == nil || !s.user.AcceptsHash(s.proof)) {
		s.user, s.proof, s.lapsed = shell.users.Load().Get(acl.Default), "", true
	}
	s.authenticated = s.proof != "" || !shell.authRequired()
}

// checkAccess returns the error of a command that the user may not execute.
func (c *conn) checkAccess(command *command, args [][]byte) string {
	user := c.standing.user
	context := "toplevel"
	if c.tx.queueing {
		context = "multi"
	}
	if denial, object := mayExecute(user, command, args); denial != acl.Allowed {
		c.node.denied(c, acl.Entry{Reason: denial, Context: context, Object: object, User: user.Name()})
		return "NOPERM " + denial.Message(user.Name(), object, false)
	}
	if problem := checkSort(user, command, args); problem != "" {
		return problem
	}
	if command.exec && c.tx.queueing {
		for _, q := range c.tx.commands {
			if denial, object := mayExecute(user, q.command, q.args); denial != acl.Allowed {
				c.node.denied(c, acl.Entry{Reason: denial, Context: "multi", Object: object, User: user.Name()})
				return "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. " +
					"This command is no longer allowed for the following reason: " + denial.Message(user.Name(), object, false)
			}
		}
	}
	return ""
}

// mayExecute asks whether a user may execute a command.
func mayExecute(user *acl.User, command *command, args [][]byte) (acl.Denial, string) {
	request := acl.Request{Command: command.access, Args: args, Channels: kv.Channels(command.name, args)}
	if uses, ok := kv.KeyUses(command.name, args, nil); ok {
		for _, use := range uses {
			request.Keys = append(request.Keys, acl.Key{Name: use.Key, Access: use.Access})
		}
	}
	return user.Check(request)
}

// readsKeys reports whether a pattern of SORT stands for keys: # is the element itself, and BY without a star means not to sort.
func readsKeys(option string, pattern []byte) bool {
	return string(pattern) != "#" && (option != "by" || bytes.IndexByte(pattern, '*') >= 0)
}

// checkSort: SORT with BY or GET reads keys that stand in values.
func checkSort(user *acl.User, command *command, args [][]byte) string {
	if command.name != "sort" && command.name != "sort_ro" || user.MayReadEverything(command.access) {
		return ""
	}
	for i := 2; i+1 < len(args); i++ {
		for _, option := range []string{"by", "get"} {
			if isWord(args[i], option) && readsKeys(option, args[i+1]) {
				return "ERR " + map[string]string{"by": "BY", "get": "GET"}[option] + " option of SORT denied due to insufficient ACL permissions."
			}
		}
	}
	return ""
}
