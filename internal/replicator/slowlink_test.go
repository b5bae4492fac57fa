package replicator

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"lockstep/proto"
)

// throttle listens on an address of its own and passes bytes on to target, and back, at so many bytes a second to the
// one who dialled.
func throttle(t *testing.T, target string, rate int) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	pass := func(from, to net.Conn, pause time.Duration) {
		defer from.Close()
		defer to.Close()
		piece := make([]byte, 16<<10)
		for {
			n, err := from.Read(piece)
			if err != nil {
				return
			}
			if _, err := to.Write(piece[:n]); err != nil {
				return
			}
			time.Sleep(pause * time.Duration(n) / time.Duration(len(piece)))
		}
	}
	go func() {
		defer close(ended)
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				near.Close()
				continue
			}
			far.(*net.TCPConn).SetReadBuffer(64 << 10)
			near.(*net.TCPConn).SetWriteBuffer(64 << 10)
			context.AfterFunc(ctx, func() { near.Close(); far.Close() })
			back := make(chan struct{})
			go func() { defer close(back); pass(near, far, 0) }()
			pass(far, near, time.Duration(16<<10)*time.Second/time.Duration(rate))
			<-back
		}
	}()
	t.Cleanup(func() {
		cancel()
		listener.Close()
		<-ended
	})
	return listener.Addr().String()
}

// A frame that takes longer to ship than a peer may be silent must get through in the end. What could go wrong: both ends
// take the other for dead in the middle of it, connect anew and begin again with the same frame, for ever.
func TestLargeFrameOverASlowLink(t *testing.T) {
	nodes := []*tester{start(t, testConfig(tempDir(t), "n1")), start(t, testConfig(tempDir(t), "n2"))}
	k := attachKV(nodes[0])
	c := create(t, 2, nodes...)
	c.epoch = 2
	answers := make([]*proto.FenceReply, len(nodes))
	for i, x := range nodes {
		if err := call(func(ctx context.Context) (err error) {
			answers[i], err = x.manage.Fence(ctx, &proto.FenceRequest{Target: x.target(), Epoch: 2})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	c.lead(nodes[0], answers[0])
	slow := throttle(t, nodes[0].ends.Data.String(), 2<<20)
	if err := call(func(ctx context.Context) error {
		_, err := nodes[1].manage.Follow(ctx, &proto.FollowRequest{Target: nodes[1].target(), Epoch: 2, Master: "n1", MasterAddr: slow})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c.establish(nodes[0])
	client, err := dialClient(nodes[0], 3)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	if err := client.propose(1, 1, bytes.Repeat([]byte("x"), 8<<20)); err != nil {
		t.Fatal(err)
	}
	if err := k.awaitExecuted(3, 1); err != nil {
		t.Fatal(err)
	}
}
