package ctl

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"lockstep/proto"
)

// clusterStatus is the JSON of `smrctl status`. Its names are relied upon: change none.
type clusterStatus struct {
	Groups      []groupStatus      `json:"groups"`
	Confmasters []confmasterStatus `json:"confmasters"`
}

type groupStatus struct {
	Name      string          `json:"name"`
	Epoch     uint64          `json:"epoch"`
	Master    string          `json:"master"` // "" while there is none
	Copies    uint32          `json:"copies"`
	MinCopies uint32          `json:"min_copies"`
	Sync      string          `json:"sync"`
	State     string          `json:"state"`
	Replicas  []replicaStatus `json:"replicas"`

	established uint64
	detail      string
	plan        string
}

type replicaStatus struct {
	Node           string `json:"node"`
	Role           string `json:"role"` // none, fenced, master, slave, learner; down if it does not answer
	KVAddr         string `json:"kv_addr"`
	KVPid          uint32 `json:"kv_pid"` // 0 if no KV node is attached
	ReplicatorAddr string `json:"replicator_addr"`
	ReplicatorPid  uint32 `json:"replicator_pid"`
	// Incarnation in 16 hexadecimal digits: as a number it would lose digits in JSON readers that use doubles.
	Incarnation string `json:"incarnation"`
	StartLSN    uint64 `json:"start_lsn"`
	EndLSN      uint64 `json:"end_lsn"`
	DurableLSN  uint64 `json:"durable_lsn"`
	CommitLSN   uint64 `json:"commit_lsn"`
	AppliedLSN  uint64 `json:"applied_lsn"`
	// LagBytes is how much of what is committed in the group this replica's KV node has not executed.
	LagBytes   uint64 `json:"lag_bytes"`
	LastSeenMs uint64 `json:"last_seen_ms"` // since the configuration master last heard of it
}

type confmasterStatus struct {
	ID           uint64 `json:"id"`
	Addr         string `json:"addr"`
	SentinelAddr string `json:"sentinel_addr"`
	Pid          uint32 `json:"pid"` // 0 if it does not answer
	Leader       bool   `json:"leader"`

	up bool
}

// statusOf turns the answer of a configuration master into what `smrctl status` shows.
func statusOf(reply *proto.ClusterStatus) clusterStatus {
	result := clusterStatus{Groups: []groupStatus{}, Confmasters: []confmasterStatus{}}
	for _, g := range reply.GetGroups() {
		result.Groups = append(result.Groups, groupOf(g))
	}
	for _, c := range reply.GetConfmasters() {
		result.Confmasters = append(result.Confmasters, confmasterStatus{
			ID: c.GetId(), Addr: c.GetAddr(), SentinelAddr: c.GetSentinelAddr(), Pid: c.GetPid(), Leader: c.GetLeader(), up: c.GetUp(),
		})
	}
	return result
}

func groupOf(g *proto.GroupStatus) groupStatus {
	group := groupStatus{
		Name: g.GetName(), Epoch: g.GetEpoch(), Master: g.GetMaster(), Copies: g.GetCopies(), MinCopies: g.GetMinCopies(),
		Sync: g.GetSync(), State: g.GetState(), Replicas: []replicaStatus{},
		established: g.GetEstablished(), detail: g.GetDetail(), plan: g.GetPlan(),
	}
	var commit uint64 // the highest that any replica knows of
	for _, r := range g.GetReplicas() {
		commit = max(commit, r.GetState().GetCommit())
	}
	for _, r := range g.GetReplicas() {
		state := r.GetState()
		replica := replicaStatus{
			Node: r.GetNode(), Role: "down", KVAddr: r.GetKvAddr(), ReplicatorAddr: r.GetDataAddr(), ReplicatorPid: state.GetPid(),
			Incarnation: fmt.Sprintf("%016x", state.GetIncarnation()),
			StartLSN:    state.GetStart(), EndLSN: state.GetEnd(), DurableLSN: state.GetDurable(), CommitLSN: state.GetCommit(),
			AppliedLSN: state.GetApplied(), LagBytes: commit - min(commit, state.GetApplied()), LastSeenMs: r.GetLastSeenMs(),
		}
		if r.GetUp() {
			replica.Role = state.GetRole()
		}
		if state.GetAttached() {
			replica.KVPid = state.GetKvPid()
		}
		group.Replicas = append(group.Replicas, replica)
	}
	return group
}

