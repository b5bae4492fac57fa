package web

import (
	"context"
	"net/http"

	"google.golang.org/grpc/status"

	"lockstep/internal/trust"
	"lockstep/proto"
	"lockstep/smr"
)

// recordsShown is how many frames a page of the log has at most.
const recordsShown = 100

// recordsView is a page of a replica's log.
type recordsView struct {
	Group   string       `json:"group"`
	Node    string       `json:"node"`
	Start   uint64       `json:"start"`
	End     uint64       `json:"end"`
	Commit  uint64       `json:"commit"`
	Bodies  bool         `json:"bodies"` // what clients wrote is shown
	Records []recordView `json:"records"`
}

type recordView struct {
	LSN       uint64   `json:"lsn"`
	Size      uint32   `json:"size"`
	Epoch     uint64   `json:"epoch"`
	TimeMs    int64    `json:"time_ms"`
	Kind      string   `json:"kind"`
	Count     uint32   `json:"count"`
	Committed bool     `json:"committed"`
	Text      string   `json:"text"`     // of a configuration, or why nothing is shown
	Requests  []string `json:"requests"` // as redis-cli writes them
}

func (s *Server) records(r *http.Request) (any, error) {
	group, err := s.group(r.Context(), r.URL.Query().Get("group"))
	if err != nil {
		return nil, err
	}
	request := &proto.RecordsRequest{Bodies: s.logged(r, trust.Operator)}
	for name, target := range map[string]*uint64{"from": &request.From, "before": &request.Before} {
		if *target, err = number(r, name); err != nil {
			return nil, err
		}
	}
	count, err := number(r, "count")
	if err != nil || count < 1 || count > recordsShown {
		return nil, refusef(http.StatusBadRequest, "count: use 1 to %d", recordsShown)
	}
	request.Count = uint32(count)
	for _, replica := range group.GetReplicas() {
		if replica.GetNode() == r.URL.Query().Get("node") {
			return s.readRecords(r.Context(), group, replica, request)
		}
	}
	return nil, refusef(http.StatusNotFound, "group %s has no replica %.100q", group.GetName(), r.URL.Query().Get("node"))
}

func (s *Server) readRecords(ctx context.Context, group *proto.GroupStatus, replica *proto.ReplicaStatus, request *proto.RecordsRequest) (*recordsView, error) {
	node := replica.GetNode()
	request.Target = &proto.Target{Cluster: s.config.Cluster, Group: group.GetName(), Node: node}
	conn, err := s.config.Dial(replica.GetManageAddr(), trust.Wanted{Role: trust.Replicator, Name: node})
	if err != nil {
		return nil, err
	}
	reply, err := proto.NewReplicatorClient(conn).Records(trust.PassOn(ctx), request)
	if err != nil {
		return nil, err
	}
	view := &recordsView{Group: group.GetName(), Node: node, Start: reply.GetStart(), End: reply.GetEnd(), Commit: reply.GetCommit(), Bodies: request.GetBodies(), Records: []recordView{}}
	texts := make(map[uint64]*proto.RequestTexts)
	if request.GetBodies() {
		texts = s.describe(ctx, group, reply.GetRecords())
	}
	for _, record := range reply.GetRecords() {
		line := recordView{LSN: record.GetLsn(), Size: record.GetSize(), Epoch: record.GetEpoch(), TimeMs: record.GetTimeMs(), Kind: record.GetKind(), Count: record.GetCount(),
			Committed: record.GetLsn()+uint64(record.GetSize()) <= reply.GetCommit(), Requests: []string{}}
		said := texts[record.GetLsn()]
		switch {
		case record.GetKind() == "":
			line.Text = "too long to be read here: smrctl log dump shows it"
		case record.GetKind() == smr.KindEpochStart.String():
			config, _, err := smr.DecodeConfig(record.GetBody())
			if err != nil {
				return nil, err
			}
			line.Text = config.Describe()
		case said != nil:
			line.Text, line.Requests = said.GetRest(), append(line.Requests, said.GetRequests()...)
		case request.GetBodies() && record.GetKind() == smr.KindRequests.String():
			line.Text = "more than fits on a page: smrctl log dump shows it"
		}
		view.Records = append(view.Records, line)
	}
	return view, nil
}

// describe has a KV node of the group write down what the frames of a page carry, and says why where that does not work.
func (s *Server) describe(ctx context.Context, group *proto.GroupStatus, records []*proto.Record) map[uint64]*proto.RequestTexts {
	request := &proto.DescribeRequest{}
	var lsns []uint64
	for _, record := range records {
		if record.GetKind() == smr.KindRequests.String() && len(record.GetBody()) > 0 {
			request.Batches = append(request.Batches, &proto.RequestBatch{Body: record.GetBody(), Count: record.GetCount()})
			lsns = append(lsns, record.GetLsn())
		}
	}
	texts := make(map[uint64]*proto.RequestTexts)
	if len(lsns) == 0 {
		return texts
	}
	problem := "no KV node with a management port (--admin) is up that could read it"
	for _, r := range group.GetReplicas() {
		addr := r.GetState().GetKvAdminAddr()
		if !r.GetUp() || !r.GetState().GetAttached() || addr == "" {
			continue
		}
		request.Target = &proto.Target{Cluster: s.config.Cluster, Group: group.GetName(), Node: r.GetNode()}
		reply, err := askNode(ctx, s, addr, r.GetNode(), func(ctx context.Context, node proto.KVNodeClient) (*proto.DescribeReply, error) {
			return node.Describe(ctx, request)
		})
		if err == nil && len(reply.GetBatches()) == len(lsns) {
			for i, lsn := range lsns {
				texts[lsn] = reply.GetBatches()[i]
			}
			return texts
		}
		problem = r.GetNode() + ": " + status.Convert(err).Message()
	}
	for _, lsn := range lsns {
		texts[lsn] = &proto.RequestTexts{Rest: problem}
	}
	return texts
}

// askNode puts one question to a KV node, on behalf of the caller in ctx.
func askNode[R any](ctx context.Context, s *Server, addr, node string, ask func(context.Context, proto.KVNodeClient) (R, error)) (answer R, err error) {
	conn, err := s.config.Dial(addr, trust.Wanted{Role: trust.KVNode, Name: node})
	if err != nil {
		return answer, err
	}
	ctx, cancel := context.WithTimeout(trust.PassOn(ctx), nodePatience)
	defer cancel()
	return ask(ctx, proto.NewKVNodeClient(conn))
}
