package replicator

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/level"
	"lockstep/proto"
	"lockstep/smr"
	"lockstep/smr/wire"
)

// tell has a replica hear the cluster's feature level from a configuration master.
func tell(x *tester, told uint32) error {
	return call(func(ctx context.Context) error {
		target := x.target()
		target.Level = told
		_, err := x.manage.State(ctx, &proto.WatchRequest{Target: target})
		return err
	})
}

// newer is the configuration of a replica whose program can level 3.
func newer(dir, node string) Config {
	cfg := testConfig(dir, node)
	cfg.highest = 3
	return cfg
}

// What could go wrong: a replica that is told a level that it cannot goes on, or ends as if its log were damaged; or one that was told
// once forgets it, so that an older program of the same directory takes part until it is told again.
func TestReplicaThatIsTooOldEnds(t *testing.T) {
	dir := tempDir(t)
	x := start(t, newer(dir, "n1"))
	for _, told := range []uint32{0, 1, 3, 2} {
		if err := tell(x, told); err != nil {
			t.Fatalf("level %d: %v", told, err)
		}
	}
	if s := x.state(); s.GetLevel() != 3 || s.GetHighestLevel() != 3 {
		t.Errorf("level %d, highest %d", s.GetLevel(), s.GetHighestLevel())
	}
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, levelFile))
	if err != nil || string(content) != "3\n" {
		t.Errorf("saved: %q, %v", content, err)
	}
	old := testConfig(dir, "n1")
	old.highest = 2
	if x, err := tryStart(t, old); !errors.Is(err, level.ErrTooLow) || !strings.Contains(err.Error(), "level is 3") || !strings.Contains(err.Error(), "supports 2 at most") {
		t.Errorf("an older program: %v\n%s", err, x.logged)
	}
	x = start(t, newer(dir, "n1"))
	if s := x.state(); s.GetLevel() != 3 {
		t.Errorf("after a restart the level is %d", s.GetLevel())
	}
	err = tell(x, 4)
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "level is 4") {
		t.Errorf("told level 4: %v", err)
	}
	<-x.ended
	if !errors.Is(x.err, level.ErrTooLow) {
		t.Errorf("it ended with %v", x.err)
	}
	x = start(t, newer(dir, "n1")) // nothing was harmed, and what it cannot was not saved
	if s := x.state(); s.GetLevel() != 3 {
		t.Errorf("after it was told 4 the level is %d", s.GetLevel())
	}
	if err := x.stop(); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "two\n", "0\n", "256\n"} {
		if err := os.WriteFile(filepath.Join(dir, levelFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tryStart(t, newer(dir, "n1")); err == nil || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("file %q: %v", text, err)
		}
	}
}

// What could go wrong: a peer that cannot the level is let in, is not told why, or stays when the level is raised; one that can is cut.
func TestPeersThatAreTooOldAreRefused(t *testing.T) {
	x := start(t, newer(tempDir(t), "n1"))
	c := create(t, 1, x)
	c.elect(x)
	kv := attachKV(x) // names no level: it can the first
	greet := func(network, address string, hello any) (*wire.Reader, net.Conn, any) {
		t.Helper()
		conn, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := conn.Write(wire.AppendMessage(nil, hello)); err != nil {
			t.Fatal(err)
		}
		r := wire.NewReader(conn, wire.HistoryLimit)
		message, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		return r, conn, message
	}
	of := func(node string, can int) smr.Handshake {
		h := handshake(node)
		h.Level = can
		return h
	}
	data := x.ends.Data.String()
	oldClient, _, welcome := greet("tcp", data, &smr.ClientHello{Handshake: of("n2", 1), Session: 5})
	if w, ok := welcome.(*smr.ClientWelcome); !ok || w.Level != 3 {
		t.Fatalf("at level 1: %+v", welcome)
	}
	newClient, newConn, _ := greet("tcp", data, &smr.ClientHello{Handshake: of("n3", 2), Session: 6})
	if err := tell(x, 2); err != nil {
		t.Fatal(err)
	}
	if message, err := oldClient.Next(); err == nil {
		t.Errorf("a client that is too old stays: %T", message)
	}
	<-kv.ended
	if _, err := newConn.Write(wire.AppendMessage(nil, &smr.ReadIndex{ID: 1})); err != nil {
		t.Fatal(err)
	}
	if message, err := newClient.Next(); err != nil {
		t.Errorf("a client that can the level was cut: %T, %v", message, err)
	}
	for what, hello := range map[string]any{
		"slave":   &smr.SlaveHello{Handshake: of("n2", 1), Epoch: smr.Epoch(c.epoch), Incarnation: 7},
		"client":  &smr.ClientHello{Handshake: of("n2", 0), Session: 7},
		"KV node": &smr.LocalHello{Handshake: of("n1", 1), Session: 8},
	} {
		network, address := "tcp", data
		if what == "KV node" {
			network, address = "unix", x.ends.Socket
		}
		_, _, message := greet(network, address, hello)
		reject, ok := message.(*smr.Reject)
		if !ok || reject.Code != smr.RejectLevel || !strings.Contains(reject.Reason, "level is 2") || !strings.Contains(reject.Reason, "support 1 at most") {
			t.Errorf("%s of level 1: %+v", what, message)
		}
	}
	r, _, message := greet("unix", x.ends.Socket, &smr.LocalHello{Handshake: of("n1", 2), Session: 9})
	if _, ok := message.(*smr.LocalWelcome); !ok {
		t.Fatalf("a KV node of level 2: %+v", message)
	}
	r.SetLimit(wire.LocalLimit)
	message, err := r.Next()
	if s, ok := message.(*smr.Status); !ok || s.Level != 2 {
		t.Errorf("it is told %+v, %v", message, err)
	}
	x.await("its KV node can level 2", func(s *proto.ReplicaState) bool { return s.GetKvHighestLevel() == 2 })
	if err := tell(x, 3); err != nil {
		t.Fatal(err)
	}
	for { // it is hung up on
		if _, err := r.Next(); err != nil {
			break
		}
	}
}

// What could go wrong: a slave that is too old for its master's cluster and has not heard so from the configuration masters knocks for
// ever.
func TestSlaveThatItsMasterRefusesEnds(t *testing.T) {
	master, slave := start(t, newer(tempDir(t), "n1")), start(t, testConfig(tempDir(t), "n2"))
	c := create(t, 1, master, slave)
	if err := tell(master, 2); err != nil {
		t.Fatal(err)
	}
	c.epoch++
	var answer *proto.FenceReply
	err := call(func(ctx context.Context) (err error) {
		answer, err = master.manage.Fence(ctx, &proto.FenceRequest{Target: master.target(), Epoch: c.epoch})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c.lead(master, answer)
	c.establish(master)
	c.follow(slave, master) // somebody who has not heard of the level says so
	<-slave.ended
	if !errors.Is(slave.err, level.ErrTooLow) || !strings.Contains(slave.err.Error(), "refused by n1") {
		t.Errorf("the slave ended with %v", slave.err)
	}
	if s := master.state(); !s.GetLeading() || s.GetStopped() {
		t.Errorf("the master: %v", s)
	}
}
