package kv

import (
	"strings"

	"lockstep/internal/acl"
)

// Users are part of the state: every node has the same at the same LSN. Nodes change them with records, in which passwords
// are hashed already.

// userRecords are "user name rule ...", which creates or changes a user, and "deluser name ...".
var userRecords = []Command{
	{Name: "user", Arity: -2, run: changeUser},
	{Name: "deluser", Arity: -2, run: removeUsers},
}

// firstUsers is the set of a new group.
var firstUsers = acl.NewUsers(accessTable)

// Users returns the users as the state has them.
func (m *Machine) Users() *acl.Users {
	if m.users == nil {
		return firstUsers
	}
	return m.users
}

// UserRecord returns the arguments of the record that applies rules to a user, who is created if necessary. Passwords
// among the rules are hashed. Its reply is OK or an error.
func UserRecord(name string, rules []string) [][]byte {
	args := [][]byte{[]byte("user"), []byte(name)}
	for _, rule := range rules {
		args = append(args, []byte(acl.Seal(rule)))
	}
	return args
}

// RemovalRecord returns the arguments of the record that removes users. Its reply is how many there were.
func RemovalRecord(names [][]byte) [][]byte { return append([][]byte{[]byte("deluser")}, names...) }

func changeUser(c call) {
	name := string(c.args[1])
	rules := make([]string, len(c.args)-2)
	for i, arg := range c.args[2:] {
		rules[i] = string(arg)
	}
	users := c.m.Users()
	switch {
	case !acl.ValidName(name):
		c.reply.Error("ERR Usernames can't contain spaces or null characters")
		return
	case users.Full() && users.Get(name) == nil:
		c.reply.Error("ERR too many users")
		return
	}
	changed, err := users.With(name, rules)
	if err != nil {
		c.reply.Error("ERR " + err.Error())
		return
	}
	c.m.setUsers(changed)
	c.reply.OK()
}

func removeUsers(c call) {
	users, removed := c.m.Users(), 0
	for _, name := range c.args[1:] {
		if string(name) == acl.Default {
			c.reply.Error("ERR The 'default' user cannot be removed")
			return
		}
	}
	for _, name := range c.args[1:] {
		changed, found := users.Without(string(name))
		if found {
			users = changed
			removed++
		}
	}
	if removed > 0 {
		c.m.setUsers(users)
	}
	c.reply.Int(int64(removed))
}

func (m *Machine) setUsers(users *acl.Users) {
	m.users = users
	if m.host != nil {
		m.host.UsersChanged(users)
	}
}

func (d *digester) users(users *acl.Users) {
	d.number(uint64(len(users.All())))
	for _, u := range users.All() {
		d.text(u.Name())
		d.text(u.Describe())
	}
}

// longestName is more than the length in bytes of any name of a subcommand: what is longer is not looked at.
const longestName = 32

// FullName returns the name by which access control knows the command that args name: "get", "config|get"; empty if
// there is none.
func FullName(args [][]byte) string {
	command := Lookup(args[0])
	if command == nil {
		return ""
	}
	if len(args) > 1 && len(args[1]) <= longestName {
		name := command.Name + "|" + strings.ToLower(string(args[1]))
		if accessTable.Lookup(name) != nil {
			return name
		}
	}
	return command.Name
}

// Denials is told what scripts were denied, for ACL LOG: a host that implements it, by scripts that come through the log, and that of an
// Envelope, by those that read.
type Denials interface {
	// Denied is called on the goroutine that executes the script; it must neither block nor call the machine.
	Denied(user string, reason acl.Denial, object string)
}

// denied returns why the client of this call may not execute a command within a script; empty: it may. It is the same on
// every node. Whoever wants to know is told of it, if it counts (and is not only a question).
func (c call) denied(args [][]byte, counts bool) string {
	name := c.user
	if name == "" {
		name = acl.Default
	}
	full := FullName(args)
	user, command := c.m.Users().Get(name), accessTable.Lookup(full)
	switch {
	case full == "" || command == nil: // whoever executes it says that it is unknown
		return ""
	case user == nil:
		return c.refuse(name, acl.DeniedCommand, full, counts)
	case user.Unrestricted():
		return ""
	}
	request := acl.Request{Command: command, Args: args, Channels: Channels(full, args)}
	if uses, ok := KeyUses(full, args, nil); ok {
		for _, use := range uses {
			request.Keys = append(request.Keys, acl.Key{Name: use.Key, Access: use.Access})
		}
	}
	if denial, object := user.Check(request); denial != acl.Allowed {
		return c.refuse(name, denial, object, counts)
	}
	return ""
}

// refuse returns the text of a denial in a script, and tells of it.
func (c call) refuse(user string, reason acl.Denial, object string, counts bool) string {
	told := c.denials
	if c.writing {
		told, _ = c.m.host.(Denials)
	}
	if counts && told != nil {
		told.Denied(user, reason, object)
	}
	return "ERR ACL failure in script: " + reason.Message(user, object, false)
}

// AccessTable returns what access control knows about the commands.
func AccessTable() *acl.Table { return accessTable }

// CommandFlags returns the flags of a command or subcommand as COMMAND INFO names them.
func CommandFlags(name string) []string {
	d, _ := describe(name)
	if len(d.info.Items) <= infoFlags {
		return nil
	}
	var flags []string
	for _, flag := range d.info.Items[infoFlags].Items {
		flags = append(flags, flag.Text)
	}
	return flags
}

// Subcommand is the name and the arity of a subcommand.
type Subcommand struct {
	Name  string // in lower case, without that of its command
	Arity int    // as in Command, the command's name included
}

// Subcommands returns the subcommands of a command, sorted by name; none if it has none or is not known.
func Subcommands(name string) (list []Subcommand) {
	d, _ := describe(name)
	if len(d.info.Items) <= infoSubcommands {
		return nil
	}
	for _, item := range d.info.Items[infoSubcommands].Items {
		_, sub, _ := strings.Cut(item.Items[0].Text, "|")
		list = append(list, Subcommand{sub, int(item.Items[infoArity].Int)})
	}
	return list
}
