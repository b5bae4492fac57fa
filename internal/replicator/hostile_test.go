package replicator

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"lockstep/proto"
	"lockstep/smr"
	"lockstep/smr/wire"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// ended waits until the peer closes the connection and returns what it said before.
func ended(t *testing.T, conn net.Conn) []byte {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(conn)
	if err != nil && os.IsTimeout(err) {
		t.Fatalf("the connection stays open, it said %q", said)
	}
	return said
}

// hello with another wire version, its checksum right.
func foreignVersion(message any) []byte {
	b := wire.AppendMessage(nil, message)
	b[wire.HeaderSize+4]++
	return reseal(b)
}

// reseal makes the checksum of one message right.
func reseal(b []byte) []byte {
	again := append([]byte(nil), b...)
	binary.LittleEndian.PutUint32(again[4:], castagnoliOf(again[wire.PrefixSize:]))
	return again
}

// Everything that strangers can send on the data port and the local socket ends in a closed connection, with a reason
// where the peer could understand one, and all the while a client that behaves is served.
func TestStrangersAreRefusedAndDoNoHarm(t *testing.T) {
	nodes, kvs, c := startThree(t)
	master := c.elect(nodes...)
	mKV := kvs[indexOf(nodes, master)]
	client, err := dialClient(master, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	us := handshake("n9")
	foreign := us
	foreign.Cluster = "other-cluster"
	huge := binary.LittleEndian.AppendUint32(nil, 1<<31)
	huge = append(huge, make([]byte, 64)...)
	cases := []struct {
		name   string
		sends  []byte
		reason string // in the Reject, "" if the connection is just closed
	}{
		{"nothing", nil, ""},
		{"one byte", []byte{7}, ""},
		{"zeros", make([]byte, 4096), ""},
		{"http", []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), ""},
		{"redis", []byte("*1\r\n$4\r\nPING\r\n"), ""},
		{"huge length", huge, ""},
		{"half a hello", wire.AppendMessage(nil, &smr.ClientHello{Handshake: us, Session: 1})[:20], ""},
		{"bad checksum", flipped(wire.AppendMessage(nil, &smr.ClientHello{Handshake: us, Session: 1})), ""},
		{"no hello", wire.AppendMessage(nil, &smr.Ack{}), "cannot begin"},
		{"other cluster, client", wire.AppendMessage(nil, &smr.ClientHello{Handshake: foreign, Session: 1}), "cluster"},
		{"other cluster, slave", wire.AppendMessage(nil, &smr.SlaveHello{Handshake: foreign, Epoch: 2, Incarnation: 1}), "cluster"},
		{"other version", foreignVersion(&smr.ClientHello{Handshake: us, Session: 1}), "version"},
		{"slave of another epoch", wire.AppendMessage(nil, &smr.SlaveHello{Handshake: us, Epoch: 99, Incarnation: 1}), "epoch"},
		{"itself", wire.AppendMessage(nil, &smr.SlaveHello{Handshake: handshake(master.cfg.Node), Epoch: 2, Incarnation: 1}), "cannot be a slave"},
	}
	var silent []net.Conn // those that get no answer
	for _, test := range cases {
		for _, network := range []string{"tcp", "unix"} {
			address := master.ends.Data.String()
			if network == "unix" {
				address = master.ends.Socket
				if strings.Contains(test.name, "slave") || strings.Contains(test.name, "client") || test.name == "itself" {
					continue // on this socket they are all just no local hello
				}
			}
			conn, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(test.sends); err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			if test.reason == "" {
				silent = append(silent, conn)
				continue
			}
			message, err := wire.Decode(ended(t, conn))
			reject, ok := message.(*smr.Reject)
			if err != nil || !ok || !strings.Contains(reject.Reason, test.reason) {
				t.Errorf("%s on %s: it said %+v, %v", test.name, network, message, err)
			}
		}
	}
	// Meanwhile, and in a flood of connections that say nothing, clients are served, old and new ones.
	for range 300 {
		conn, err := net.Dial("tcp", master.ends.Data.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	if err := client.propose(1, 100, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := mKV.awaitExecuted(3, 100); err != nil {
		t.Fatal(err)
	}
	proposeUntil(t, master, mKV, 4, 1, 10, nil)
	for i, conn := range silent {
		if said := ended(t, conn); len(said) != 0 {
			t.Errorf("silent connection %d: it said %q", i, said)
		}
	}
	if s := master.state(); !s.Leading || !s.Attached || len(s.Peers) != 2 {
		t.Errorf("state of the master: %s", s)
	}
}

func flipped(b []byte) []byte {
	b[len(b)-1] ^= 1
	return b
}

// A client or slave that breaks the protocol after its hello loses its connection and nothing else.
func TestPeersThatBreakTheProtocolAreHungUp(t *testing.T) {
	nodes, kvs, c := startThree(t)
	master := c.elect(nodes...)
	for name, sends := range map[string][]byte{
		"garbage":       bytes.Repeat([]byte{0xee}, 64),
		"wrong message": wire.AppendMessage(nil, &smr.Heartbeat{}),
		"second hello":  wire.AppendMessage(nil, &smr.ClientHello{Handshake: handshake("kv"), Session: 9}),
		"too much":      append(binary.LittleEndian.AppendUint32(nil, wire.StreamLimit+1), 0, 0, 0, 0, 18, 0),
	} {
		client, err := dialClient(master, 9)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.conn.Write(sends); err != nil {
			t.Fatal(err)
		}
		ended(t, client.conn)
		client.conn.Close()
		slave, err := dialData(master.ends.Data.String())
		if err != nil {
			t.Fatal(err)
		}
		hello := wire.AppendMessage(nil, &smr.SlaveHello{Handshake: handshake("n9"), Epoch: 2, Incarnation: 77})
		if _, err := slave.Write(append(hello, sends...)); err != nil {
			t.Fatal(name, err)
		}
		ended(t, slave)
		slave.Close()
	}
	proposeUntil(t, master, kvs[0], 4, 1, 10, nil)
	// A slave that says hello, asks for the stream and then acknowledges what is not there, or reads nothing at all.
	liar, err := dialData(master.ends.Data.String())
	if err != nil {
		t.Fatal(err)
	}
	defer liar.Close()
	b := wire.AppendMessage(nil, &smr.SlaveHello{Handshake: handshake("n9"), Epoch: 2, Incarnation: 77})
	b = wire.AppendMessage(b, &smr.SlaveStart{Epoch: 2, From: 0})
	b = wire.AppendMessage(b, &smr.Ack{Epoch: 2, Durable: 1 << 60})
	if _, err := liar.Write(b); err != nil {
		t.Fatal(err)
	}
	ended(t, liar)
	lazy, err := dialData(master.ends.Data.String())
	if err != nil {
		t.Fatal(err)
	}
	defer lazy.Close()
	if _, err := lazy.Write(wire.AppendMessage(wire.AppendMessage(nil,
		&smr.SlaveHello{Handshake: handshake("n9"), Epoch: 2, Incarnation: 77}), &smr.SlaveStart{Epoch: 2, From: 0})); err != nil {
		t.Fatal(err)
	}
	proposeUntil(t, master, kvs[0], 4, 11, 60, make([]byte, 100<<10))
	master.await("the lazy slave is given up", func(s *proto.ReplicaState) bool {
		for _, peer := range s.Peers {
			if peer.Node == "n9" && peer.Streams {
				return false
			}
		}
		return true
	})
}

// Clients that begin large messages and never end them take a bounded number of slots; small requests pass all the same.
func TestSlowLargeMessagesDoNotStopSmallOnes(t *testing.T) {
	x := start(t, testConfig(tempDir(t), "n1"))
	kv := attachKV(x)
	create(t, 1, x).elect(x)
	for i := range bigSlots + 3 {
		slow, err := dialClient(x, smr.SessionID(100+i))
		if err != nil {
			t.Fatal(err)
		}
		defer slow.conn.Close()
		b := binary.LittleEndian.AppendUint32(nil, 40<<20)
		b = append(b, 0, 0, 0, 0, 18, 0)
		go slow.conn.Write(append(b, make([]byte, 3<<20)...)) // blocks when no slot is free; ends with the connection
	}
	proposeUntil(t, x, kv, 3, 1, 100, []byte("small"))
}

// A replica that does not lead sends clients away, also one that has just been fenced, and hangs up those it had.
func TestOnlyTheMasterHasClients(t *testing.T) {
	nodes, _, c := startThree(t)
	master := c.elect(nodes...)
	client, err := dialClient(master, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	for _, x := range nodes {
		if x == master {
			continue
		}
		var rejected *wire.RejectedError
		if _, err := dialClient(x, 3); !errors.As(err, &rejected) || rejected.Code != smr.RejectNotMaster {
			t.Errorf("%s: %v", x.cfg.Node, err)
		}
	}
	err = call(func(ctx context.Context) error {
		_, err := master.manage.Fence(ctx, &proto.FenceRequest{Target: master.target(), Epoch: c.epoch + 1})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ended(t, client.conn)
	var rejected *wire.RejectedError
	if _, err := dialClient(master, 3); !errors.As(err, &rejected) || rejected.Code != smr.RejectNotMaster {
		t.Errorf("fenced master: %v", err)
	}
}

// The number of clients is bounded; the surplus is told so, and a place that becomes free is taken.
func TestClientsAreBounded(t *testing.T) {
	cfg := testConfig(tempDir(t), "n1")
	cfg.MaxClients = 2
	x := start(t, cfg)
	create(t, 1, x).elect(x)
	var clients []*testClient
	for range 2 {
		client, err := dialClient(x, 3)
		if err != nil {
			t.Fatal(err)
		}
		defer client.conn.Close()
		clients = append(clients, client)
	}
	var rejected *wire.RejectedError
	if _, err := dialClient(x, 3); !errors.As(err, &rejected) || rejected.Code != smr.RejectBusy {
		t.Fatal(err)
	}
	clients[0].conn.Close()
	eventually(t, func() error {
		client, err := dialClient(x, 3)
		if err == nil {
			client.conn.Close()
		}
		return err
	})
}

// The newest KV node counts; one that falls silent or goes away leaves the role none behind.
func TestOneKVNodeAtATime(t *testing.T) {
	x := start(t, testConfig(tempDir(t), "n1"))
	create(t, 1, x)
	fenced := func() {
		t.Helper()
		if err := call(func(ctx context.Context) error {
			_, err := x.manage.Fence(ctx, &proto.FenceRequest{Target: x.target(), Epoch: 2})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	fenced()
	if s := x.state(); s.Role != "none" || s.Attached {
		t.Errorf("no KV node: %s", s)
	}
	first := attachKV(x)
	x.await("attached", func(s *proto.ReplicaState) bool { return s.Attached && s.Role == "fenced" })
	second := attachKV(x)
	<-first.ended
	second.awaitStatus("told", func(s smr.Status) bool { return s.Role == smr.RoleFenced })
	if s := x.state(); !s.Attached || s.KvPid == 0 || s.KvAddr == "" {
		t.Errorf("replaced: %s", s)
	}
	second.detach()
	x.await("detached", func(s *proto.ReplicaState) bool { return !s.Attached && s.Role == "none" && s.KvPid == 0 })

	silent, err := net.Dial("unix", x.ends.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := silent.Write(wire.AppendMessage(nil, &smr.LocalHello{Handshake: handshake("n1"), Session: 8, Pid: 1})); err != nil {
		t.Fatal(err)
	}
	x.await("attached", func(s *proto.ReplicaState) bool { return s.Attached })
	x.await("silence shows", func(s *proto.ReplicaState) bool { return s.KvSilentMs > 500 })
	x.await("given up", func(s *proto.ReplicaState) bool { return !s.Attached })
	for what, hello := range map[string]any{
		"another node": &smr.LocalHello{Handshake: handshake("n2"), Session: 8},
		"a client":     &smr.ClientHello{Handshake: handshake("n1"), Session: 8},
	} {
		conn, err := net.Dial("unix", x.ends.Socket)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(wire.AppendMessage(nil, hello))
		message, err := wire.Decode(ended(t, conn))
		if _, ok := message.(*smr.Reject); err != nil || !ok {
			t.Errorf("%s: %+v, %v", what, message, err)
		}
		conn.Close()
	}
	info, err := os.Stat(x.ends.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
}

// Orders that are wrong get the code that the protocol file says and change nothing.
func TestWrongOrdersAreRefused(t *testing.T) {
	x := start(t, testConfig(tempDir(t), "n1"))
	member := &proto.Member{Node: "n1", Incarnation: x.state().Incarnation}
	config := &proto.GroupConfig{Epoch: 2, Reign: 2, Master: "n1", Copies: 1, Members: []*proto.Member{member}}
	base := &proto.GroupConfig{Epoch: 1, Reign: 1, Master: "n1", Copies: 1, Members: []*proto.Member{member}}
	many := &proto.GroupConfig{Epoch: 2, Reign: 2, Master: "n1", Copies: 1}
	for i := range smr.MaxMembers + 1 {
		many.Members = append(many.Members, &proto.Member{Node: fmt.Sprintf("n%02d", i), Incarnation: 1})
	}
	wrong := x.target()
	wrong.Cluster = "other"
	lead := func(change func(*proto.LeadRequest)) func(context.Context) error {
		return func(ctx context.Context) error {
			in := &proto.LeadRequest{Target: x.target(), Incarnation: member.Incarnation, Life: x.state().Life, Config: config, Base: base}
			change(in)
			_, err := x.manage.Lead(ctx, in)
			return err
		}
	}
	fence := func(epoch uint64) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := x.manage.Fence(ctx, &proto.FenceRequest{Target: x.target(), Epoch: epoch})
			return err
		}
	}
	follow := func(master, address string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := x.manage.Follow(ctx, &proto.FollowRequest{Target: x.target(), Epoch: 2, Master: master, MasterAddr: address})
			return err
		}
	}
	learn := func(epoch uint64) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := x.manage.Learn(ctx, &proto.LearnRequest{Target: x.target(), Epoch: epoch})
			return err
		}
	}
	for _, test := range []struct {
		name string
		do   func(context.Context) error
		code codes.Code
		text string
	}{
		{"no target", func(ctx context.Context) error { _, err := x.manage.State(ctx, &proto.WatchRequest{}); return err }, codes.FailedPrecondition, "cluster"},
		{"other cluster", func(ctx context.Context) error {
			_, err := x.manage.Fence(ctx, &proto.FenceRequest{Target: wrong, Epoch: 2})
			return err
		}, codes.FailedPrecondition, "other"},
		{"blank", fence(2), codes.FailedPrecondition, "blank"},
		{"learn nothing", learn(0), codes.FailedPrecondition, "epoch 0"},
		{"learn", learn(1), codes.OK, ""},
		{"not fenced", lead(func(*proto.LeadRequest) {}), codes.FailedPrecondition, "not fenced"},
		{"stale fence", fence(1), codes.Aborted, "stale"},
		{"fence", fence(2), codes.OK, ""},
		{"other life", lead(func(in *proto.LeadRequest) { in.Life++ }), codes.FailedPrecondition, "life"},
		{"other incarnation", lead(func(in *proto.LeadRequest) { in.Incarnation++ }), codes.FailedPrecondition, "incarnation"},
		{"no config", lead(func(in *proto.LeadRequest) { in.Config = nil }), codes.FailedPrecondition, "config"},
		{"no base", lead(func(in *proto.LeadRequest) { in.Base = nil }), codes.FailedPrecondition, "established"},
		{"too many members", lead(func(in *proto.LeadRequest) { in.Config = many }), codes.FailedPrecondition, "members"},
		{"bad address", lead(func(in *proto.LeadRequest) { in.Addresses = []*proto.Address{{Node: "n2", DataAddr: "nowhere"}} }), codes.FailedPrecondition, "nowhere"},
		{"follow itself", follow("n1", "127.0.0.1:1"), codes.FailedPrecondition, "n1"},
		{"follow nobody", follow("", "127.0.0.1:1"), codes.FailedPrecondition, "name"},
		{"follow without address", follow("n2", ""), codes.FailedPrecondition, "address"},
		{"established elsewhere", func(ctx context.Context) error {
			_, err := x.manage.Established(ctx, &proto.EstablishedRequest{Target: x.target(), Config: config})
			return err
		}, codes.FailedPrecondition, "lead"},
		{"lead", lead(func(*proto.LeadRequest) {}), codes.OK, ""},
	} {
		if err := call(test.do); status.Code(err) != test.code || !strings.Contains(fmt.Sprint(err), test.text) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	// A state is read even with a deadline that an order would miss; health and reflection answer.
	health, err := healthpb.NewHealthClient(x.conn).Check(context.Background(), &healthpb.HealthCheckRequest{Service: "lockstep.v1.Replicator"})
	if err != nil || health.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}
	reflection, err := reflectionpb.NewServerReflectionClient(x.conn).ServerReflectionInfo(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := reflection.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	services, err := reflection.Recv()
	if err != nil || !strings.Contains(services.String(), "lockstep.v1.Replicator") {
		t.Errorf("reflection: %v, %v", services, err)
	}
	reflection.CloseSend()
}

// Garbage on the management port, and connections that never say anything, leave it serving.
func TestManagementPortSurvivesGarbage(t *testing.T) {
	x := start(t, testConfig(tempDir(t), "n1"))
	before := x.state()
	var conns []net.Conn
	for i := range 200 { // above maxManageConns
		conn, err := net.Dial("tcp", x.ends.Manage.String())
		if err != nil {
			break
		}
		switch i % 3 {
		case 0:
			conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		case 1:
			conn.Write(bytes.Repeat([]byte{0xff}, 1000))
		}
		conns = append(conns, conn)
	}
	for range 20 {
		if s := x.state(); s.Life != before.Life {
			t.Fatal("another life")
		}
	}
	for _, conn := range conns {
		ended(t, conn)
		conn.Close()
	}
	if s := x.state(); s.Life != before.Life {
		t.Fatal("another life")
	}
}
