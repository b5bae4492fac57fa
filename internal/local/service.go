package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/resp"

	"lockstep/internal/admin"
	"lockstep/proto"
)

// awaitService registers the group if it is new, and returns when it serves on every KV node.
func (c *Cluster) awaitService(ctx context.Context) error {
	client, err := c.Admin()
	if err != nil {
		return err
	}
	defer client.Close()
	if err := c.register(ctx, client); err != nil {
		return err
	}
	return c.AwaitHealthy(ctx, client)
}

// register creates the group, again and again until a configuration master has taken it.
func (c *Cluster) register(ctx context.Context, client *admin.Client) error {
	request := &proto.CreateGroupRequest{
		Name: c.Plan.Group, Copies: uint32(c.Plan.Copies), MinCopies: uint32(c.Plan.MinCopies), Sync: c.Plan.Sync,
	}
	for _, r := range c.Plan.Replicas {
		request.Replicas = append(request.Replicas, &proto.ReplicaSpec{
			Node: r.Node, ManageAddr: r.ManageAddr, DataAddr: r.DataAddr, KvAddr: r.KVAddr,
		})
	}
	return c.poll(ctx, func() error {
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		if !status.GetHasLeader() {
			return errors.New("the configuration masters have not elected a leader")
		}
		for _, group := range status.GetGroups() {
			if group.GetName() == c.Plan.Group {
				return nil
			}
		}
		_, err = client.CreateGroup(ctx, request)
		return err
	})
}

// AwaitHealthy returns when the group has all its replicas and every KV node answers a linearizable read.
func (c *Cluster) AwaitHealthy(ctx context.Context, client *admin.Client) error {
	return c.poll(ctx, func() error {
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		if err := c.healthy(status); err != nil {
			return err
		}
		for _, r := range c.Plan.Replicas {
			if err := askKV(ctx, client.Login, r.KVAddr); err != nil {
				return fmt.Errorf("KV node of %s at %s: %w", r.Node, r.KVAddr, err)
			}
		}
		return nil
	})
}

// healthy reports what is still missing in the configuration masters' eyes.
func (c *Cluster) healthy(status *proto.ClusterStatus) error {
	for _, group := range status.GetGroups() {
		if group.GetName() != c.Plan.Group {
			continue
		}
		for _, replica := range group.GetReplicas() {
			state := replica.GetState()
			switch {
			case !replica.GetUp():
				return fmt.Errorf("replicator of %s is not up", replica.GetNode())
			case !state.GetAttached():
				return fmt.Errorf("replica %s has no KV node attached", replica.GetNode())
			case !replica.GetMember() && replica.GetStanding() == "":
				return fmt.Errorf("replica %s is not a member yet", replica.GetNode())
			}
		}
		if group.GetState() != "ok" {
			return fmt.Errorf("group %s is %s: %s", group.GetName(), group.GetState(), group.GetDetail())
		}
		return nil
	}
	return fmt.Errorf("the configuration masters do not know group %s", c.Plan.Group)
}

// poll calls attempt until it succeeds or ctx ends; then the error says what was missing last.
func (c *Cluster) poll(ctx context.Context, attempt func() error) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	shown, last := "", time.Now()
	for {
		err := attempt()
		if err == nil {
			return nil
		}
		if text := err.Error(); text != shown && time.Since(last) > 2*time.Second {
			c.Progress("waiting: " + text)
			shown, last = text, time.Now()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the group does not serve yet: %w\n  logs are in %s", err, c.Dir+"/logs")
		case <-ticker.C:
		}
	}
}

// askKV sends PING and a read, which is linearizable and therefore needs the master; neither writes anything. A node that wants
// a password serves those who have it.
func askKV(ctx context.Context, login admin.Login, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := login.DialRedis(ctx, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	requests := []resp.Value{resp.MultiBulkValue("PING"), resp.MultiBulkValue("EXISTS", "lockstep")}
	for _, request := range requests {
		content, err := request.MarshalRESP()
		if err != nil {
			return err
		}
		if _, err := conn.Write(content); err != nil {
			return err
		}
	}
	reader := resp.NewReader(bufio.NewReader(conn))
	for range requests {
		reply, _, err := reader.ReadValue()
		if err != nil {
			return err
		}
		if text := strings.TrimSpace(reply.String()); reply.Type() == resp.Error && strings.HasPrefix(text, "NOAUTH") {
			return nil
		} else if reply.Type() == resp.Error {
			return errors.New(text)
		}
	}
	return nil
}
