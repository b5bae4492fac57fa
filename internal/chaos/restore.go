package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/internal/pause"
)

const (
	// markKey is the list onto which each restore pushes its number: the last thing that a restored cluster holds.
	markKey = "restore:mark"
	// restorePatience bounds how long a restored cluster may take to serve.
	restorePatience = 2 * time.Minute
	restoring       = "the right to restore"
	// restoreEvery is the least time between two: other things shall happen, too.
	restoreEvery = 30 * time.Second
)

// backUp takes a backup, marks a moment, and restores the archive to it as a new cluster, which is started beside: it must hold
// what the group held at that moment. Its reads go into the history as if they had been done then.
func (r *run) backUp(t *turn) bool {
	if !t.claim(restoring) {
		return false
	}
	if r.restored > 0 && t.now()-r.restored < int64(restoreEvery) {
		return false
	}
	defer func() { r.restored = t.now() }() // guarded by the claim
	t.begin(nil, "")
	ctx, cancel := t.patient()
	defer cancel()
	if _, err := t.smrctl(ctx, "backup", "create", t.Plan.Group, "--archive", r.archive()); err != nil {
		t.idle("%s", firstLine(err.Error()))
		t.end(nil)
		return true
	}
	t.wait(0, 3*time.Second)
	mark, err := r.markMoment(ctx, t)
	if err != nil {
		t.idle("no moment could be marked: %s", firstLine(err.Error()))
		t.end(nil)
		return true
	}
	err = r.restoreTo(ctx, t, mark)
	if err != nil {
		t.failed("an archived moment can be restored", "fault %d: %v", t.fault.ID, err)
	}
	t.end(err)
	return true
}

// moment is one that was marked by a write.
type moment struct {
	number int64
	lsn    int64
	from   int64 // stamps between which the write took effect
	end    int64
}

// markMoment pushes a number and asks for the LSN of that write, until it succeeds. Only what was acknowledged marks a moment.
func (r *run) markMoment(ctx context.Context, t *turn) (moment, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var m moment
	err := pause.Until(ctx, untilPause, func() error {
		c, err := dial(ctx, t.login(), t.addrOf(t.node()), 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		m.number, m.from = r.load.unique.Add(1), r.history.now()
		if _, err := c.do([]string{"RPUSH", markKey, strconv.FormatInt(m.number, 10)}); err != nil {
			return err
		}
		m.end = r.history.now()
		lsn, err := c.do([]string{"SMR", "LSN"})
		m.lsn = lsn.Int
		return err
	})
	return m, err
}

// restoreTo restores the archive to a moment and reads what the new cluster holds.
func (r *run) restoreTo(ctx context.Context, t *turn, m moment) error {
	began := t.now()
	if err := pause.Until(ctx, untilPause, func() error { return r.archivedUpTo(ctx, t, m.lsn) }); err != nil {
		return err
	}
	archived := t.now()
	into := filepath.Join(r.Dir, fmt.Sprintf("r%d", t.fault.ID))
	port, release, err := local.ReservePorts(local.Options{Replicas: 1, Confmasters: 1})
	if err != nil {
		return err
	}
	defer release()
	if _, err := t.tool(ctx, "restore", "--archive", r.archive(), "--to-lsn", strconv.FormatInt(m.lsn, 10), "--into", into,
		"--replicas", "1", "--confmasters", "1", "--port", strconv.Itoa(port)); err != nil {
		return err
	}
	restored, err := local.Open(into)
	if err != nil {
		return err
	}
	restored.DieWithParent = true
	starting, cancel := context.WithTimeout(ctx, restorePatience)
	defer cancel()
	if err := restored.Start(starting, r.Binaries); err != nil {
		return fmt.Errorf("start the restored cluster: %w", err)
	}
	keys, err := r.readRestored(ctx, restored.Plan.Replicas[0], m)
	_, killed, stopErr := restored.Stop()
	switch {
	case err != nil:
		return err
	case stopErr != nil:
		return stopErr
	case len(killed) > 0:
		return fmt.Errorf("processes of the restored cluster had to be killed: %v", killed)
	}
	r.moments++
	t.describe("to LSN %d: archived after %d ms, %d keys read from a new cluster %d ms later", m.lsn, (archived-began)/1e6, keys, (t.now()-archived)/1e6)
	if err := os.RemoveAll(into); err != nil { // kept if anything is wrong with it
		return err
	}
	_, err = t.tool(ctx, "backup", "verify", "--archive", r.archive())
	return err
}

// archivedUpTo reports why the archive does not reach an LSN, nil if it does.
func (r *run) archivedUpTo(ctx context.Context, t *turn, lsn int64) error {
	out, err := t.tool(ctx, "backup", "list", "--archive", r.archive(), "-o", "json")
	if err != nil {
		return err
	}
	var list struct {
		End int64 `json:"log_end_lsn"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return fmt.Errorf("backup list: %w", err)
	}
	if list.End < lsn {
		pause.For(ctx, 500*time.Millisecond)
		return fmt.Errorf("the archive ends at %d, LSN %d is missing", list.End, lsn)
	}
	return nil
}

// dialRestored opens a connection to a restored cluster, which has no TLS and the users of its moment: one of the passwords that ever were lets
// one in.
func (r *run) dialRestored(ctx context.Context, addr string) (*conn, error) {
	const patience = 20 * time.Second
	if !r.Passwords {
		return dial(ctx, admin.Login{}, addr, patience)
	}
	var all error
	for _, password := range r.cluster.letIn.everything() {
		c, err := dial(ctx, admin.Login{User: userOfRuns, Password: password}, addr, patience)
		if err == nil {
			return c, nil
		}
		all = errors.Join(all, err)
	}
	return nil, all
}

// readRestored reads every key of a restored cluster and notes the reads as of the moment it was restored to.
func (r *run) readRestored(ctx context.Context, node local.Replica, m moment) (keys int, err error) {
	c, err := r.dialRestored(ctx, node.KVAddr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	marks, err := c.do([]string{"LRANGE", markKey, "0", "-1"})
	if err != nil {
		return 0, err
	}
	last := ""
	if n := len(marks.Items); n > 0 {
		last = marks.Items[n-1].Text
	}
	if last != strconv.FormatInt(m.number, 10) {
		return 0, fmt.Errorf("restored to LSN %d, where %d had been pushed; the last mark there is %q", m.lsn, m.number, last)
	}
	for _, key := range r.load.ring.keys() {
		if !isModelled(key) {
			continue
		}
		op := readOf(key, restoreReader, "restored")
		reply, err := c.do(commandsOf(key)...)
		if err == nil {
			op.Out, err = answer(op, reply)
		}
		if err != nil {
			return keys, fmt.Errorf("read %s from the restored cluster: %w", key, err)
		}
		op.Call, op.Return, op.Outcome, op.Restored = m.from, m.end, OK, true
		r.history.insert(op)
		keys++
	}
	return keys, nil
}
