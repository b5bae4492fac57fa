package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/status"

	"lockstep/internal/admin"
	courier "lockstep/internal/transfer"
	"lockstep/internal/trust"
	"lockstep/proto"
	"lockstep/smr"
)

// kvNodes are the KV nodes of a group that can be asked for images: slaves first.
type kvNodes struct {
	cluster, group string
	login          admin.Login
	peers          []courier.Peer
	kvAddrs        []string // where their Redis clients connect
}

// findNodes asks the configuration masters for the KV nodes of a group (the only one if name is empty). node, unless it is
// empty, is the only one that is wanted.
func findNodes(ctx context.Context, at *where, args []string, node string) (*kvNodes, error) {
	client, cluster, name, err := at.dialGroup(ctx, args)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	reply, err := client.Status(ctx)
	if err != nil {
		return nil, explainSilence(err, cluster)
	}
	found := &kvNodes{group: name, login: client.Login}
	for _, group := range reply.GetGroups() {
		if group.GetName() != name {
			continue
		}
		replicas := slices.Clone(group.GetReplicas())
		slices.SortStableFunc(replicas, func(a, b *proto.ReplicaStatus) int {
			return cmp.Compare(rank(a), rank(b))
		})
		for _, r := range replicas {
			state := r.GetState()
			if node != "" && r.GetNode() != node || !r.GetUp() || state.GetKvAdminAddr() == "" {
				continue
			}
			found.cluster = state.GetCluster()
			found.peers = append(found.peers, courier.Peer{Node: smr.NodeID(r.GetNode()), Address: state.GetKvAdminAddr()})
			found.kvAddrs = append(found.kvAddrs, state.GetKvAddr())
		}
	}
	switch {
	case len(found.peers) > 0:
		return found, nil
	case node != "":
		return nil, fmt.Errorf("group %s: no KV node with a management port (--admin) is up beside %q: `smrctl status` shows what is there", name, node)
	}
	return nil, fmt.Errorf("group %s: no KV node with a management port (--admin) is up: `smrctl status` shows what is there", name)
}

// rank puts those that are no masters first: what an image costs is to be taken from them.
func rank(r *proto.ReplicaStatus) int {
	if r.GetState().GetRole() == "master" {
		return 1
	}
	return 0
}

// checkpointPatience bounds how long a node may take for an image.
const checkpointPatience = time.Hour

// checkpoint makes a node take an image and returns it.
func checkpointOf(ctx context.Context, nodes *kvNodes, peer courier.Peer) (*proto.Image, error) {
	conn, err := nodeConn(nodes.login, peer.Address, trust.KVNode, string(peer.Node))
	if err != nil {
		return nil, fmt.Errorf("node %s at %s: %w", peer.Node, peer.Address, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, checkpointPatience)
	defer cancel()
	reply, err := proto.NewKVNodeClient(conn).Checkpoint(ctx, &proto.CheckpointRequest{
		Target: &proto.Target{Cluster: nodes.cluster, Group: nodes.group, Node: string(peer.Node)},
	})
	if err != nil {
		return nil, fmt.Errorf("node %s at %s: %s", peer.Node, peer.Address, status.Convert(err).Message())
	}
	return reply.GetImage(), nil
}

// freshImage makes one of the nodes take an image and fetches it below dir. It returns the image's directory, and
// the node.
func freshImage(ctx context.Context, s *screen, nodes *kvNodes, dir string, rate int64) (image, node string, err error) {
	var problems []error
	for _, peer := range nodes.peers {
		image, err := checkpointOf(ctx, nodes, peer)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		meter := courier.NewMeter()
		stop := showTransfer(ctx, s, meter)
		manifest, err := courier.Fetch(ctx, []courier.Peer{peer}, courier.Options{
			Cluster: nodes.cluster, Group: nodes.group, Node: "smrctl", Images: dir + "/images", Incoming: dir + "/incoming",
			AtLeast: smr.LSN(image.GetLsn()), BytesPerSecond: rate, Rounds: 3, Meter: meter, Keeper: nodes.login.Keeper,
		})
		stop()
		if err == nil {
			return imageDir(dir+"/images", manifest.LSN), string(peer.Node), nil
		}
		problems = append(problems, err)
	}
	return "", "", errors.Join(problems...)
}

// showTransfer shows how far a transfer is until stop is called.
func showTransfer(ctx context.Context, s *screen, meter *courier.Meter) (stop func()) {
	shown := s.bytesDone()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(shown.every())
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if p := meter.Progress(); p.Busy {
					shown.tell(fmt.Sprintf("fetching the image from %s", p.Peer), p.Done, p.Total)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
		shown.end()
	}
}
