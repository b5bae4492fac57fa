package chaos

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/internal/pause"
)

const (
	// userOfRuns is who the clients are.
	userOfRuns = "chaos"
	// passwordEvery is the time between two changes of the password.
	passwordEvery = 3 * time.Second
	// intruderPause is the time between two attempts to get in at a node, intruderPatience how long an answer may take.
	intruderPause    = 20 * time.Millisecond
	intruderPatience = 5 * time.Second
)

// rulesOfRuns are those of the clients' user. With commands missing every single command is checked.
var rulesOfRuns = []string{"reset", "on", "~*", "&*", "+@all", "-acl", "-config"}

// credentials are what clients log in with. The password may change while they run.
type credentials struct {
	mu      sync.Mutex
	login   admin.Login
	made    []string // every password that there ever was or that may come into effect, the latest first
	revoked []string // those that every node refuses from now on, the latest first
}

// login is what clients log in with at this moment.
func (c *cluster) login() admin.Login {
	c.letIn.mu.Lock()
	defer c.letIn.mu.Unlock()
	return c.letIn.login
}

// announce notes a password that may be in effect from now on.
func (c *credentials) announce(password string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made = append([]string{password}, c.made...)
}

// use has clients log in with a password.
func (c *credentials) use(password string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.login.User, c.login.Password = userOfRuns, password
}

// revoke notes that a password is in effect no more.
func (c *credentials) revoke(password string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked = append([]string{password}, c.revoked...)
}

// everything lists the passwords that a state of any moment may want, the latest first.
func (c *credentials) everything() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.made)
}

// former lists the passwords that are refused everywhere, the latest first.
func (c *credentials) former() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.revoked)
}

