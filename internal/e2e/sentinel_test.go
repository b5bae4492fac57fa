package e2e

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"lockstep/internal/local"
)

// What could go wrong: clients that look for the master through Sentinel, as existing applications do, are sent to a dead
// node after a fail-over. go-redis' own Sentinel client must find the new one by itself.
func TestSentinelClientFollowsMaster(t *testing.T) {
	w := start(t, local.Options{}, nil)
	var sentinels []string
	for _, c := range w.Plan.Confmasters {
		sentinels = append(sentinels, c.SentinelAddr)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: w.Plan.Group, SentinelAddrs: sentinels})
	defer client.Close()
	if err := client.Set(ctx, "before", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	told := redis.NewSentinelClient(&redis.Options{Addr: sentinels[0]}).Subscribe(ctx, "+switch-master")
	defer told.Close()
	if _, err := told.Receive(ctx); err != nil {
		t.Fatal(err)
	}

	old, _ := w.master(t)
	w.kill(t, local.ReplicatorOf(old), local.KVNodeOf(old))
	eventually(t, "the client writes again", func() error {
		return client.Set(ctx, "after", "2", 0).Err()
	})
	if got, err := client.Get(ctx, "before").Result(); err != nil || got != "1" {
		t.Errorf("before is %q, %v", got, err)
	}
	now := w.masterIsNot(t, old)

	message, err := told.ReceiveMessage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{w.Plan.Group, spaced(w.addr(old)), spaced(w.addr(now))}, " ")
	if message.Payload != want {
		t.Errorf("+switch-master says %q, want %q", message.Payload, want)
	}
	for _, addr := range sentinels {
		eventually(t, "Sentinel "+addr+" names the new master", func() error { return namesMaster(ctx, addr, w.Plan.Group, w.addr(now)) })
	}
	w.startAgain(t, local.ReplicatorOf(old), local.KVNodeOf(old))
	w.healthy(t)
	sentinel := redis.NewSentinelClient(&redis.Options{Addr: sentinels[1]})
	defer sentinel.Close()
	replicas, err := sentinel.Replicas(ctx, w.Plan.Group).Result()
	if err != nil || len(replicas) != len(w.Plan.Replicas)-1 {
		t.Errorf("SENTINEL REPLICAS lists %d, %v", len(replicas), err)
	}
	if _, err := sentinel.CkQuorum(ctx, w.Plan.Group).Result(); err != nil {
		t.Errorf("SENTINEL CKQUORUM: %v", err)
	}
}

func namesMaster(ctx context.Context, sentinel, group, want string) error {
	client := redis.NewSentinelClient(&redis.Options{Addr: sentinel, ReadTimeout: time.Minute})
	defer client.Close()
	got, err := client.GetMasterAddrByName(ctx, group).Result()
	if err != nil {
		return err
	}
	if net.JoinHostPort(got[0], got[1]) != want {
		return fmt.Errorf("it names %v, want %s", got, want)
	}
	return nil
}

func spaced(addr string) string { return strings.Replace(addr, ":", " ", 1) }

// What could go wrong: a planned hand-over loses a write, or clients see more than a pause. Mastership goes round all nodes
// while clients write on all of them.
func TestSwitchoverUnderLoad(t *testing.T) {
	w := start(t, local.Options{}, nil)
	l := w.startLoad(t, loadOptions{})
	for _, r := range append(w.Plan.Replicas, w.Plan.Replicas...) {
		if now, _ := w.master(t); now == r.Node {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		reply, err := w.admin.Switchover(ctx, w.Plan.Group, r.Node)
		cancel()
		if err != nil {
			t.Fatalf("switch-over to %s: %v", r.Node, err)
		}
		if now, epoch := w.master(t); now != r.Node {
			t.Errorf("asked for %s, master is %s in epoch %d: %s", r.Node, now, epoch, reply.GetText())
		}
		l.progress(t, w.others()...)
		w.healthy(t)
	}
	l.finish(t)
}
