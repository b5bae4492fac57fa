package kvnode

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/internal/acl"
	"lockstep/internal/kv"
	"lockstep/internal/resp"
)

// denials is the log of what was denied to clients of this node.
type denials struct {
	mu    sync.Mutex
	log   acl.Log
	total [acl.DeniedChannel + 1]int64 // by reason, for INFO
}

// denied notes a denial.
func (n *Node) denied(c *conn, entry acl.Entry) {
	entry.Client = c.describe()
	d := &n.shell.denials
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total[entry.Reason]++
	d.log.Add(entry, time.Now().UnixMilli(), int(min(n.settings.deniedKept.Load(), maxSlowEntries)))
}

// Denied implements kv.Denials for scripts that read: only their client's node knows of them.
func (c *conn) Denied(user string, reason acl.Denial, object string) {
	c.node.denied(c, acl.Entry{Reason: reason, Context: "lua", Object: object, User: user})
}

// Denied implements kv.Denials for scripts that come through the log: every node executes them, and the one that owns the client notes it.
func (n *Node) Denied(user string, reason acl.Denial, object string) {
	if n.shell.acting != nil {
		n.shell.acting.Denied(user, reason, object)
	}
}

// takeUsers makes the users of the state, and the password of the configuration, those of this node.
func (n *Node) takeUsers(users *acl.Users) {
	if password := n.config.RequirePass; password != "" {
		if d := users.Get(acl.Default); d.On() && d.NoPass() {
			if with, err := users.With(acl.Default, []string{"resetpass", ">" + password}); err == nil {
				users = with
			}
		}
	}
	n.shell.users.Store(users)
	n.shell.changed()
}

// UsersChanged implements kv.Host: whoever is removed, or listens to what he may not any more, is cut.
func (n *Node) UsersChanged(users *acl.Users) {
	n.takeUsers(users)
	for _, c := range n.clients.list() {
		before := c.about.user.Load()
		if before == nil {
			continue
		}
		if user := n.shell.users.Load().Get(before.Name()); user == nil || !c.mayGoOn(user) {
			c.disconnect()
		}
	}
}

// mayGoOn reports whether a user may listen to everything that the connection is subscribed to.
func (c *conn) mayGoOn(user *acl.User) bool {
	if user.Unrestricted() || !c.about.listening() {
		return true
	}
	for kind := range subscriptionKinds {
		for _, name := range c.node.shell.pubsub.of(c, kind) {
			if !user.MayListen(acl.Channel{Name: []byte(name), Pattern: kind == toPatterns}) {
				return false
			}
		}
	}
	return true
}

const errWrongPass = "WRONGPASS invalid username-password pair or user is disabled."

// knowUsers waits until this node knows every change of users that was acknowledged on any node before. If the group cannot tell,
// what this node knows must do: whoever has to repair the group must be let in.
func (c *conn) knowUsers() *acl.Users {
	users, _ := c.learnUsers()
	return users
}

// learnUsers is knowUsers. It reports whether the group could tell.
func (c *conn) learnUsers() (users *acl.Users, sure bool) {
	sure = c.linearize() == nil
	if sure {
		c.node.shell.usersKnown.Store(true)
	}
	return c.node.shell.users.Load(), sure
}

