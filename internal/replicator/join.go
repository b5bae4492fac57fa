package replicator

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/level"
	"lockstep/internal/locate"
	"lockstep/internal/trust"
	"lockstep/proto"
)

const (
	// joinPatience bounds one attempt to register with one configuration master, joinPause is the time between two rounds.
	joinPatience = 10 * time.Second
	joinPause    = time.Second
)

// joinGroup announces this replica to the configuration masters until it is registered: then they tell it what to do.
// It goes on trying while none of them can be reached, the group is not there yet, or another change of it is running. It
// returns an error, which ends the process, only if its name or its addresses are another replica's, or if this program cannot the
// cluster's feature level.
func (n *node) joinGroup(ctx context.Context, manageAddr string) error {
	request := &proto.JoinRequest{
		Cluster: n.cfg.Cluster, Group: n.cfg.Group, Incarnation: uint64(n.home.incarnation), HighestLevel: uint32(n.levels.highest),
		Replica: &proto.ReplicaSpec{Node: n.cfg.Node, ManageAddr: manageAddr, DataAddr: n.announce},
	}
	told := ""
	for {
		addrs, err := locate.Addresses(ctx, nil, n.cfg.Join) // an SRV record may have changed
		if err != nil && ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			n.cfg.Logger.Warn("not joined yet", "group", n.cfg.Group, "node", n.cfg.Node, "reason", told)
		}
		for _, addr := range addrs {
			text, err := n.joinAt(ctx, addr, request)
			switch {
			case ctx.Err() != nil:
				return nil
			case err == nil:
				n.cfg.Logger.Info("joined", "group", n.cfg.Group, "node", n.cfg.Node, "confmaster", addr, "text", text)
				return nil
			case status.Code(err) == codes.OutOfRange:
				return fmt.Errorf("join group %s at configuration master %s: %w: %s", n.cfg.Group, addr, level.ErrTooLow, status.Convert(err).Message())
			case status.Code(err) == codes.AlreadyExists || status.Code(err) == codes.PermissionDenied:
				return fmt.Errorf("join group %s at configuration master %s: %s", n.cfg.Group, addr, status.Convert(err).Message())
			}
			if text := status.Convert(err).Message(); text != told {
				told = text
				n.cfg.Logger.Warn("not joined yet", "group", n.cfg.Group, "node", n.cfg.Node, "confmaster", addr, "reason", text)
			}
		}
		timer := time.NewTimer(joinPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// joinAt asks one configuration master, which passes it on to their leader.
func (n *node) joinAt(ctx context.Context, addr string, request *proto.JoinRequest) (string, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(n.cfg.Keeper.Credentials(trust.Wanted{Role: trust.Confmaster})))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	reply, err := proto.NewConfmasterClient(conn).Join(ctx, request)
	return reply.GetText(), err
}
