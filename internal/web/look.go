package web

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"lockstep/internal/trust"
	"lockstep/proto"
)

const (
	// historyShown bounds the decisions of an answer.
	historyShown = 300
)

// stateView is everything as it is now.
type stateView struct {
	Cluster     string           `json:"cluster"`
	Self        uint64           `json:"self"` // configuration master that answers
	TimeMs      int64            `json:"time_ms"`
	HasLeader   bool             `json:"has_leader"`
	Groups      []groupView      `json:"groups"`
	Confmasters []confmasterView `json:"confmasters"`
}

type confmasterView struct {
	ID     uint64 `json:"id"`
	Addr   string `json:"addr"`
	Page   string `json:"page"`
	Leader bool   `json:"leader"`
	Up     bool   `json:"up"`
}

type groupView struct {
	Name        string        `json:"name"`
	Epoch       uint64        `json:"epoch"`
	Established uint64        `json:"established"`
	Master      string        `json:"master"`
	Copies      uint32        `json:"copies"`
	MinCopies   uint32        `json:"min_copies"`
	Sync        string        `json:"sync"`
	State       string        `json:"state"`
	Detail      string        `json:"detail"`
	Plan        string        `json:"plan"`
	Version     uint64        `json:"version"` // that a change is sent with
	Policy      policyView    `json:"policy"`
	Replicas    []replicaView `json:"replicas"`
}

type replicaView struct {
	Node       string        `json:"node"`
	Role       string        `json:"role"`
	Leading    bool          `json:"leading"`
	Member     bool          `json:"member"`
	Up         bool          `json:"up"`
	Saw        string        `json:"saw"`
	Standing   string        `json:"standing"`
	LastSeenMs uint64        `json:"last_seen_ms"`
	KVAddr     string        `json:"kv_addr"`
	DataAddr   string        `json:"data_addr"`
	ManageAddr string        `json:"manage_addr"`
	Attached   bool          `json:"attached"` // a KV node is there
	Known      bool          `json:"known"`    // it was seen: the LSNs mean something
	Start      uint64        `json:"start"`
	End        uint64        `json:"end"`
	Durable    uint64        `json:"durable"`
	Commit     uint64        `json:"commit"`
	Applied    uint64        `json:"applied"`
	Checkpoint uint64        `json:"checkpoint"`
	LagBytes   uint64        `json:"lag_bytes"`
	LagMs      uint32        `json:"lag_ms"`
	Epoch      uint64        `json:"epoch"`
	Version    string        `json:"version"`
	Image      *transferView `json:"image"` // null unless it is fetching one
}

type transferView struct {
	Done  uint64 `json:"done"`
	Total uint64 `json:"total"`
	Rate  uint64 `json:"rate"` // bytes a second
	From  string `json:"from"`
}

func (s *Server) state(r *http.Request) (any, error) { return s.now(r.Context()) }

func (s *Server) now(ctx context.Context) (*stateView, error) {
	status, err := s.config.Masters.Status(ctx, &proto.StatusRequest{})
	if err != nil {
		return nil, err
	}
	view := &stateView{Cluster: status.GetCluster(), Self: s.config.Self, TimeMs: time.Now().UnixMilli(), HasLeader: status.GetHasLeader(), Groups: []groupView{}, Confmasters: []confmasterView{}}
	for _, g := range status.GetGroups() {
		group := groupView{
			Name: g.GetName(), Epoch: g.GetEpoch(), Established: g.GetEstablished(), Master: g.GetMaster(), Copies: g.GetCopies(), MinCopies: g.GetMinCopies(),
			Sync: g.GetSync(), State: g.GetState(), Detail: g.GetDetail(), Plan: g.GetPlan(), Version: g.GetVersion(), Policy: policyOf(g.GetPolicy()), Replicas: []replicaView{},
		}
		for _, one := range g.GetReplicas() {
			group.Replicas = append(group.Replicas, replicaOf(one))
		}
		view.Groups = append(view.Groups, group)
	}
	for _, c := range status.GetConfmasters() {
		view.Confmasters = append(view.Confmasters, confmasterView{ID: c.GetId(), Addr: c.GetAddr(), Page: c.GetPage(), Leader: c.GetLeader(), Up: c.GetUp()})
	}
	return view, nil
}