// authCommand is AUTH [user] password.
func authCommand(c *conn, args [][]byte) {
	user, password := []byte(acl.Default), args[1]
	switch len(args) {
	case 2:
		if d := c.knowUsers().Get(acl.Default); d.NoPass() {
			c.reply.Error("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
			return
		}
	case 3:
		user, password = args[1], args[2]
	default:
		c.reply.Error(errSyntax)
		return
	}
	if c.authenticate(user, password) {
		c.reply.OK()
	}
}

// authenticate makes the connection that of a user, or replies why not.
func (c *conn) authenticate(name, password []byte) bool {
	users, sure := c.learnUsers()
	user := users.Get(string(name))
	if user == nil || !user.Accepts(password) {
		c.node.denied(c, acl.Entry{Reason: acl.DeniedAuth, Context: "toplevel", Object: "AUTH", User: string(name)})
		c.reply.Error(errWrongPass)
		return false
	}
	s := &c.standing
	s.user, s.authenticated, s.unsure, s.proof, s.lapsed = user, true, !sure, "", false
	if s.unsure {
		s.proof = acl.Hash(password)
	}
	c.limitQueries()
	c.refresh()
	return true
}

// aclCommands returns the subcommands of ACL.
func aclCommands() []localCommand {
	noFile := func(c *conn, _ [][]byte) {
		c.reply.Error("ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.")
	}
	return []localCommand{
		{name: "cat", arity: -2, local: aclCat},
		{name: "deluser", arity: -3, local: aclDelUser},
		{name: "dryrun", arity: -4, local: aclDryRun},
		{name: "genpass", arity: -2, local: aclGenPass},
		{name: "getuser", arity: 3, local: aclGetUser},
		{name: "help", arity: 2, local: helpWith(aclHelp)},
		{name: "list", arity: 2, local: aclList},
		{name: "load", arity: 2, local: noFile},
		{name: "log", arity: -2, local: aclLog},
		{name: "save", arity: 2, local: noFile},
		{name: "setuser", arity: -3, local: aclSetUser},
		{name: "users", arity: 2, local: aclUsers},
		{name: "whoami", arity: 2, local: aclWhoAmI},
	}
}

func aclCat(c *conn, args [][]byte) {
	switch len(args) {
	case 2:
		c.reply.Array(len(acl.Categories))
		for _, category := range acl.Categories {
			c.reply.BulkString(category)
		}
	case 3:
		names, known := kv.AccessTable().InCategory(strings.ToLower(string(args[2])))
		if !known {
			c.reply.Error("ERR Unknown category '" + string(args[2]) + "'")
			return
		}
		c.reply.Array(len(names))
		for _, name := range names {
			c.reply.BulkString(name)
		}
	default:
		c.reply.Error(unknownSubcommand("ACL", args[1]))
	}
}

func aclWhoAmI(c *conn, _ [][]byte) { c.reply.BulkString(c.standing.user.Name()) }

func aclUsers(c *conn, _ [][]byte) {
	all := c.knowUsers().All()
	c.reply.Array(len(all))
	for _, user := range all {
		c.reply.BulkString(user.Name())
	}
}

func aclList(c *conn, _ [][]byte) {
	all := c.knowUsers().All()
	c.reply.Array(len(all))
	for _, user := range all {
		c.reply.BulkString("user " + user.Name() + " " + user.Describe())
	}
}

func aclGetUser(c *conn, args [][]byte) {
	user := c.knowUsers().Get(string(args[2]))
	if user == nil {
		c.reply.Null()
		return
	}
	r := &c.reply
	r.Map(6)
	r.BulkString("flags")
	flags := user.Flags()
	r.Set(len(flags))
	for _, flag := range flags {
		r.BulkString(flag)
	}
	r.BulkString("passwords")
	r.Array(len(user.Passwords()))
	for _, hash := range user.Passwords() {
		r.BulkString(hash)
	}
	rights := func(of acl.Rights) {
		r.BulkString("commands")
		r.BulkString(of.Commands)
		r.BulkString("keys")
		r.BulkString(of.Keys)
		r.BulkString("channels")
		r.BulkString(of.Channels)
	}
	selectors := user.Selectors()
	rights(selectors[0])
	r.BulkString("selectors")
	r.Array(len(selectors) - 1)
	for _, selector := range selectors[1:] {
		r.Map(3)
		rights(selector)
	}
}

// aclSetUser checks the rules against the users, so that an error names the rule as it was given, and
// then has them applied by a record.
func aclSetUser(c *conn, args [][]byte) {
	name := string(args[2])
	if !acl.ValidName(name) {
		c.reply.Error("ERR Usernames can't contain spaces or null characters")
		return
	}
	rules := make([]string, len(args)-3)
	for i, arg := range args[3:] {
		rules[i] = string(arg)
	}
	if _, err := c.knowUsers().With(name, rules); err != nil {
		c.reply.Error("ERR " + err.Error())
		return
	}
	c.executeRecord(kv.UserRecord(name, rules))
}

func aclDelUser(c *conn, args [][]byte) {
	for _, name := range args[2:] {
		if string(name) == acl.Default {
			c.reply.Error("ERR The 'default' user cannot be removed")
			return
		}
	}
	if slices.ContainsFunc(args[2:], func(name []byte) bool { return string(name) == c.standing.user.Name() }) {
		c.closing = true
	}
	c.executeRecord(kv.RemovalRecord(args[2:]))
}

// executeRecord has the group execute a record and replies what it replies.
func (c *conn) executeRecord(args [][]byte) {
	reply, err := c.node.executeRecord(args, c.reply.Proto)
	var unanswered *unansweredError
	switch {
	case errors.As(err, &unanswered):
		c.reply.Error(c.node.failure(unanswered.outcome))
	case err != nil:
		c.dead = true
	default:
		if len(reply) > 0 && reply[0] == '-' {
			c.reply.Errors++
		}
		c.reply.Raw(reply)
	}
}

func aclDryRun(c *conn, args [][]byte) {
	user := c.knowUsers().Get(string(args[2]))
	if user == nil {
		c.reply.Error("ERR User '" + string(args[2]) + "' not found")
		return
	}
	command, problem := c.node.commands.find(args[3:])
	switch {
	case command == nil:
		c.reply.Error("ERR Command '" + string(args[3]) + "' not found")
		return
	case problem != "":
		c.reply.Error(problem)
		return
	}
	if denial, object := mayExecute(user, command, args[3:]); denial != acl.Allowed {
		c.reply.BulkString(denial.Message(user.Name(), object, true))
		return
	}
	c.reply.OK()
}

// maxPasswordBits bounds ACL GENPASS.
const maxPasswordBits = 4096

func aclGenPass(c *conn, args [][]byte) {
	bits := int64(256)
	if len(args) > 3 {
		c.reply.Error(unknownSubcommand("ACL", args[1]))
		return
	}
	if len(args) == 3 {
		var ok bool
		if bits, ok = resp.ParseInt(args[2]); !ok {
			c.reply.Error(errInteger)
			return
		}
		if bits <= 0 || bits > maxPasswordBits {
			c.reply.Error(fmt.Sprintf("ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to %d", maxPasswordBits))
			return
		}
	}
	digits := (bits + 3) / 4
	b := make([]byte, (digits+1)/2)
	rand.Read(b)
	c.reply.BulkString(hex.EncodeToString(b)[:digits])
}

// aclLog is ACL LOG [count | RESET].
func aclLog(c *conn, args [][]byte) {
	d := &c.node.shell.denials
	count := int64(10)
	if len(args) > 3 {
		c.reply.Error(unknownSubcommand("ACL", args[1]))
		return
	}
	if len(args) == 3 {
		if isWord(args[2], "reset") {
			d.mu.Lock()
			d.log.Reset()
			d.mu.Unlock()
			c.reply.OK()
			return
		}
		var ok bool
		if count, ok = resp.ParseInt(args[2]); !ok {
			c.reply.Error(errInteger)
			return
		}
	}
	d.mu.Lock()
	entries := d.log.Entries(int(max(0, min(count, 1<<20))))
	d.mu.Unlock()
	now := time.Now().UnixMilli()
	r := &c.reply
	r.Array(len(entries))
	for _, e := range entries {
		r.Map(10)
		r.BulkString("count")
		r.Int(e.Count)
		r.BulkString("reason")
		r.BulkString(e.Reason.String())
		r.BulkString("context")
		r.BulkString(e.Context)
		r.BulkString("object")
		r.BulkString(e.Object)
		r.BulkString("username")
		r.BulkString(e.User)
		r.BulkString("age-seconds")
		r.Double(float64(now-e.Created) / 1000)
		r.BulkString("client-info")
		r.BulkString(e.Client)
		r.BulkString("entry-id")
		r.Int(e.ID)
		r.BulkString("timestamp-created")
		r.Int(e.Created)
		r.BulkString("timestamp-last-updated")
		r.Int(e.Updated)
	}
}
