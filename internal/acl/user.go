package acl

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Why a rule cannot be applied, in Redis' words.
var (
	errUnknown     = errors.New("Unknown command or category name in ACL")
	errRule        = errors.New("Syntax error")
	errAllKeys     = errors.New("Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try 'resetkeys' to start with an empty list of patterns")
	errAllChannels = errors.New("Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try 'resetchannels' to start with an empty list of channels")
	errNoPassword  = errors.New("The password you are trying to remove from the user does not exist")
	errHash        = errors.New("The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters")
	errFirstArg    = errors.New("Allowing first-arg of a subcommand is not supported")
)

// User is one user. It does not change once it is in a set.
type User struct {
	table     *Table
	name      string
	on        bool
	nopass    bool
	sanitize  bool // DUMP payloads of this user are looked at before they are restored (as all are)
	skip      bool // or need not be
	passwords []string
	selectors []*selector // the first is the root
}

// NewUser returns a user who is off and may do nothing.
func (t *Table) NewUser(name string) *User {
	return &User{table: t, name: name, sanitize: true, selectors: []*selector{t.newSelector()}}
}

// Name returns the user's name.
func (u *User) Name() string { return u.name }

// On reports whether the user may log in.
func (u *User) On() bool { return u.on }

// NoPass reports whether every password is right.
func (u *User) NoPass() bool { return u.nopass }

func (u *User) clone() *User {
	c := *u
	c.passwords = slices.Clone(u.passwords)
	c.selectors = make([]*selector, len(u.selectors))
	for i, s := range u.selectors {
		c.selectors[i] = s.clone()
	}
	return &c
}

// Unrestricted reports whether the user may do everything.
func (u *User) Unrestricted() bool {
	root := u.selectors[0]
	return root.allCommands && root.allKeys && root.allChannels
}

// Accepts reports whether the user can log in with a password.
func (u *User) Accepts(password []byte) bool { return u.AcceptsHash(Hash(password)) }

// AcceptsHash reports the same of a password as it is kept.
func (u *User) AcceptsHash(hash string) bool {
	return u.on && (u.nopass || slices.Contains(u.passwords, hash))
}

// Hash returns how a password is kept: the hex digits of its SHA-256.
func Hash(password []byte) string {
	sum := sha256.Sum256(password)
	return hex.EncodeToString(sum[:])
}

// Seal returns a rule without a password in clear: ">secret" becomes "#hash", "<secret" becomes "!hash".
func Seal(rule string) string {
	if rule != "" {
		switch rule[0] {
		case '>':
			return "#" + Hash([]byte(rule[1:]))
		case '<':
			return "!" + Hash([]byte(rule[1:]))
		}
	}
	return rule
}

// Shown returns a rule for people: of the hash of a password only so much that two can be told apart.
func Shown(rule string) string {
	const shown = len("#") + 8
	if strings.HasPrefix(rule, "#") && len(rule) > shown {
		return rule[:shown] + "…"
	}
	return rule
}

func isHash(text string) bool {
	return len(text) == 64 && strings.Trim(text, "0123456789abcdef") == ""
}

// hasSpaces reports what Redis refuses in names and patterns: white space and NUL.
func hasSpaces(text string) bool { return strings.ContainsAny(text, " \t\n\v\f\r\x00") }

// ValidName reports whether a user may have that name.
func ValidName(name string) bool { return !hasSpaces(name) }

// Flags returns the user's flags, in Redis' order.
func (u *User) Flags() []string {
	flags := []string{"off"}
	if u.on {
		flags[0] = "on"
	}
	if u.nopass {
		flags = append(flags, "nopass")
	}
	if u.skip {
		flags = append(flags, "skip-sanitize-payload")
	}
	if u.sanitize {
		flags = append(flags, "sanitize-payload")
	}
	return flags
}

// Passwords returns the hashes of the user's passwords; they are not to be changed.
func (u *User) Passwords() []string { return u.passwords }

// Rights are the rules of one selector, as texts.
type Rights struct{ Commands, Keys, Channels string }

