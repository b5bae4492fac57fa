package kvnode

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"lockstep/proto"
)

// patientMaster is a configuration master that hands mastership over when it is told to, and not before.
type patientMaster struct {
	proto.UnimplementedConfmasterServer
	asked chan struct{} // one for each request
}

func (m *patientMaster) Switchover(ctx context.Context, _ *proto.SwitchoverRequest) (*proto.ChangeReply, error) {
	m.asked <- struct{}{}
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// What could go wrong: FAILOVER ABORT ends nothing, ends the wrong thing, or leaves the node believing that a fail-over is in progress.
func TestFailoverIsAbortedWhileItWaits(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	master := &patientMaster{asked: make(chan struct{}, 10)}
	server := grpc.NewServer()
	proto.RegisterConfmasterServer(server, master)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	address := newFakeGroup(t, 1, func(config *Config) { config.Masters = []string{listener.Addr().String()} }).serve(t, 0)
	asks, aborts := dial(t, address), dial(t, address)
	for range 2 { // the second finds nothing of the first
		asks.SetDeadline(time.Now().Add(patience))
		aborts.SetDeadline(time.Now().Add(patience))
		aborts.expect("FAILOVER ABORT", "-ERR No failover in progress.\r\n")
		asks.send("FAILOVER TIMEOUT 600000")
		<-master.asked
		if info := aborts.do("INFO replication"); !strings.Contains(info, "master_failover_state:failover-in-progress\r\n") {
			t.Errorf("while it runs: %s", info)
		}
		aborts.expect("FAILOVER", "-ERR FAILOVER already in progress.\r\n")
		aborts.expect("FAILOVER ABORT", "+OK\r\n")
		if reply := string(asks.next()); !strings.HasPrefix(reply, "-ERR FAILOVER ABORT was called") {
			t.Errorf("the one that is aborted: %s", reply)
		}
		if info := aborts.do("INFO replication"); !strings.Contains(info, "master_failover_state:no-failover\r\n") {
			t.Errorf("behind it: %s", info)
		}
	}
}