func replicaOf(r *proto.ReplicaStatus) replicaView {
	state := r.GetState()
	view := replicaView{
		Node: r.GetNode(), Role: state.GetRole(), Leading: state.GetLeading(), Member: r.GetMember(), Up: r.GetUp(), Saw: r.GetSaw(), Standing: r.GetStanding(),
		LastSeenMs: r.GetLastSeenMs(), KVAddr: r.GetKvAddr(), DataAddr: r.GetDataAddr(), ManageAddr: r.GetManageAddr(), Attached: state.GetAttached(), Known: state != nil,
		Start: state.GetStart(), End: state.GetEnd(), Durable: state.GetDurable(), Commit: state.GetCommit(), Applied: state.GetApplied(), Checkpoint: state.GetCheckpoint(),
		LagBytes: r.GetLagBytes(), LagMs: r.GetLagMs(), Epoch: state.GetEpoch(), Version: state.GetVersion(),
	}
	if state.GetBytesTotal() > 0 {
		view.Image = &transferView{state.GetBytesDone(), state.GetBytesTotal(), state.GetBytesPerSecond(), state.GetImageFrom()}
	}
	return view
}

// decisionView is one entry of the work log, as `smrctl explain` shows it.
type decisionView struct {
	ID         uint64          `json:"id"`
	TimeMs     int64           `json:"time_ms"`
	Group      string          `json:"group"`
	Epoch      uint64          `json:"epoch"`
	Kind       string          `json:"kind"`
	Reason     string          `json:"reason"`
	Master     string          `json:"master"`
	Confmaster uint64          `json:"confmaster"`
	Witnesses  []witnessView   `json:"witnesses"`
	Candidates []candidateView `json:"candidates"`
}

type witnessView struct {
	Confmaster uint64 `json:"confmaster"`
	Node       string `json:"node"`
	Saw        string `json:"saw"`
	SilentMs   uint32 `json:"silent_ms"`
}

type candidateView struct {
	Node          string `json:"node"`
	PositionEpoch uint64 `json:"position_epoch"`
	End           uint64 `json:"end"`
	Commit        uint64 `json:"commit"`
	Applied       uint64 `json:"applied"`
	Chosen        bool   `json:"chosen"`
	Note          string `json:"note"`
}

func (s *Server) history(r *http.Request) (any, error) {
	reply, err := s.config.Masters.WorkLog(r.Context(), &proto.WorkLogRequest{Group: r.URL.Query().Get("group"), Limit: historyShown})
	if err != nil {
		return nil, err
	}
	list := []decisionView{}
	for _, e := range reply.GetEntries() {
		d := decisionView{ID: e.GetId(), TimeMs: e.GetTimeMs(), Group: e.GetGroup(), Epoch: e.GetEpoch(), Kind: e.GetKind(), Reason: e.GetReason(), Master: e.GetMaster(),
			Confmaster: e.GetConfmaster(), Witnesses: []witnessView{}, Candidates: []candidateView{}}
		for _, w := range e.GetWitnesses() {
			d.Witnesses = append(d.Witnesses, witnessView{w.GetConfmaster(), w.GetNode(), w.GetSaw(), w.GetSilentMs()})
		}
		for _, c := range e.GetCandidates() {
			d.Candidates = append(d.Candidates, candidateView{c.GetNode(), c.GetPositionEpoch(), c.GetEnd(), c.GetCommit(), c.GetApplied(), c.GetChosen(), c.GetNote()})
		}
		list = append(list, d)
	}
	return map[string]any{"decisions": list}, nil
}

// group returns the group that a request names, or the only one.
func (s *Server) group(ctx context.Context, name string) (*proto.GroupStatus, error) {
	status, err := s.config.Masters.Status(ctx, &proto.StatusRequest{})
	if err != nil {
		return nil, err
	}
	for _, g := range status.GetGroups() {
		if g.GetName() == name || name == "" && len(status.GetGroups()) == 1 {
			return g, nil
		}
	}
	return nil, refusef(http.StatusNotFound, "there is no group %q", name)
}

// number reads a number of a request.
func number(r *http.Request, name string) (uint64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, refusef(http.StatusBadRequest, "%s %.40q is no number", name, text)
	}
	return n, nil
}

// logged reports whether somebody is logged in who has the role.
func (s *Server) logged(r *http.Request, role trust.Role) bool {
	one, _ := s.sessionOf(r)
	return one != nil && one.caller.May(role)
}
