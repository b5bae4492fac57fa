package ctl

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/proto"
)

// clusterStatus is the JSON of `smrctl status`. Its names are relied upon: change none.
type clusterStatus struct {
	Groups      []groupStatus      `json:"groups"`
	Confmasters []confmasterStatus `json:"confmasters"`
	Level       uint32             `json:"level"` // feature level of the cluster
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

	Established uint64     `json:"established"` // epoch; below Epoch while something is being decided
	Detail      string     `json:"detail"`      // why it is not ok, for people
	Plan        string     `json:"plan"`        // what is being done now, for people
	Version     uint64     `json:"version"`     // grows with every change of policy and replicas
	Policy      policy     `json:"policy"`
	Recoveries  []recovery `json:"recoveries"` // by force, oldest first: they stay for ever
}

type policy struct {
	Copies    uint32 `json:"copies"`
	MinCopies uint32 `json:"min_copies"`
	SlowBytes uint64 `json:"slow_bytes"` // 0: does not count
	SlowMs    uint32 `json:"slow_ms"`
	SlowForMs uint32 `json:"slow_for_ms"`
}

// slow shows when a member is dropped for being slow.
func (p policy) slow() string {
	var bounds []string
	if p.SlowBytes > 0 {
		bounds = append(bounds, size(p.SlowBytes))
	}
	if p.SlowMs > 0 {
		bounds = append(bounds, (time.Duration(p.SlowMs) * time.Millisecond).String())
	}
	if len(bounds) == 0 || p.SlowForMs == 0 {
		return "never"
	}
	return fmt.Sprintf("%s for %v", strings.Join(bounds, " or "), time.Duration(p.SlowForMs)*time.Millisecond)
}

// recovery is a forced one: what may have been lost.
type recovery struct {
	Epoch   uint64   `json:"epoch"`
	Time    string   `json:"time"`
	Kept    []string `json:"kept"`
	Lost    []string `json:"lost"`
	FromLSN uint64   `json:"from_lsn"` // acknowledged writes at and above may be lost
	SeenLSN uint64   `json:"seen_lsn"` // end of the highest log that was seen
	Since   string   `json:"since"`    // when the lost replicas were last heard of, "" if that is not known
	Text    string   `json:"text"`
}

func recoveryOf(r *proto.Recovery) recovery {
	result := recovery{Epoch: r.GetEpoch(), Time: time.UnixMilli(r.GetTimeMs()).Format(timeForm), Kept: append([]string{}, r.GetKept()...),
		Lost: append([]string{}, r.GetLost()...), FromLSN: r.GetFrom(), SeenLSN: r.GetSeen(), Text: r.GetText()}
	if r.GetSinceMs() != 0 {
		result.Since = time.UnixMilli(r.GetSinceMs()).Format(timeForm)
	}
	return result
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

	Member        bool   `json:"member"`
	Standing      string `json:"standing"`       // "", drained or leaving
	CheckpointLSN uint64 `json:"checkpoint_lsn"` // its KV node can restart from an image there
	// How far it is behind its master's end, as the master sees it; 0 of replicas that do not stream.
	BehindBytes uint64    `json:"behind_bytes"`
	BehindMs    uint32    `json:"behind_ms"`
	NeedImage   bool      `json:"need_image"` // its log cannot be continued without one
	Transfer    *transfer `json:"transfer"`   // an image on its way to it, null if there is none

	Version        string `json:"version"`          // of its replicator, "" if it is not known
	HighestLevel   uint32 `json:"highest_level"`    // feature level that its replicator can, 0 if it has not said
	KVHighestLevel uint32 `json:"kv_highest_level"` // the same of its KV node, 0 if none is attached
}

type confmasterStatus struct {
	ID           uint64 `json:"id"`
	Addr         string `json:"addr"`
	SentinelAddr string `json:"sentinel_addr"`
	Pid          uint32 `json:"pid"` // 0 if it does not answer
	Leader       bool   `json:"leader"`
	Version      string `json:"version"`       // "" if it is not known
	HighestLevel uint32 `json:"highest_level"` // feature level that it can, 0 if it has not said

	up bool
}

// statusOf turns the answer of a configuration master into what `smrctl status` shows.
func statusOf(reply *proto.ClusterStatus) clusterStatus {
	result := clusterStatus{Groups: []groupStatus{}, Confmasters: []confmasterStatus{}, Level: max(1, reply.GetLevel())}
	for _, g := range reply.GetGroups() {
		result.Groups = append(result.Groups, groupOf(g))
	}
	for _, c := range reply.GetConfmasters() {
		result.Confmasters = append(result.Confmasters, confmasterStatus{
			ID: c.GetId(), Addr: c.GetAddr(), SentinelAddr: c.GetSentinelAddr(), Pid: c.GetPid(), Leader: c.GetLeader(), up: c.GetUp(),
			Version: c.GetVersion(), HighestLevel: c.GetHighestLevel(),
		})
	}
	return result
}