// wantPasswords makes the user of the clients and closes the door to all others, as an operator does.
func (r *run) wantPasswords(ctx context.Context) error {
	r.report.Passwords = &Passwords{}
	first := r.password(0)
	r.cluster.letIn.announce(first)
	if err := r.setUser(ctx, first, userOfRuns, rulesOfRuns...); err != nil {
		return err
	}
	if err := r.setUser(ctx, "", "default", "resetpass"); err != nil {
		return err
	}
	r.cluster.letIn.use(first)
	// Nodes are given users one version after the other: who knows the second one knows both.
	return pause.Until(ctx, untilPause, func() error {
		for _, node := range r.cluster.nodes() {
			c, err := dial(ctx, r.cluster.login(), node.KVAddr, intruderPatience)
			if err != nil {
				return err
			}
			_, err = c.do([]string{"EXISTS", "lockstep"})
			c.Close()
			if err != nil {
				return err
			}
			who := admin.Login{Keeper: r.cluster.login().Keeper}
			if c, err = dial(ctx, who, node.KVAddr, intruderPatience); err != nil {
				return err
			}
			err = refusedBy(c, "NOAUTH", "GET", "lockstep")
			c.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *run) password(number int) string { return fmt.Sprintf("password-%d-%d", r.Seed, number) }

// setUser has smrctl give rules to a user, and a password unless it is empty, until the configuration masters have taken it: while faults go on
// an order may have no answer.
func (r *run) setUser(ctx context.Context, password, name string, rules ...string) error {
	args := append([]string{"user", "set", "--yes", "--no-wait", name}, rules...)
	if password != "" {
		path := filepath.Join(r.Dir, "password")
		if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
			return fmt.Errorf("write the password: %w", err)
		}
		args = append(args, "--password-file", path)
	}
	return pause.Until(ctx, untilPause, func() error {
		_, err := r.cluster.smrctl(ctx, args...)
		return err
	})
}

// changePasswords changes the password of the clients again and again until ctx ends, and lists when. That is no fault, and explains
// nothing.
func (r *run) changePasswords(ctx context.Context) []Phase {
	var changes []Phase
	for number := 1; pause.For(ctx, passwordEvery); number++ {
		began := r.history.now()
		if err := r.changePassword(ctx, number); err != nil {
			r.failed("a password can be changed", "change %d: %v", number, err)
			break
		}
		r.report.Passwords.Changed++
		changes = append(changes, Phase{Kind: "password", Text: fmt.Sprintf("%d in place of the one before", number), From: began, To: r.history.now()})
		r.say(fmt.Sprintf("password %d is in effect, the one before is given up", number))
	}
	return changes
}

// changePassword gives the user a second password, has the clients use it, and takes the first one away. When it returns, every node has to
// refuse that.
func (r *run) changePassword(ctx context.Context, number int) error {
	former, next := r.password(number-1), r.password(number)
	ctx, cancel := (&turn{nemesis: r.nemesis, ctx: ctx}).patient()
	defer cancel()
	r.cluster.letIn.announce(next)
	if err := r.setUser(ctx, next, userOfRuns); err != nil {
		return err
	}
	who := r.cluster.login()
	who.Password = next
	if err := r.awaitNode(ctx, func(node local.Replica) error {
		_, err := once(ctx, who, node.KVAddr, intruderPatience, "PING")
		return err
	}); err != nil {
		return err
	}
	r.cluster.letIn.use(next)
	if err := r.setUser(ctx, "", userOfRuns, fmt.Sprintf("!%x", sha256.Sum256([]byte(former)))); err != nil {
		return err
	}
	if err := r.awaitNode(ctx, func(node local.Replica) error { return r.tryFormer(ctx, node, former) }); err != nil {
		return err
	}
	r.cluster.letIn.revoke(former)
	return nil
}

// awaitNode waits until something holds on any node: then the group has executed it.
func (r *run) awaitNode(ctx context.Context, holds func(local.Replica) error) error {
	return pause.Until(ctx, untilPause, func() error {
		var all error
		for _, node := range r.cluster.nodes() {
			err := holds(node)
			if err == nil {
				return nil
			}
			all = errors.Join(all, fmt.Errorf("%s: %w", node.Node, err))
		}
		return all
	})
}

// errLetIn: somebody was let in.
var errLetIn = errors.New("let in")

// tryFormer logs in at a node, reads, and then tries a password that was given up. Once the read is answered the node knows all that was
// acknowledged before, and never less for as long as the connection lasts, whatever happens to the group. nil: it was refused.
func (r *run) tryFormer(ctx context.Context, node local.Replica, former string) error {
	c, err := dial(ctx, r.cluster.login(), node.KVAddr, intruderPatience)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.do([]string{"EXISTS", "lockstep"}); err != nil {
		return err
	}
	return refusedBy(c, "WRONGPASS", "AUTH", userOfRuns, former)
}

// tryAlone logs in with a password that was given up, and reads. A node that cannot ask its group may take the password, but tells nothing then.
func (r *run) tryAlone(ctx context.Context, node local.Replica, former string) error {
	who := r.cluster.login()
	who.User, who.Password = "", ""
	c, err := dial(ctx, who, node.KVAddr, intruderPatience)
	if err != nil {
		return err
	}
	defer c.Close()
	// Errors of AUTH are what should come: the read tells what they are worth.
	_, _ = c.do([]string{"AUTH", userOfRuns, former})
	return refusedBy(c, "NOAUTH", "GET", "lockstep")
}

// refusedBy does a command that has to be refused with an error of this word. Any other error leaves it open whether it was.
func refusedBy(c *conn, word string, args ...string) error {
	value, err := c.do(args)
	var reply replyError
	switch {
	case err == nil:
		return fmt.Errorf("%w: %s is answered %q", errLetIn, args[0], value.Text)
	case errors.As(err, &reply) && strings.HasPrefix(string(reply), word):
		return nil
	}
	return err
}

// intrude tries to get in at every node until ctx ends.
func (r *run) intrude(ctx context.Context) {
	var nodes sync.WaitGroup
	defer nodes.Wait()
	for i := range replicas {
		nodes.Go(func() {
			for round := i; pause.For(ctx, intruderPause); round++ {
				list := r.cluster.nodes()
				r.intrudeAt(ctx, list[i%len(list)], round)
			}
		})
	}
}

// intrudeAt tries to read and write without a password, on a connection as old as the node lets it become, and an old password.
func (r *run) intrudeAt(ctx context.Context, node local.Replica, round int) {
	who := r.cluster.login()
	who.User, who.Password = "", ""
	c, err := dial(ctx, who, node.KVAddr, intruderPatience)
	if err != nil {
		return
	}
	defer c.Close()
	commands := [][]string{{"GET", "lockstep"}, {"SET", "intruder", "was here"}}
	for i := range 3 {
		r.judgeIntruder("nobody is let in without a password", node, refusedBy(c, "NOAUTH", commands[(round+i)%2]...))
		pause.For(ctx, intruderPause)
	}
	if former := r.cluster.letIn.former(); len(former) > 0 {
		const rule = "a password that was given up is refused everywhere"
		r.judgeIntruder(rule, node, r.tryAlone(ctx, node, former[round%len(former)]))
		r.judgeIntruder(rule, node, r.tryFormer(ctx, node, former[round%len(former)]))
	}
}

func (r *run) judgeIntruder(rule string, node local.Replica, err error) {
	switch {
	case err == nil:
		r.mu.Lock()
		r.report.Passwords.Refused++
		r.mu.Unlock()
	case errors.Is(err, errLetIn):
		r.failed(rule, "%s: %v", node.Node, err)
	}
}

// intrudeEverywhere tries each password that was given up on every node, when all is healed.
func (r *run) intrudeEverywhere(ctx context.Context) {
	for _, node := range r.cluster.nodes() {
		r.intrudeAt(ctx, node, 0)
		for _, former := range r.cluster.letIn.former() {
			if err := r.tryFormer(ctx, node, former); err != nil {
				r.failed("a password that was given up is refused everywhere", "%s, at the end: %v", node.Node, err)
			}
		}
	}
}