func newStatus(s *screen) *cobra.Command {
	var at where
	var watch bool
	var interval time.Duration
	command := &cobra.Command{
		Use:   "status",
		Short: "Show groups, replicas and configuration masters",
		Long: `Shows every group with its replicas, and the configuration masters. LSNs are byte offsets in the group's stream;
lag is what is committed in the group and not yet executed by that replica's KV node, in bytes.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			if interval < 50*time.Millisecond {
				return usage("interval %v: use 50ms or more", interval)
			}
			client, cluster, err := at.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if !watch {
				reply, err := client.Status(ctx)
				if err != nil {
					return explainSilence(err, cluster)
				}
				status := statusOf(reply)
				return s.show(status, func() { showStatus(s, status) })
			}
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for {
				reply, err := client.Status(ctx)
				if ctx.Err() != nil {
					return nil // Ctrl-C is how watching ends
				}
				showWatched(s, reply, explainSilence(err, cluster))
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
				}
			}
		}),
	}
	at.addAll(command)
	command.Flags().BoolVar(&watch, "watch", false, "show it again and again until Ctrl-C (with -o json: one line each)")
	command.Flags().DurationVar(&interval, "interval", time.Second, "time between two looks with --watch")
	return command
}

// showWatched shows one round of --watch.
func showWatched(s *screen, reply *proto.ClusterStatus, err error) {
	if s.format == "json" {
		if err != nil {
			s.note("smrctl: " + err.Error())
			return
		}
		s.line(statusOf(reply), "")
		return
	}
	if s.colours {
		s.printf("\x1b[H\x1b[2J")
	}
	s.printf("%s\n", time.Now().Format("15:04:05"))
	if err != nil {
		s.printf("%s\n\n", err)
		return
	}
	showStatus(s, statusOf(reply))
	s.printf("\n")
}

func showStatus(s *screen, status clusterStatus) {
	for _, g := range status.Groups {
		master := g.Master
		if master == "" {
			master = "none"
		}
		s.printf("Group %s: %s, master %s, epoch %d, copies %d (quorum %d), min copies %d, sync %s\n", s.paint(bold, g.Name),
			s.paint(stateColour(g.State), g.State), master, g.Epoch, g.Copies, g.Copies-1, g.MinCopies, g.Sync)
		if g.established != g.Epoch {
			s.printf("  established: epoch %d\n", g.established)
		}
		if g.detail != "" {
			s.printf("  %s\n", g.detail)
		}
		if g.plan != "" {
			s.printf("  now: %s\n", g.plan)
		}
		rows := [][]string{{"NODE", "ROLE", "REDIS", "PID", "REPLICATOR", "PID", "START", "END", "DURABLE", "COMMIT", "APPLIED", "LAG", "SEEN"}}
		for _, r := range g.Replicas {
			rows = append(rows, []string{r.Node, r.Role, r.KVAddr, decimal(uint64(r.KVPid)), r.ReplicatorAddr, decimal(uint64(r.ReplicatorPid)),
				decimal(r.StartLSN), decimal(r.EndLSN), decimal(r.DurableLSN), decimal(r.CommitLSN), decimal(r.AppliedLSN), decimal(r.LagBytes),
				(time.Duration(r.LastSeenMs) * time.Millisecond).String()})
		}
		s.table(rows)
		s.printf("\n")
	}
	if len(status.Groups) == 0 {
		s.printf("No groups.\n\n")
	}
	rows := [][]string{{"CONFMASTER", "GRPC", "SENTINEL", "PID", "STATE"}}
	for _, c := range status.Confmasters {
		state := "down"
		switch {
		case c.Leader:
			state = "leader"
		case c.up:
			state = "follows"
		}
		rows = append(rows, []string{"c" + decimal(c.ID), c.Addr, c.SentinelAddr, decimal(uint64(c.Pid)), state})
	}
	s.table(rows)
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