// Selectors returns the rights of all selectors, the root first.
func (u *User) Selectors() []Rights {
	rights := make([]Rights, len(u.selectors))
	for i, s := range u.selectors {
		rights[i] = Rights{s.commandRules(), s.keyRules(), s.channelRules()}
	}
	return rights
}

// Describe returns the rules that make this user of a new one, as ACL LIST shows them behind the name.
func (u *User) Describe() string {
	words := u.Flags()
	for _, hash := range u.passwords {
		words = append(words, "#"+hash)
	}
	words = append(words, u.selectors[0].describe())
	for _, s := range u.selectors[1:] {
		words = append(words, "("+s.describe()+")")
	}
	return strings.Join(words, " ")
}

// SyntaxError says which rule could not be applied and why, as ACL SETUSER replies it.
type SyntaxError struct {
	Rule   string
	Reason error
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("Error in ACL SETUSER modifier '%s': %s", e.Rule, e.Reason)
}

// joinSelectors puts the words of "(+get ~x*)" together.
func joinSelectors(rules []string) ([]string, error) {
	var joined []string
	open := ""
	for _, rule := range rules {
		switch {
		case open != "":
			open += " " + rule
		case strings.HasPrefix(rule, "(") && !strings.HasSuffix(rule, ")"):
			open = rule
			continue
		default:
			joined = append(joined, rule)
			continue
		}
		if strings.HasSuffix(open, ")") {
			joined, open = append(joined, open), ""
		}
	}
	if open != "" {
		return nil, fmt.Errorf("Unmatched parenthesis in acl selector starting at '%s'.", open)
	}
	return joined, nil
}

// With returns a copy of the user to whom all rules have been applied.
func (u *User) With(rules []string) (*User, error) {
	joined, err := joinSelectors(rules)
	if err != nil {
		return nil, err
	}
	changed := u.clone()
	for _, rule := range joined {
		if err := changed.apply(rule); err != nil {
			return nil, &SyntaxError{rule, err}
		}
	}
	return changed, nil
}

// apply applies one rule to a user who is being made.
func (u *User) apply(rule string) error {
	if rule == "" {
		return nil
	}
	switch strings.ToLower(rule) {
	case "on", "off":
		u.on = strings.EqualFold(rule, "on")
	case "nopass":
		u.nopass, u.passwords = true, nil
	case "skip-sanitize-payload":
		u.skip, u.sanitize = true, false
	case "sanitize-payload":
		u.skip, u.sanitize = false, true
	case "resetpass":
		u.nopass, u.passwords = false, nil
	case "clearselectors":
		u.selectors = u.selectors[:1]
	case "reset":
		*u = *u.table.NewUser(u.name)
	default:
		return u.applyMark(rule)
	}
	return nil
}

// applyMark applies a rule that begins with a mark.
func (u *User) applyMark(rule string) error {
	switch rule[0] {
	case '>':
		u.addPassword(Hash([]byte(rule[1:])))
	case '#':
		if !isHash(rule[1:]) {
			return errHash
		}
		u.addPassword(rule[1:])
	case '<', '!':
		hash := rule[1:]
		if rule[0] == '<' {
			hash = Hash([]byte(hash))
		} else if !isHash(hash) {
			return errHash
		}
		i := slices.Index(u.passwords, hash)
		if i < 0 {
			return errNoPassword
		}
		u.passwords = slices.Delete(u.passwords, i, i+1)
	case '(':
		return u.addSelector(rule)
	default:
		return u.table.applyToSelector(u.selectors[0], rule)
	}
	return nil
}

func (u *User) addPassword(hash string) {
	u.nopass = false
	if !slices.Contains(u.passwords, hash) {
		u.passwords = append(u.passwords, hash)
	}
}

func (u *User) addSelector(rule string) error {
	if rule[len(rule)-1] != ')' {
		return errRule
	}
	s := u.table.newSelector()
	for _, word := range strings.Fields(rule[1 : len(rule)-1]) {
		if strings.HasSuffix(word, ")") { // a description with it could not be read back
			return errRule
		}
		if err := u.table.applyToSelector(s, word); err != nil {
			return err
		}
	}
	u.selectors = append(u.selectors, s)
	return nil
}
