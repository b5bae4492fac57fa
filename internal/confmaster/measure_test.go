package confmaster

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	lockstep "lockstep/proto"
)

// deaths is how often TestDeathToLead kills a master. For a measurement: go test -run DeathToLead -deaths 20 -v
var deaths = flag.Int("deaths", 4, "masters that TestDeathToLead kills")

// What could go wrong: one fail-over after another finds a configuration master that is not ready for it (a connection that
// still waits for its pause, an opinion of the former master, an election that is held back), or two replicas lead one
// epoch (the fakes check that). Half of the deaths reset their connections, half close them. The time from death to
// the Lead that another replica received is logged, not asserted.
func TestDeathToLead(t *testing.T) {
	defer goleak.VerifyNone(t)
	const inARow = 8 // more would be held back: elections may not follow each other for ever
	var times, changes []time.Duration
	for len(times) < *deaths {
		func() {
			c := newTestCluster(t, 3, "n1", "n2", "n3")
			defer c.close()
			c.create(0)
			for range min(inARow, *deaths-len(times)) {
				lead, change := killMaster(t, c, len(times)%2 == 0)
				times, changes = append(times, lead), append(changes, change)
			}
		}()
	}
	for what, all := range map[string][]time.Duration{"Lead": times, "established": changes} {
		slices.Sort(all)
		t.Logf("death -> %s: p50 %v, max %v of %d", what, all[len(all)/2], all[len(all)-1], len(all))
	}
}

// killMaster kills the master, waits for the next one, and brings the old one back as a member.
func killMaster(t *testing.T, c *testCluster, reset bool) (lead, change time.Duration) {
	t.Helper()
	before := c.groupWhen(c.leader(), "a whole group", func(g *lockstep.GroupStatus) bool {
		return g.GetState() == "ok" && !slices.ContainsFunc(g.GetReplicas(), func(r *lockstep.ReplicaStatus) bool {
			return !r.GetMember() || !r.GetUp()
		})
	})
	old := c.group.of(before.GetMaster())
	subscriber, _ := c.members[c.bystander()].node.events.subscribe(0)
	defer subscriber.leave()
	killed := time.Now()
	old.kill()
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	for change == 0 {
		select {
		case n := <-subscriber.C:
			if n.event.GetName() == "switch-master" && n.event.GetEpoch() > before.GetEpoch() {
				change = time.Since(killed)
			}
		case <-timer.C:
			t.Fatalf("nobody leads after %s", old.node)
		}
	}
	c.group.mu.Lock()
	for epoch, record := range c.group.leads {
		if epoch > before.GetEpoch() && (lead == 0 || record.at.Sub(killed) < lead) {
			lead = record.at.Sub(killed)
		}
	}
	old.resets = reset
	c.group.mu.Unlock()
	old.start()
	return lead.Round(100 * time.Microsecond), change.Round(100 * time.Microsecond)
}

// What could go wrong: one configuration master alone needs an election time-out, or somebody else's opinion, for what it
// could decide at once; or it forgets what it has decided; or a master that died while no configuration master ran is
// not replaced when it is back.
func TestSingleConfmaster(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 1, "n1", "n2", "n3")
	defer c.close()
	begun := time.Now()
	first := c.create(0)
	t.Logf("a group serves %v after the start", time.Since(begun).Round(time.Millisecond))
	killMaster(t, c, true)
	second := c.serves(0, "")
	if second.GetMaster() == first.GetMaster() {
		t.Fatalf("%s leads again", second.GetMaster())
	}
	c.kill(0)
	c.group.of(second.GetMaster()).kill()
	c.start(0)
	third := c.groupWhen(0, "a master after the restart", func(g *lockstep.GroupStatus) bool {
		return g.GetMaster() != "" && g.GetMaster() != second.GetMaster() && g.GetEstablished() > second.GetEpoch()
	})
	c.group.of(second.GetMaster()).start()
	c.stop(0)
	c.start(0)
	if g := c.serves(0, second.GetMaster()); g.GetMaster() != third.GetMaster() {
		t.Errorf("a restart of the configuration master moved mastership from %s to %s", third.GetMaster(), g.GetMaster())
	}
	eventually(t, "the only one leads, and says so", func() error {
		status, err := c.status(0)
		if err != nil || len(status.GetConfmasters()) != 1 || !status.GetConfmasters()[0].GetLeader() || !status.GetConfmasters()[0].GetUp() {
			return fmt.Errorf("status %v, %w", status, err)
		}
		return nil
	})
}

// What could go wrong: what one configuration master says of the others is stale: a dead one is shown as up, by the leader
// or, when the leader itself died, by the next one that remembers what it was told.
func TestDeadConfmastersAreShown(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1")
	defer c.close()
	up := func(i int, want ...uint64) {
		t.Helper()
		eventually(t, fmt.Sprintf("confmaster %d shows %d as up", i+1, want), func() error {
			status, err := c.status(i)
			if err != nil {
				return err
			}
			var got []uint64
			leaders := 0
			for _, m := range status.GetConfmasters() {
				if m.GetUp() {
					got = append(got, m.GetId())
				}
				if m.GetUp() && m.GetSentinelAddr() == "" {
					return errors.New("where its Sentinel is, is not known")
				}
				if m.GetLeader() {
					leaders++
				}
			}
			if !slices.Equal(got, want) || leaders != 1 || !status.GetHasLeader() {
				return fmt.Errorf("up are %d, status %v", got, status)
			}
			return nil
		})
		eventually(t, "Sentinel counts the same", func() error {
			if v := c.members[i].node.redis.Load(); v.usable != len(want) || len(v.others) != 2 {
				return fmt.Errorf("%d usable, %d others", v.usable, len(v.others))
			}
			return nil
		})
	}
	for i := range c.members {
		up(i, 1, 2, 3)
	}
	dead := c.leader()
	c.kill(dead)
	var rest []uint64
	for i := range c.members {
		if i != dead {
			rest = append(rest, uint64(i+1))
		}
	}
	for i := range c.members {
		if i != dead {
			up(i, rest...)
		}
	}
	c.start(dead)
	for i := range c.members {
		up(i, 1, 2, 3)
	}
}