func groupOf(g *proto.GroupStatus) groupStatus {
	group := groupStatus{
		Name: g.GetName(), Epoch: g.GetEpoch(), Master: g.GetMaster(), Copies: g.GetCopies(), MinCopies: g.GetMinCopies(),
		Sync: g.GetSync(), State: g.GetState(), Replicas: []replicaStatus{},
		Established: g.GetEstablished(), Detail: g.GetDetail(), Plan: g.GetPlan(), Version: g.GetVersion(), Recoveries: []recovery{},
		Policy: policy{Copies: g.GetPolicy().GetCopies(), MinCopies: g.GetPolicy().GetMinCopies(), SlowBytes: g.GetPolicy().GetSlowBytes(),
			SlowMs: g.GetPolicy().GetSlowMs(), SlowForMs: g.GetPolicy().GetSlowForMs()},
	}
	for _, r := range g.GetRecoveries() {
		group.Recoveries = append(group.Recoveries, recoveryOf(r))
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
			Member: r.GetMember(), Standing: r.GetStanding(), CheckpointLSN: state.GetCheckpoint(), BehindBytes: r.GetLagBytes(), BehindMs: r.GetLagMs(),
			NeedImage: state.GetNeedImage(), Transfer: transferOf(state),
			Version: state.GetVersion(), HighestLevel: state.GetHighestLevel(), KVHighestLevel: state.GetKvHighestLevel(),
		}
		if r.GetUp() {
			replica.Role = state.GetRole()
		}
		if replica.Role == "slave" && !r.GetMember() {
			replica.Role = "learner"
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
	var watch watching
	command := &cobra.Command{
		Use:   "status",
		Short: "Show groups, replicas and configuration masters",
		Long: `Shows every group with its replicas, and the configuration masters. LSNs are byte offsets in the group's stream;
lag is what is committed in the group and not yet executed by that replica's KV node, in bytes.
-o wide adds addresses, process ids, incarnations, where logs begin, and the feature level of the cluster.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			client, cluster, err := at.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			return watch.run(ctx, s, func(ctx context.Context) error {
				reply, err := client.Status(ctx)
				if err != nil {
					return explainSilence(err, cluster)
				}
				status := statusOf(reply)
				return s.show(status, func() { showStatus(s, status) })
			})
		}),
	}
	at.addAll(command)
	watch.add(command)
	return command
}

func showStatus(s *screen, status clusterStatus) {
	for _, g := range status.Groups {
		master := g.Master
		if master == "" {
			master = "none"
		}
		s.printf("Group %s: %s, master %s, epoch %d, copies %d (quorum %d), min copies %d, sync %s\n", s.paint(bold, g.Name),
			s.paint(stateColour(g.State), g.State), master, g.Epoch, g.Copies, g.Copies-1, g.MinCopies, g.Sync)
		if g.Established != g.Epoch {
			s.printf("  established: epoch %d\n", g.Established)
		}
		if g.Detail != "" {
			s.printf("  %s\n", g.Detail)
		}
		if g.Plan != "" {
			s.printf("  now: %s\n", g.Plan)
		}
		for _, r := range g.Recoveries {
			s.printf("  %s epoch %d, %s: %s\n", s.paint(red, "RECOVERED BY FORCE"), r.Epoch, r.Time, r.Text)
		}
		s.table(replicaRows(s, g.Replicas))
		for _, r := range g.Replicas {
			for _, line := range r.remarks() {
				s.printf("  %s: %s\n", r.Node, line)
			}
		}
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
	if s.wide() {
		s.printf("\nFeature level %d\n", status.Level)
	}
}

// replicaRows is the table of the replicas of a group.
func replicaRows(s *screen, replicas []replicaStatus) [][]string {
	heading := []string{"NODE", "ROLE", "REDIS", "END", "DURABLE", "COMMIT", "APPLIED", "IMAGE", "LAG", "SEEN"}
	if s.wide() {
		heading = append(heading, "START", "REPLICATOR", "PID", "KV PID", "INCARNATION")
	}
	rows := [][]string{heading}
	for _, r := range replicas {
		row := []string{r.Node, r.Role, r.KVAddr, decimal(r.EndLSN), decimal(r.DurableLSN), decimal(r.CommitLSN), decimal(r.AppliedLSN),
			decimal(r.CheckpointLSN), decimal(r.LagBytes), (time.Duration(r.LastSeenMs) * time.Millisecond).String()}
		if s.wide() {
			row = append(row, decimal(r.StartLSN), r.ReplicatorAddr, decimal(uint64(r.ReplicatorPid)), decimal(uint64(r.KVPid)), r.Incarnation)
		}
		rows = append(rows, row)
	}
	return rows
}

// remarks are what does not fit into the table.
func (r *replicaStatus) remarks() []string {
	var lines []string
	if r.Standing != "" {
		lines = append(lines, r.Standing)
	}
	switch {
	case r.Transfer != nil:
		lines = append(lines, r.Transfer.String())
	case r.NeedImage:
		lines = append(lines, "waiting for an image")
	}
	if r.BehindMs > 1000 {
		lines = append(lines, fmt.Sprintf("%s and %.1f s behind its master", size(r.BehindBytes), float64(r.BehindMs)/1000))
	}
	return lines
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
