package confmaster

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"regexp"
	"testing"

	"lockstep/internal/obs"
)

// look asks what an observer of a configuration master says.
func look(n *node, path string) string {
	observer := obs.New("confmaster", "1", nil)
	observer.Show(n.gauges)
	answer := httptest.NewRecorder()
	observer.Handler(false).ServeHTTP(answer, httptest.NewRequest("GET", path, nil))
	return fmt.Sprintf("%d %s", answer.Code, answer.Body)
}

// What could go wrong: what is shown is not so, an election is not counted, or all three claim to lead. A group is made,
// its master dies, and two configuration masters are killed. On a slow machine there may be more elections than asked for.
func TestClusterIsShown(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	holds := func(i int, path string, patterns ...string) error {
		text := look(c.members[i].node, path)
		for _, pattern := range patterns {
			if !regexp.MustCompile("(?m)^" + pattern).MatchString(text) {
				return fmt.Errorf("%s of %d lacks %s:\n%s", path, i+1, pattern, text)
			}
		}
		return nil
	}
	group := c.create(c.leader())
	eventually(t, "all show the same group, and one of them leads", func() error {
		leaders, ready := 0, map[string]int{}
		for i := range c.members {
			status, err := c.status(i)
			if err != nil {
				return err
			}
			group = status.GetGroups()[0]
			own := fmt.Sprintf(`\{confmaster="%d"`, i+1)
			if err := holds(i, "/metrics", "lockstep_confmaster_has_leader"+own+`\} 1$`,
				"lockstep_confmaster_group_state"+own+`,group="g1",state="ok"\} 1$`, "lockstep_confmaster_group_copies"+own+`,group="g1",kind="wanted"\} 2$`,
				fmt.Sprintf("lockstep_confmaster_group_epoch%s,group=\"g1\",kind=\"established\"\\} %d$", own, group.GetEstablished()),
				fmt.Sprintf("lockstep_confmaster_group_master%s,group=\"g1\",node=%q\\} 1$", own, group.GetMaster()),
				"lockstep_confmaster_events_total"+own+`,event="switch-master",group="g1"\} `, "lockstep_confmaster_replica_member"+own+`,group="g1",node="n3"\} 1$`,
				"lockstep_confmaster_events_total"+own+`,event="established",group="g1"\} [1-9]`,
				"lockstep_confmaster_election_duration_seconds_count"+own+`,group="g1"\} [1-9]`, "lockstep_confmaster_raft_save_duration_seconds_count"+own+`\} [1-9]`); err != nil {
				return err
			}
			if holds(i, "/metrics", "lockstep_confmaster_raft_role"+own+`,role="leader"\} 1$`, "lockstep_confmaster_raft_peer_lag_entries"+own) == nil {
				leaders++
			}
			for _, role := range []string{"master", "slave", "any"} {
				if holds(i, "/readyz?role="+role, "200 ok") == nil {
					ready[role]++
				}
			}
			if err := holds(i, "/livez", "200 ok"); err != nil {
				return err
			}
		}
		if leaders != 1 || ready["master"] != 1 || ready["slave"] != 2 || ready["any"] != 3 {
			return fmt.Errorf("%d leaders, ready %v", leaders, ready)
		}
		return nil
	})

	c.group.of(group.GetMaster()).kill()
	eventually(t, "a move of mastership is counted by all", func() error {
		for i := range c.members {
			own := fmt.Sprintf(`\{confmaster="%d"`, i+1)
			if err := holds(i, "/metrics", "lockstep_confmaster_events_total"+own+`,event="switch-master",group="g1"\} [1-9]`,
				"lockstep_confmaster_election_duration_seconds_count"+own+`,group="g1"\} ([2-9]|1[0-9])`,
				fmt.Sprintf("lockstep_confmaster_replica_up%s,group=\"g1\",node=%q\\} 0$", own, group.GetMaster())); err != nil {
				return err
			}
		}
		return nil
	})

	c.kill(0)
	c.kill(1)
	eventually(t, "the last one says that it is alone", func() error {
		return errors.Join(holds(2, "/readyz", "503 the configuration masters have no leader"), holds(2, "/livez", "200 ok"),
			holds(2, "/metrics", `lockstep_confmaster_has_leader\{confmaster="3"\} 0$`))
	})
}
